//! A workload, its snapshot, and identities for the tests.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use portolan_model::cluster::ClusterIdentity;
use portolan_model::declared::ExportTo;
use portolan_model::snapshot::{Inbound, InboundPort, LinkState, Mesh, Peer, Snapshot};
use portolan_model::{ClusterName, Protocol, SpiffeId, WorkloadKey};
use portolan_transport::mtls::TlsContext;
use portolan_trust::{CertificateAuthority, Identity, KeyRequest, RootAuthority, TrustBundle};

use crate::sessions::Facts;

pub(super) const OWN: &str = "spiffe://us-east.demo/ns/shop/sa/orders";
pub(super) const NEIGHBOUR: &str = "spiffe://us-east.demo/ns/shop/sa/frontend";
pub(super) const PEER: &str = "spiffe://eu-west.demo/ns/shop/sa/frontend";
pub(super) const STRANGER: &str = "spiffe://elsewhere.demo/ns/shop/sa/frontend";

/// Ports of the service `shop/orders`, by protocol.
pub(super) const HTTP: u16 = 80;
pub(super) const GRPC: u16 = 8_100;
pub(super) const TCP: u16 = 9_000;

const DAY: Duration = Duration::from_secs(86_400);

pub(super) fn cluster() -> ClusterName {
    "us-east".parse().unwrap()
}

pub(super) fn workload() -> WorkloadKey {
    "shop/orders-1".parse().unwrap()
}

pub(super) fn id(text: &str) -> SpiffeId {
    text.parse().unwrap()
}

pub(super) fn facts(caller: &str) -> Facts {
    Facts {
        caller: id(caller),
        chain: vec![],
        service: "shop/orders".parse().unwrap(),
        port: HTTP,
        tunnel: None,
    }
}

pub(super) fn sni(port: u16) -> String {
    format!("p{port}.orders.shop.us-east.portolan.internal")
}

/// The workload serves `shop/orders` on every port with the app's one port, exported to everybody.
pub(super) fn snapshot(app_port: u16) -> Snapshot {
    exported(app_port, ExportTo::Everyone)
}

pub(super) fn exported(app_port: u16, exported: ExportTo) -> Snapshot {
    let port = |(port, protocol)| InboundPort {
        service: "shop/orders".parse().unwrap(),
        port,
        app_port,
        protocol,
        exported: exported.clone(),
    };
    let ports = [
        (HTTP, Protocol::Http),
        (GRPC, Protocol::Grpc),
        (TCP, Protocol::Tcp),
    ];
    let inbound = Inbound {
        workload: workload(),
        ports: ports.map(port).to_vec(),
        rules: BTreeMap::new(),
    };
    Snapshot {
        generation: 1,
        mesh: Some(Arc::new(mesh())),
        inbound: BTreeMap::from([(workload(), Arc::new(inbound))]),
        ..Snapshot::default()
    }
}

fn mesh() -> Mesh {
    Mesh {
        cluster: ClusterIdentity {
            name: cluster(),
            set: "demo".parse().unwrap(),
            region: "us".parse().unwrap(),
            zones: vec![],
            trust_domain: "us-east.demo".parse().unwrap(),
        },
        gateways: vec![],
        control: vec![],
        peers: vec![Peer {
            name: "eu-west".parse().unwrap(),
            trust_domain: "eu-west.demo".parse().unwrap(),
            region: "eu".parse().unwrap(),
            gateways: vec![],
            link: LinkState::Unknown,
        }],
    }
}

/// A root, under which every trust domain gets its authority.
pub(super) struct World(RootAuthority);

impl World {
    pub(super) fn new() -> Self {
        Self(RootAuthority::create(&"demo".parse().unwrap(), 10 * DAY, now_s()).unwrap())
    }

    pub(super) fn bundle(&self) -> TrustBundle {
        TrustBundle::from_pem(&self.0.cert_pem()).unwrap()
    }

    pub(super) fn root_der(&self) -> Vec<u8> {
        self.0.cert_der().to_vec()
    }

    /// What a process with this identity presents and trusts.
    pub(super) fn context(&self, identity: &str) -> TlsContext {
        TlsContext::new(Some(self.identity(&id(identity))), self.bundle()).unwrap()
    }

    fn identity(&self, id: &SpiffeId) -> Identity {
        let pair = self
            .0
            .sign_intermediate(id.trust_domain(), now_s())
            .unwrap();
        let authority = CertificateAuthority::from_pem(&pair.cert_pem, &pair.key_pem).unwrap();
        let request = KeyRequest::new().unwrap();
        let chain = authority.issue(&request.csr_der, id, DAY, now_s()).unwrap();
        request.into_identity(chain).unwrap()
    }
}

fn now_s() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap().as_secs()
}
