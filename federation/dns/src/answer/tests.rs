use std::sync::Arc;

use portolan_model::declared::ExportTo;
use portolan_model::sharing::LocalityHealth;
use portolan_model::snapshot::{LocalBackend, Peer, RemoteBackend, Service, Vips};
use portolan_model::{ClusterIdentity, Endpoint, Protocol, ServiceKind};

use super::*;

mod reference;

fn parsed<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
    text.parse().unwrap()
}

fn port(name: &str, number: u16, protocol: Protocol) -> Port {
    let name = (!name.is_empty()).then(|| parsed(name));
    Port {
        name,
        number,
        protocol,
    }
}

fn endpoint(name: &str, address: &str, hostname: Option<&str>, ready: bool) -> Endpoint {
    Endpoint {
        workload: parsed(&format!("shop/{name}")),
        address: parsed(address),
        inbound: parsed("127.0.0.1:1"),
        identity: parsed("spiffe://eu.acme/ns/shop/sa/x"),
        locality: portolan_model::Locality {
            region: parsed("r"),
            zone: None,
        },
        weight: 1,
        ready,
        hostname: hostname.map(parsed),
        ports: [].into(),
    }
}

fn remote(cluster: &str, ports: Vec<Port>, hosts: &[&str]) -> RemoteBackend {
    let locality = portolan_model::Locality {
        region: parsed("r"),
        zone: None,
    };
    RemoteBackend {
        cluster: parsed(cluster),
        region: parsed("r"),
        ports,
        localities: vec![LocalityHealth {
            locality,
            ready: 1,
            total: 1,
        }],
        identities: vec![],
        hosts: hosts.iter().map(|host| parsed(host)).collect(),
    }
}

fn mesh() -> Mesh {
    let peer = |name: &str| Peer {
        name: parsed(name),
        trust_domain: parsed(&format!("{name}.acme")),
        region: parsed("r"),
        gateways: vec![],
        link: Default::default(),
    };
    Mesh {
        cluster: ClusterIdentity {
            name: parsed("eu"),
            set: parsed("acme"),
            region: parsed("r"),
            zones: vec![],
            trust_domain: parsed("eu.acme"),
        },
        gateways: vec![],
        control: vec![],
        peers: vec![peer("us"), peer("ap")],
    }
}

fn assemble(services: Vec<Service>) -> Snapshot {
    let mut snapshot = Snapshot {
        generation: 42,
        mesh: Some(Arc::new(mesh())),
        ..Snapshot::default()
    };
    for service in services {
        snapshot
            .services
            .insert(service.key.clone(), Arc::new(service));
    }
    snapshot.index();
    snapshot
}

/// `shop/orders` here and in `us`; `shop/db` headless here and in `us`; `shop/own` here only, not
/// exported; `bank/far` in `us` only.
fn example() -> Snapshot {
    assemble(vec![orders(), db(), own(), far()])
}

fn orders() -> Service {
    let ports = || {
        vec![
            port("http", 80, Protocol::Http),
            port("tcp", 42, Protocol::Tcp),
            port("udp", 42, Protocol::Udp),
        ]
    };
    Service {
        key: parsed("shop/orders"),
        kind: ServiceKind::Virtual,
        ports: ports(),
        vips: Vips {
            local: vec![parsed("240.241.0.1")],
            set: vec![parsed("240.241.0.2"), parsed("fd24::2")],
            pinned: [
                (parsed("eu"), vec![parsed("240.241.0.3")]),
                (parsed("us"), vec![parsed("240.241.0.4")]),
            ]
            .into(),
        },
        imported: true,
        local: Some(LocalBackend {
            ports: ports(),
            endpoints: vec![],
            exported: ExportTo::Everyone,
        }),
        remote: vec![remote("us", vec![port("http", 80, Protocol::Http)], &[])],
        traffic: portolan_model::traffic::Traffic::default(),
    }
}

fn db() -> Service {
    Service {
        key: parsed("shop/db"),
        kind: ServiceKind::Headless,
        ports: vec![port("pg", 5432, Protocol::Tcp)],
        vips: Vips::default(),
        imported: true,
        local: Some(LocalBackend {
            ports: vec![port("pg", 5432, Protocol::Tcp)],
            endpoints: vec![
                endpoint("a", "10.0.0.1", Some("db-0"), true),
                endpoint("b", "fd00::1", Some("db-0"), true),
                endpoint("c", "10.0.0.3", None, true),
                endpoint("d", "10.0.0.4", Some("db-4"), false),
            ],
            exported: ExportTo::Everyone,
        }),
        remote: vec![remote(
            "us",
            vec![port("pg", 5432, Protocol::Tcp)],
            &["db-9"],
        )],
        traffic: portolan_model::traffic::Traffic::default(),
    }
}

