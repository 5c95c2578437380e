use std::sync::Arc;

use portolan_model::cluster::ClusterIdentity;
use portolan_model::declared::{ExportTo, WorkloadSpec};
use portolan_model::problem::{Position, Problem, Severity};
use portolan_model::service::{Port, Protocol, ServiceKind, SessionAffinity};
use portolan_model::sharing::{CatalogueEntry, ENTRY_PORTS_MAX, LocalityHealth};
use portolan_model::snapshot::{
    Gateway, Inbound, InboundPort, LinkState, LocalBackend, Mesh, Peer, RemoteBackend, Service,
    Trust, Vips,
};
use portolan_model::{Endpoint, Locality};
use proptest::prelude::*;

use super::{Invalid, Registration};
use crate::resource::{DecodeCause, ResourceBody};
use crate::{SERVICE, admin, peering, presence, resources};

fn mesh() -> Mesh {
    let peer = |name: &str, link| Peer {
        name: name.parse().unwrap(),
        trust_domain: format!("{name}.set").parse().unwrap(),
        region: "us".parse().unwrap(),
        gateways: vec![
            "192.0.2.1:4433".parse().unwrap(),
            "[2001:db8::1]:1".parse().unwrap(),
        ],
        link,
    };
    Mesh {
        cluster: ClusterIdentity {
            name: "us-east".parse().unwrap(),
            set: "example.set".parse().unwrap(),
            region: "us".parse().unwrap(),
            zones: vec!["a".parse().unwrap()],
            trust_domain: "us-east.set".parse().unwrap(),
        },
        gateways: vec![Gateway {
            name: "gw-0".to_owned(),
            tcp: "127.0.0.1:1".parse().unwrap(),
            quic: "127.0.0.1:2".parse().unwrap(),
        }],
        control: vec!["127.0.0.1:3".parse().unwrap()],
        peers: vec![
            peer("eu-west", LinkState::Up { rtt_us: 42 }),
            peer("us-west", LinkState::Down),
            peer("ap-south", LinkState::Unknown),
        ],
    }
}

fn ports() -> Vec<Port> {
    let protocols = [
        Protocol::Http,
        Protocol::Http2,
        Protocol::Grpc,
        Protocol::Tcp,
        Protocol::Tls,
        Protocol::Udp,
    ];
    let port = |(at, protocol)| Port {
        name: (at != 0).then(|| format!("p{at}").parse().unwrap()),
        number: 80 + u16::try_from(at).unwrap(),
        protocol,
    };
    protocols.into_iter().enumerate().map(port).collect()
}

fn place() -> Locality {
    Locality {
        region: "us".parse().unwrap(),
        zone: Some("a".parse().unwrap()),
    }
}

fn health() -> LocalityHealth {
    LocalityHealth {
        locality: place(),
        ready: 1,
        total: 2,
    }
}

fn service() -> Service {
    let endpoint = Endpoint {
        workload: "shop/orders-1".parse().unwrap(),
        address: "127.0.0.7".parse().unwrap(),
        inbound: "127.0.0.7:15008".parse().unwrap(),
        identity: "spiffe://us-east.set/ns/shop/sa/orders".parse().unwrap(),
        locality: place(),
        weight: 100,
        ready: true,
        hostname: Some("orders-1".parse().unwrap()),
        ports: [(80, 8080)].into(),
    };
    Service {
        key: "shop/orders".parse().unwrap(),
        kind: ServiceKind::Headless,
        ports: ports(),
        vips: Vips {
            local: vec!["10.0.0.1".parse().unwrap()],
            set: vec!["240.241.0.1".parse().unwrap(), "fd24::1".parse().unwrap()],
            pinned: [(
                "eu-west".parse().unwrap(),
                vec!["240.241.0.2".parse().unwrap()],
            )]
            .into(),
        },
        imported: true,
        local: Some(LocalBackend {
            ports: ports(),
            endpoints: vec![endpoint],
            exported: ExportTo::Peers(["eu-west".parse().unwrap()].into()),
        }),
        remote: vec![RemoteBackend {
            cluster: "eu-west".parse().unwrap(),
            region: "eu".parse().unwrap(),
            ports: ports(),
            localities: vec![health()],
            identities: vec!["spiffe://eu-west.set/ns/shop/sa/orders".parse().unwrap()],
            hosts: vec!["orders-9".parse().unwrap()],
        }],
        traffic: portolan_model::traffic::Traffic::default(),
    }
}

