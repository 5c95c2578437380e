//! Identities and ClientHellos for tests.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use portolan_model::{ClusterSetName, SpiffeId, TrustDomain};
use portolan_trust::{CertificateAuthority, Identity, KeyRequest, RootAuthority, TrustBundle};
use rustls::ClientConnection;

use crate::mtls::{Expect, TlsContext};

const DAY: Duration = Duration::from_secs(86_400);

pub(crate) fn now_s() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs()
}

pub(crate) fn id(text: &str) -> SpiffeId {
    SpiffeId::parse(text).unwrap()
}

/// A root, under which every trust domain gets its authority.
pub(crate) struct World(RootAuthority);

impl World {
    pub(crate) fn new() -> Self {
        let set = ClusterSetName::parse("set").unwrap();
        Self(RootAuthority::create(&set, 10 * DAY, now_s()).unwrap())
    }

    pub(crate) fn bundle(&self) -> TrustBundle {
        TrustBundle::from_pem(&self.0.cert_pem()).unwrap()
    }

    pub(crate) fn identity(&self, text: &str) -> Identity {
        let id = id(text);
        self.identity_from(id.trust_domain(), &id, DAY)
    }

    pub(crate) fn identity_from(
        &self,
        domain: &TrustDomain,
        id: &SpiffeId,
        ttl: Duration,
    ) -> Identity {
        let pair = self.0.sign_intermediate(domain, now_s()).unwrap();
        let authority = CertificateAuthority::from_pem(&pair.cert_pem, &pair.key_pem).unwrap();
        let request = KeyRequest::new().unwrap();
        let chain = authority.issue(&request.csr_der, id, ttl, now_s()).unwrap();
        request.into_identity(chain).unwrap()
    }

    pub(crate) fn context(&self, text: &str) -> TlsContext {
        TlsContext::new(Some(self.identity(text)), self.bundle()).unwrap()
    }
}

/// What our own TLS sends first. An IP address is never sent as a name.
pub(crate) fn client_hello(name: &str) -> Vec<u8> {
    let context = TlsContext::new(None, TrustBundle::default()).unwrap();
    let config = context.client_config(Expect::Anybody, &[b"h2"], true);
    let name = name.to_owned().try_into().unwrap();
    let mut connection = ClientConnection::new(Arc::clone(&config), name).unwrap();
    let mut bytes = Vec::new();
    connection.write_tls(&mut bytes).unwrap();
    bytes
}