fn own() -> Service {
    Service {
        key: parsed("shop/own"),
        kind: ServiceKind::Virtual,
        ports: vec![port("", 80, Protocol::Http)],
        vips: Vips {
            local: vec![parsed("10.96.0.7")],
            ..Vips::default()
        },
        imported: false,
        local: Some(LocalBackend {
            ports: vec![port("", 80, Protocol::Http)],
            endpoints: vec![],
            exported: ExportTo::Nobody,
        }),
        remote: vec![],
        traffic: portolan_model::traffic::Traffic::default(),
    }
}

fn far() -> Service {
    Service {
        key: parsed("bank/far"),
        kind: ServiceKind::Virtual,
        ports: vec![],
        vips: Vips {
            set: vec![parsed("240.241.0.9")],
            pinned: [(parsed("us"), vec![parsed("240.241.0.10")])].into(),
            ..Vips::default()
        },
        imported: true,
        local: None,
        remote: vec![remote("us", vec![], &[])],
        traffic: portolan_model::traffic::Traffic::default(),
    }
}

fn settings() -> ZoneSettings {
    let virtual_ips = ["240.241.0.0/16".parse().unwrap()];
    ZoneSettings::new("clusterset.local", &virtual_ips, 5).unwrap()
}

fn ask(snapshot: &Snapshot, name: &str, kind: RecordType) -> Answer {
    let name = Name::from_ascii(format!("{name}.")).unwrap();
    answer(snapshot, &settings(), &name, kind)
}

/// `NXDOMAIN`, `NODATA`, …, or the data of the answers in order.
fn told(snapshot: &Snapshot, name: &str, kind: RecordType) -> Vec<String> {
    match ask(snapshot, name, kind) {
        Answer::Records { answers, .. } => answers
            .iter()
            .map(|record| record.data.to_string())
            .collect(),
        Answer::NoData(_) => vec!["NODATA".to_owned()],
        Answer::NxDomain(_) => vec!["NXDOMAIN".to_owned()],
        Answer::NotOurs => vec!["NOTOURS".to_owned()],
        Answer::NotReady => vec!["NOTREADY".to_owned()],
    }
}

fn check(table: &[(&str, RecordType, &[&str])]) {
    let snapshot = example();
    for (name, kind, expected) in table {
        assert_eq!(told(&snapshot, name, *kind), *expected, "{name} {kind}");
    }
}

use RecordType::{A as Ip4, AAAA as Ip6, PTR as Ptr, SOA as Soa, SRV as Srv, TXT as Txt};

#[test]
fn virtual_services_have_their_virtual_addresses() {
    check(&[
        ("orders.shop.svc.clusterset.local", Ip4, &["240.241.0.2"]),
        ("orders.shop.svc.clusterset.local", Ip6, &["fd24::2"]),
        ("ORDERS.shop.SVC.clusterset.LOCAL", Ip4, &["240.241.0.2"]),
        ("orders.shop.global", Ip4, &["240.241.0.2"]),
        ("orders.shop.us.global", Ip4, &["240.241.0.4"]),
        ("orders.shop.us.global", Ip6, &["NODATA"]),
        ("orders.shop.ap.global", Ip4, &["NXDOMAIN"]),
        ("orders.shop.svc.cluster.local", Ip4, &["240.241.0.1"]),
        ("orders.shop.svc.cluster.local", Txt, &["NODATA"]),
    ]);
}

#[test]
fn what_is_not_exported_exists_in_its_cluster_only() {
    check(&[
        ("own.shop.svc.cluster.local", Ip4, &["10.96.0.7"]),
        ("own.shop.svc.clusterset.local", Ip4, &["NXDOMAIN"]),
        ("own.shop.global", Ip4, &["NXDOMAIN"]),
        ("own.shop.eu.global", Ip4, &["NXDOMAIN"]),
        ("far.bank.svc.cluster.local", Ip4, &["NXDOMAIN"]),
        ("far.bank.global", Ip4, &["240.241.0.9"]),
    ]);
}