fn inbound() -> Inbound {
    let port = |exported| InboundPort {
        service: "shop/orders".parse().unwrap(),
        port: 80,
        app_port: 8080,
        protocol: Protocol::Grpc,
        exported,
    };
    Inbound {
        workload: "shop/orders-1".parse().unwrap(),
        ports: vec![port(ExportTo::Nobody), port(ExportTo::Everyone)],
        rules: std::collections::BTreeMap::new(),
    }
}

fn entry() -> CatalogueEntry {
    CatalogueEntry {
        key: "shop/orders".parse().unwrap(),
        kind: ServiceKind::Virtual,
        ports: ports(),
        localities: vec![health()],
        identities: vec!["spiffe://eu-west.set/ns/shop/sa/orders".parse().unwrap()],
        exported_ms: 1_700_000_000_000,
        hosts: vec!["orders-9".parse().unwrap()],
        affinity: SessionAffinity::ClientIp {
            timeout_seconds: 600,
        },
    }
}

fn bodies() -> Vec<ResourceBody> {
    vec![
        ResourceBody::Mesh(Arc::new(mesh())),
        ResourceBody::Trust(Arc::new(Trust {
            roots: vec![vec![48, 3], vec![1]],
        })),
        ResourceBody::Service(Arc::new(service())),
        ResourceBody::Inbound(Arc::new(inbound())),
    ]
}

fn wrong_service(change: impl FnOnce(&mut resources::Service)) -> Invalid {
    let mut message = resources::Service::from(&service());
    change(&mut message);
    Service::try_from(message).unwrap_err()
}

#[test]
fn resources_round_trip_with_stable_versions() {
    for body in bodies() {
        let encoded = body.encode();
        let decoded = ResourceBody::decode(encoded.type_url, &encoded.name, &encoded.value);
        assert_eq!(decoded.as_ref(), Ok(&body));
        assert_eq!(decoded.unwrap().encode(), encoded);
    }
    let mut other = service();
    other.imported = false;
    let version = |service: Service| ResourceBody::Service(Arc::new(service)).encode().version;
    assert_ne!(version(other), version(service()));
}

#[test]
fn a_resource_is_only_taken_under_its_own_name_and_type() {
    let encoded = bodies()[2].encode();
    let other_name = ResourceBody::decode(SERVICE, "shop/payments", &encoded.value).unwrap_err();
    assert_eq!(
        other_name.cause,
        DecodeCause::OtherName("shop/orders".to_owned())
    );
    let unknown = ResourceBody::decode("x", &encoded.name, &encoded.value).unwrap_err();
    assert_eq!(unknown.cause, DecodeCause::UnknownType);
    let junk = ResourceBody::decode(SERVICE, &encoded.name, &[0xff; 9]).unwrap_err();
    assert!(matches!(junk.cause, DecodeCause::Malformed(_)));
}

