//! Clusters under one root, for tests.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use portolan_model::{ClusterIdentity, SpiffeId, TrustDomain};
use portolan_trust::{Identity, KeyRequest, RootAuthority, TrustBundle};
use tempfile::TempDir;

use crate::ca::{Ca, LEAF_TTL, now_s};
use crate::config::{CaConfig, ControlConfig, VipConfig};

/// A root, and a folder with the authorities of the clusters under it.
pub(crate) struct World {
    root: RootAuthority,
    folder: TempDir,
}

impl World {
    pub(crate) fn new() -> Self {
        let set = "mesh".parse().unwrap();
        let year = Duration::from_secs(365 * 86_400);
        Self {
            root: RootAuthority::create(&set, year, now_s()).unwrap(),
            folder: tempfile::tempdir().unwrap(),
        }
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn trust(&self) -> TrustBundle {
        TrustBundle::from_pem(&self.root.cert_pem()).unwrap()
    }

    /// The files of a cluster's authority, made at the first call.
    pub(crate) fn ca_files(&self, cluster: &str) -> CaConfig {
        let file = |name: &str| -> PathBuf { self.folder().join(format!("{cluster}-{name}")) };
        let files = CaConfig {
            certificate: file("ca.crt"),
            key: file("ca.key"),
            roots: file("roots.crt"),
        };
        if !files.certificate.exists() {
            let pair = self
                .root
                .sign_intermediate(&domain(cluster), now_s())
                .unwrap();
            std::fs::write(&files.certificate, pair.cert_pem).unwrap();
            std::fs::write(&files.key, pair.key_pem).unwrap();
            std::fs::write(&files.roots, self.root.cert_pem()).unwrap();
        }
        files
    }

    pub(crate) fn ca(&self, cluster: &str) -> (Arc<Ca>, Identity) {
        Ca::load(&self.ca_files(cluster), &cluster_identity(cluster)).unwrap()
    }

    /// Somebody's identity, issued by the cluster's authority.
    pub(crate) fn identity(&self, cluster: &str, path: &str) -> Identity {
        let id = format!("spiffe://{}{path}", domain(cluster));
        let id = SpiffeId::parse(&id).unwrap();
        let request = KeyRequest::new().unwrap();
        let (ca, _) = self.ca(cluster);
        let chain = ca.authority.issue(&request.csr_der, &id, LEAF_TTL, now_s());
        request.into_identity(chain.unwrap()).unwrap()
    }

    /// A configuration on free ports, with its data in a folder of the world.
    pub(crate) fn config(&self, cluster: &str) -> ControlConfig {
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let identity = cluster_identity(cluster);
        let data_dir = self.folder().join(cluster);
        std::fs::create_dir_all(&data_dir).unwrap();
        ControlConfig {
            cluster: identity.name,
            cluster_set: identity.set,
            region: identity.region,
            zones: Vec::new(),
            trust_domain: None,
            data_dir,
            registry: None,
            listen: any,
            advertise: None,
            admin: None,
            http: any,
            dns: None,
            ca: self.ca_files(cluster),
            sources: Vec::new(),
            vips: VipConfig::default(),
            local_identities: Vec::new(),
            log: portolan_runtime::LogConfig::default(),
        }
    }
}

fn domain(cluster: &str) -> TrustDomain {
    TrustDomain::parse(&format!("{cluster}.mesh")).unwrap()
}

pub(crate) fn cluster_identity(cluster: &str) -> ClusterIdentity {
    ClusterIdentity {
        name: cluster.parse().unwrap(),
        set: "mesh".parse().unwrap(),
        region: cluster.split('-').next().unwrap().parse().unwrap(),
        zones: Vec::new(),
        trust_domain: domain(cluster),
    }
}