#[test]
fn srv_answers_per_port_and_once_per_target_and_number() {
    let zone = "orders.shop.svc.clusterset.local";
    let all = [format!("0 50 42 {zone}."), format!("0 50 80 {zone}.")];
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    check(&[
        (zone, Srv, &all),
        (
            "_http._tcp.orders.shop.svc.clusterset.local",
            Srv,
            &[&format!("0 100 80 {zone}.")],
        ),
        (
            "_http._tcp.orders.shop.svc.clusterset.local",
            Ip4,
            &["NODATA"],
        ),
        (
            "_http._udp.orders.shop.svc.clusterset.local",
            Srv,
            &["NXDOMAIN"],
        ),
        (
            "_udp._udp.orders.shop.global",
            Srv,
            &["0 100 42 orders.shop.global."],
        ),
        ("_tcp.orders.shop.global", Srv, &["NODATA"]),
        (
            "_http._tcp.orders.shop.us.global",
            Srv,
            &["0 100 80 orders.shop.us.global."],
        ),
        ("_tcp._tcp.orders.shop.us.global", Srv, &["NXDOMAIN"]),
        (
            "own.shop.svc.cluster.local",
            Srv,
            &["0 100 80 own.shop.svc.cluster.local."],
        ),
        ("_tcp.own.shop.svc.cluster.local", Srv, &["NXDOMAIN"]),
        ("far.bank.global", Srv, &["NODATA"]),
    ]);
}

#[test]
fn srv_brings_the_targets_addresses_along() {
    let Answer::Records {
        additionals,
        answers,
    } = ask(&example(), "Orders.shop.global", Srv)
    else {
        panic!("no records");
    };
    let of = |record: &Record| format!("{} {}", record.name, record.data);
    let additionals: Vec<String> = additionals.iter().map(of).collect();
    assert_eq!(
        additionals,
        [
            "Orders.shop.global. 240.241.0.2",
            "Orders.shop.global. fd24::2"
        ]
    );
    assert!(
        answers
            .iter()
            .all(|record| record.name.to_ascii() == "Orders.shop.global." && record.ttl == 5)
    );
}

#[test]
fn headless_services_show_their_ready_hosts() {
    let zone = "db.shop.svc.clusterset.local";
    let srv = ["10-0-0-3.eu", "db-0.eu", "db-9.us"].map(|host| format!("0 33 5432 {host}.{zone}."));
    let srv: Vec<&str> = srv.iter().map(String::as_str).collect();
    let local =
        ["10-0-0-3", "db-0"].map(|host| format!("0 50 5432 {host}.db.shop.svc.cluster.local."));
    let local: Vec<&str> = local.iter().map(String::as_str).collect();
    check(&[
        (zone, Ip4, &["10.0.0.3", "10.0.0.1"]),
        (zone, Ip6, &["fd00::1"]),
        ("db.shop.global", Ip4, &["10.0.0.3", "10.0.0.1"]),
        ("db.shop.us.global", Ip4, &["NODATA"]),
        ("db.shop.eu.global", Ip4, &["10.0.0.3", "10.0.0.1"]),
        ("db.shop.ap.global", Ip4, &["NXDOMAIN"]),
        (zone, Srv, &srv),
        ("_pg._tcp.db.shop.global", Srv, &srv),
        ("db-0.eu.db.shop.svc.clusterset.local", Ip4, &["10.0.0.1"]),
        ("db-0.eu.db.shop.svc.clusterset.local", Ip6, &["fd00::1"]),
        (
            "10-0-0-3.eu.db.shop.svc.clusterset.local",
            Ip4,
            &["10.0.0.3"],
        ),
        ("db-9.us.db.shop.svc.clusterset.local", Ip4, &["NODATA"]),
        ("db-4.eu.db.shop.svc.clusterset.local", Ip4, &["NXDOMAIN"]),
        ("db.shop.svc.cluster.local", Srv, &local),
        ("db-0.db.shop.svc.cluster.local", Ip4, &["10.0.0.1"]),
    ]);
}

#[test]
fn what_others_export_changes_nothing_in_the_own_zone() {
    let turned = |mut service: Service, kind| {
        service.kind = kind;
        assemble(vec![service])
    };
    let snapshot = turned(orders(), ServiceKind::Headless);
    let name = "orders.shop.svc.cluster.local";
    assert_eq!(told(&snapshot, name, Ip4), ["240.241.0.1"]);
    let snapshot = turned(db(), ServiceKind::Virtual);
    let name = "db.shop.svc.cluster.local";
    assert_eq!(told(&snapshot, name, Ip4), ["10.0.0.3", "10.0.0.1"]);
}

