//! Clusters `a` and `b` under one root, for tests.

use std::time::Duration;

use portolan_model::{ClusterSetName, SpiffeId, TrustDomain};
use rustls_pki_types::UnixTime;

use crate::{
    CertificateAuthority, Identity, IntermediatePem, KeyRequest, RootAuthority, TrustBundle,
};

pub(crate) const NOW_S: u64 = 1_800_000_000;
pub(crate) const DAY_S: u64 = 86_400;

pub(crate) fn now() -> UnixTime {
    at(NOW_S)
}

pub(crate) fn at(seconds: u64) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(seconds))
}

pub(crate) fn domain(text: &str) -> TrustDomain {
    TrustDomain::parse(text).unwrap()
}

pub(crate) fn root(set: &str) -> RootAuthority {
    let set = ClusterSetName::parse(set).unwrap();
    RootAuthority::create(&set, Duration::from_secs(3650 * DAY_S), NOW_S).unwrap()
}

pub(crate) struct World {
    pub(crate) root: RootAuthority,
    pub(crate) a: IntermediatePem,
    pub(crate) b: IntermediatePem,
}

impl World {
    pub(crate) fn new() -> Self {
        let root = root("set");
        Self {
            a: root.sign_intermediate(&domain("a.set"), NOW_S).unwrap(),
            b: root.sign_intermediate(&domain("b.set"), NOW_S).unwrap(),
            root,
        }
    }

    pub(crate) fn bundle(&self) -> TrustBundle {
        TrustBundle::from_pem(&self.root.cert_pem()).unwrap()
    }

    pub(crate) fn pair(&self, cluster: &str) -> &IntermediatePem {
        match cluster {
            "a" => &self.a,
            "b" => &self.b,
            other => panic!("no cluster {other}"),
        }
    }

    pub(crate) fn authority(&self, cluster: &str) -> CertificateAuthority {
        let pair = self.pair(cluster);
        CertificateAuthority::from_pem(&pair.cert_pem, &pair.key_pem).unwrap()
    }

    pub(crate) fn identity(&self, cluster: &str, id: &str) -> Identity {
        let request = KeyRequest::new().unwrap();
        let id = SpiffeId::parse(id).unwrap();
        let ttl = Duration::from_secs(DAY_S);
        let chain = self
            .authority(cluster)
            .issue(&request.csr_der, &id, ttl, NOW_S);
        request.into_identity(chain.unwrap()).unwrap()
    }
}