#[test]
fn errors_name_the_field() {
    let table: Vec<(Invalid, &str)> = vec![
        (wrong_service(|s| s.name = "Orders".to_owned()), "name"),
        (wrong_service(|s| s.kind = 9), "kind"),
        (
            wrong_service(|s| s.ports[3].number = 65_536),
            "ports[3].number",
        ),
        (
            wrong_service(|s| s.ports[0].protocol = 0),
            "ports[0].protocol",
        ),
        (
            wrong_service(|s| s.vips.as_mut().unwrap().set[1] = "x".to_owned()),
            "vips.set[1]",
        ),
        (
            wrong_service(|s| {
                s.local.as_mut().unwrap().endpoints[0].inbound = "1.2.3.4".to_owned()
            }),
            "local.endpoints[0].inbound",
        ),
        (
            wrong_service(|s| s.local.as_mut().unwrap().endpoints[0].locality = None),
            "local.endpoints[0].locality",
        ),
        (
            wrong_service(|s| s.remote[0].localities[0].ready = 3),
            "remote[0].localities[0].ready",
        ),
        (
            wrong_service(|s| s.remote[0].identities[0] = "spiffe://".to_owned()),
            "remote[0].identities[0]",
        ),
    ];
    for (error, field) in table {
        assert_eq!(error.field, field, "{error}");
    }
}

#[test]
fn catalogue_entries_round_trip_within_their_bounds() {
    let message = peering::CatalogueEntry::from(&entry());
    assert_eq!(CatalogueEntry::try_from(message.clone()), Ok(entry()));

    let mut many = message.clone();
    many.ports = vec![many.ports[0].clone(); ENTRY_PORTS_MAX + 1];
    let error = CatalogueEntry::try_from(many).unwrap_err();
    assert!(error.to_string().contains("at most 100"), "{error}");

    let mut too_long = message.clone();
    too_long.client_ip_affinity_seconds = 86_401;
    assert_eq!(
        CatalogueEntry::try_from(too_long).unwrap_err().field,
        "client_ip_affinity_seconds"
    );
    let mut old = message.clone();
    old.client_ip_affinity_seconds = 0;
    let old = CatalogueEntry::try_from(old).unwrap();
    assert_eq!(old.affinity, SessionAffinity::None);

    let mut twice = message;
    twice.ports.push(twice.ports[0].clone());
    assert_eq!(
        CatalogueEntry::try_from(twice).unwrap_err().field,
        "ports[6].number"
    );
}

#[test]
fn registrations_and_problems_round_trip() {
    let registration = Registration {
        workload: "shop/orders-1".parse().unwrap(),
        labels: [("app".to_owned(), "orders".to_owned())].into(),
        spec: WorkloadSpec {
            address: "127.0.0.7".parse().unwrap(),
            ports: [("http".parse().unwrap(), 8080)].into(),
            service_account: "orders".parse().unwrap(),
            locality: Some(place()),
            weight: 100,
            inbound_port: 15_008,
            hostname: None,
            leased: true,
        },
    };
    let message = presence::WorkloadRegistration::from(&registration);
    assert_eq!(Registration::try_from(message.clone()), Ok(registration));
    let mut zone_only = message;
    zone_only.region.clear();
    assert_eq!(
        Registration::try_from(zone_only).unwrap_err().field,
        "region"
    );

    let problem = Problem {
        severity: Severity::Warning,
        resource: Some("Service shop/orders".to_owned()),
        position: Some(Position {
            file: "a.yaml".to_owned(),
            line: 3,
            column: 5,
        }),
        path: "spec.ports[0]".to_owned(),
        message: "m".to_owned(),
        remedy: "r".to_owned(),
    };
    assert_eq!(Problem::from(admin::Problem::from(&problem)), problem);
}

proptest! {
    /// Damaged messages either fail or become values that are whole again.
    #[test]
    fn hostile_bytes_never_panic(which in 0..4_usize, at in any::<prop::sample::Index>(), with in any::<u8>(), cut in any::<prop::sample::Index>()) {
        let encoded = bodies()[which].encode();
        let mut bytes = encoded.value.to_vec();
        let at = at.index(bytes.len());
        bytes[at] = with;
        for bytes in [&bytes[..], &bytes[..cut.index(bytes.len())]] {
            if let Ok(body) = ResourceBody::decode(encoded.type_url, &encoded.name, bytes) {
                let again = body.encode();
                prop_assert_eq!(ResourceBody::decode(again.type_url, &again.name, &again.value), Ok(body));
            }
        }
    }
}