#[test]
fn clusters_have_no_names_of_their_own_below_a_service() {
    check(&[
        ("eu.orders.shop.svc.clusterset.local", Ip4, &["NXDOMAIN"]),
        ("x.eu.orders.shop.svc.clusterset.local", Ip4, &["NXDOMAIN"]),
        // Names lie below, so this one exists, without any record.
        ("eu.db.shop.svc.clusterset.local", Ip4, &["NODATA"]),
        ("ap.db.shop.svc.clusterset.local", Ip4, &["NXDOMAIN"]),
    ]);
}

#[test]
fn a_headless_service_without_a_ready_host_does_not_exist() {
    let mut snapshot = example();
    let key: ServiceKey = parsed("shop/db");
    let mut db = Service::clone(&snapshot.services[&key]);
    db.remote.clear();
    for endpoint in db.local.iter_mut().flat_map(|local| &mut local.endpoints) {
        endpoint.ready = false;
    }
    snapshot.services.insert(key, Arc::new(db));
    for name in [
        "db.shop.svc.clusterset.local",
        "db.shop.svc.cluster.local",
        "db.shop.global",
    ] {
        assert_eq!(told(&snapshot, name, Ip4), ["NXDOMAIN"], "{name}");
    }
}

#[test]
fn names_above_others_exist_without_records() {
    check(&[
        ("svc.clusterset.local", Ip4, &["NODATA"]),
        ("shop.svc.clusterset.local", Ip4, &["NODATA"]),
        ("bank.svc.cluster.local", Ip4, &["NXDOMAIN"]),
        ("clusterset.local", Ip4, &["NODATA"]),
        ("shop.global", Ip4, &["NODATA"]),
        ("us.global", Ip4, &["NODATA"]),
        ("shop.us.global", Ip4, &["NODATA"]),
        ("ap.global", Ip4, &["NODATA"]),
        ("nowhere.global", Ip4, &["NXDOMAIN"]),
        ("shop.ap.global", Ip4, &["NXDOMAIN"]),
    ]);
}

#[test]
fn the_zones_describe_themselves() {
    check(&[
        ("dns-version.clusterset.local", Txt, &["1.0.0"]),
        ("dns-version.cluster.local", Txt, &["1.1.0"]),
        ("dns-version.clusterset.local", Ip4, &["NODATA"]),
        ("dns-version.global", Txt, &["NXDOMAIN"]),
        ("orders.shop.eu.portolan.internal", Ip4, &["NXDOMAIN"]),
        ("portolan.internal", Soa, &["NXDOMAIN"]),
        ("example.com", Ip4, &["NOTOURS"]),
    ]);
    let Answer::Records { answers, .. } = ask(&example(), "dns-version.clusterset.local", Txt)
    else {
        panic!("no version");
    };
    assert_eq!(answers[0].ttl, 28_800);
}

#[test]
fn negative_answers_say_how_long_they_hold() {
    for name in [
        "nobody.shop.svc.clusterset.local",
        "shop.svc.clusterset.local",
    ] {
        let (Answer::NxDomain(soa) | Answer::NoData(soa)) = ask(&example(), name, Ip4) else {
            panic!("{name}");
        };
        let RData::SOA(data) = &soa.data else {
            panic!("{name}");
        };
        assert_eq!(
            (soa.name.to_ascii().as_str(), soa.ttl),
            ("clusterset.local.", 5)
        );
        assert_eq!((data.minimum, data.serial), (5, 42));
    }
}

#[test]
fn virtual_addresses_have_reverse_names() {
    check(&[
        (
            "1.0.241.240.in-addr.arpa",
            Ptr,
            &["orders.shop.svc.cluster.local."],
        ),
        (
            "2.0.241.240.in-addr.arpa",
            Ptr,
            &["orders.shop.svc.clusterset.local."],
        ),
        ("4.0.241.240.in-addr.arpa", Ptr, &["orders.shop.us.global."]),
        (
            "7.0.96.10.in-addr.arpa",
            Ptr,
            &["own.shop.svc.cluster.local."],
        ),
        ("8.0.96.10.in-addr.arpa", Ptr, &["NOTOURS"]),
        ("99.0.241.240.in-addr.arpa", Ptr, &["NXDOMAIN"]),
        ("0.241.240.in-addr.arpa", Ptr, &["NOTOURS"]),
    ]);
}

#[test]
fn without_a_snapshot_our_zones_fail_and_others_do_not() {
    let empty = Snapshot::default();
    assert_eq!(ask(&empty, "orders.shop.global", Ip4), Answer::NotReady);
    assert_eq!(
        ask(&empty, "1.0.241.240.in-addr.arpa", Ptr),
        Answer::NotReady
    );
    assert_eq!(ask(&empty, "example.com", Ip4), Answer::NotOurs);
}
