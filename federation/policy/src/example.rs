//! A small mesh for the tests: us-east is the own cluster, us-west is near, eu-west and ap-south
//! are far.

use std::net::SocketAddr;
use std::sync::Arc;

use http::{HeaderMap, Method};
use portolan_model::cluster::ClusterIdentity;
use portolan_model::declared::ExportTo;
use portolan_model::route::{Backend, BackendRef, BackendTarget};
use portolan_model::sharing::LocalityHealth;
use portolan_model::snapshot::{
    LinkState, LocalBackend, Mesh, Peer, RemoteBackend, Scope, Service, Snapshot, Vips,
};
use portolan_model::{
    ClusterName, Endpoint, Locality, Port, Protocol, ServiceKey, ServiceKind, SpiffeId, WorkloadKey,
};

use crate::matching::Request;

pub(crate) const OWN: &str = "us-east";

pub(crate) fn cluster(name: &str) -> ClusterName {
    name.parse().unwrap()
}

pub(crate) fn orders() -> ServiceKey {
    "shop/orders".parse().unwrap()
}

pub(crate) fn spiffe(text: &str) -> SpiffeId {
    text.parse().unwrap()
}

pub(crate) fn workload(index: usize) -> WorkloadKey {
    format!("shop/orders-{index}").parse().unwrap()
}

pub(crate) fn port(number: u16, protocol: Protocol) -> Port {
    Port {
        name: None,
        number,
        protocol,
    }
}

pub(crate) fn up(rtt_ms: u32) -> LinkState {
    LinkState::Up {
        rtt_us: rtt_ms * 1_000,
    }
}

pub(crate) fn peer(name: &str, region: &str, link: LinkState) -> Peer {
    Peer {
        name: cluster(name),
        trust_domain: format!("{name}.demo").parse().unwrap(),
        region: region.parse().unwrap(),
        gateways: vec![],
        link,
    }
}

pub(crate) fn mesh() -> Mesh {
    Mesh {
        cluster: ClusterIdentity {
            name: cluster(OWN),
            set: "demo".parse().unwrap(),
            region: "us".parse().unwrap(),
            zones: vec![],
            trust_domain: "us-east.demo".parse().unwrap(),
        },
        gateways: vec![],
        control: vec![],
        peers: vec![
            peer("ap-south", "ap", LinkState::Unknown),
            peer("eu-west", "eu", up(80)),
            peer("us-west", "us", up(60)),
        ],
    }
}

/// Endpoint number `index`, ready or not, serving `ports`.
pub(crate) fn endpoint(index: usize, ready: bool, ports: &[u16]) -> Endpoint {
    Endpoint {
        workload: workload(index),
        address: "10.0.0.1".parse().unwrap(),
        inbound: SocketAddr::from(([10, 0, 0, 1], 15_008)),
        identity: spiffe("spiffe://us-east.demo/ns/shop/sa/orders"),
        locality: place("us"),
        weight: 100,
        ready,
        hostname: None,
        ports: ports.iter().map(|port| (*port, port + 8_000)).collect(),
    }
}

/// The own cluster's part: `ready` endpoints out of `total`, port 80.
pub(crate) fn local(ready: usize, total: usize) -> LocalBackend {
    LocalBackend {
        ports: vec![port(80, Protocol::Http)],
        endpoints: (0..total)
            .map(|index| endpoint(index, index < ready, &[80]))
            .collect(),
        exported: ExportTo::Everyone,
    }
}

/// A peer's part: `ready` endpoints out of `total`, port 80.
pub(crate) fn remote(name: &str, ready: u32, total: u32) -> RemoteBackend {
    let region = name.split('-').next().unwrap();
    RemoteBackend {
        cluster: cluster(name),
        region: region.parse().unwrap(),
        ports: vec![port(80, Protocol::Http)],
        localities: vec![LocalityHealth {
            locality: place(region),
            ready,
            total,
        }],
        identities: vec![],
        hosts: vec![],
    }
}

pub(crate) fn service(local: Option<LocalBackend>, remote: Vec<RemoteBackend>) -> Service {
    Service {
        key: orders(),
        kind: ServiceKind::Virtual,
        ports: vec![port(80, Protocol::Http)],
        vips: Vips {
            local: vec!["10.1.0.1".parse().unwrap()],
            set: vec!["240.241.0.1".parse().unwrap()],
            pinned: [(cluster("eu-west"), vec!["240.241.0.2".parse().unwrap()])].into(),
        },
        imported: true,
        local,
        remote,
        traffic: portolan_model::traffic::Traffic::default(),
    }
}

pub(crate) fn snapshot(service: Service) -> Snapshot {
    let mut snapshot = Snapshot {
        generation: 7,
        mesh: Some(Arc::new(mesh())),
        ..Snapshot::default()
    };
    snapshot
        .services
        .insert(service.key.clone(), Arc::new(service));
    snapshot.index();
    snapshot
}

fn place(region: &str) -> Locality {
    Locality {
        region: region.parse().unwrap(),
        zone: None,
    }
}

/// A `GET` of `/` with these headers.
pub(crate) fn request(headers: &HeaderMap) -> Request<'_> {
    Request {
        method: &Method::GET,
        path: "/",
        query: None,
        headers,
        host: "orders.shop.global",
        grpc: false,
    }
}

/// A rule's backend: port 80 of a service's face of the set.
pub(crate) fn backend(service: &str, weight: u32) -> Backend {
    Backend {
        to: BackendRef::Service(BackendTarget {
            service: service.parse().unwrap(),
            scope: Scope::Set,
            port: 80,
        }),
        weight,
        filters: vec![],
    }
}
