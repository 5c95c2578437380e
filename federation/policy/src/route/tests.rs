//! Names, ports and addresses, and the routes that they lead to.

use super::*;
use crate::example;
use proptest::prelude::*;

fn scope_of(host: &str) -> Option<Option<Scope>> {
    parse_host(host).map(|found| found.ok().map(|(_, scope)| scope))
}

#[test]
fn names_mean_services_and_scopes() {
    let pinned = Scope::Pinned(example::cluster("eu-west"));
    let ours = [
        ("orders.shop.svc.cluster.local", Scope::Cluster),
        ("orders.shop.svc.clusterset.local", Scope::Set),
        ("Orders.SHOP.svc.ClusterSet.local.", Scope::Set),
        ("orders.shop.svc.clusterset.local.:8080", Scope::Set),
        ("orders.shop.global", Scope::Set),
        ("orders.shop.global:80", Scope::Set),
        ("orders.shop.eu-west.global", pinned),
    ];
    for (host, scope) in ours {
        let (key, found) = parse_host(host).expect(host).expect(host);
        assert_eq!((key, found), (example::orders(), scope), "{host}");
    }
}

#[test]
fn malformed_names_in_our_zones_are_refused_and_others_are_not_ours() {
    for bad in [
        "global",
        "svc.clusterset.local",
        "shop.global",
        ".global",
        "orders.shop.x.y.global",
        "a.orders.shop.svc.cluster.local",
        "or_ders.shop.global",
        "p80.orders.shop.eu-west.portolan.internal",
        "portolan.internal",
    ] {
        assert_eq!(scope_of(bad), Some(None), "{bad}");
    }
    for foreign in [
        "",
        ":80",
        "example.com",
        "orders.shop.svc.clusterset.local..",
        "notglobal",
        "orders.shop",
        "10.0.0.1:80",
        "[::1]:80",
        "::1",
        "x.pod.cluster.local",
        "orders.shop.global:http",
        "ordersé.shop.globalé",
    ] {
        assert_eq!(scope_of(foreign), None, "{foreign}");
    }
}

fn found(snapshot: &Snapshot, host: &str, port: Option<u16>) -> Result<u16, Refusal> {
    destination_by_host(snapshot, host, port)
        .expect(host)
        .map(|route| route.destination.port)
}

#[test]
fn a_port_comes_from_the_call_then_the_name_then_the_service() {
    let mut service = example::service(None, vec![example::remote("eu-west", 1, 1)]);
    service.ports = vec![
        example::port(53, Protocol::Udp),
        example::port(9_000, Protocol::Tcp),
        example::port(8_080, Protocol::Grpc),
        example::port(80, Protocol::Http),
    ];
    let host = "orders.shop.global";
    let snapshot = example::snapshot(service.clone());
    assert_eq!(found(&snapshot, host, Some(9_000)), Ok(9_000));
    assert_eq!(
        found(&snapshot, "orders.shop.global:8080", Some(9_000)),
        Ok(9_000)
    );
    assert_eq!(found(&snapshot, "orders.shop.global:8080", None), Ok(8_080));
    assert_eq!(found(&snapshot, host, None), Ok(80));
    assert!(found(&snapshot, host, Some(53)).is_err(), "UDP");
    let refusal = found(&snapshot, host, Some(81)).unwrap_err();
    assert_eq!(refusal.reason, Reason::NoRoute);
    assert!(refusal.detail.contains("9000/tcp"), "{refusal}");

    service.ports.pop();
    assert_eq!(
        found(&example::snapshot(service.clone()), host, None),
        Ok(8_080)
    );
    service.ports.pop();
    assert_eq!(
        found(&example::snapshot(service.clone()), host, None),
        Ok(9_000)
    );
    service.ports.pop();
    assert!(found(&example::snapshot(service), host, None).is_err());
}

#[test]
fn what_is_not_exported_looks_like_what_does_not_exist() {
    let mut service = example::service(Some(example::local(1, 1)), vec![]);
    service.imported = false;
    let snapshot = example::snapshot(service);
    let mut empty = snapshot.clone();
    empty.services.clear();
    for host in ["orders.shop.global", "orders.shop.us-east.global"] {
        let hidden = found(&snapshot, host, None).unwrap_err();
        assert_eq!(hidden, found(&empty, host, None).unwrap_err());
        assert_eq!(
            (hidden.reason, hidden.hop),
            (Reason::NoRoute, Hop::Outbound)
        );
    }
    assert_eq!(
        found(&snapshot, "orders.shop.svc.cluster.local", None),
        Ok(80)
    );
}

#[test]
fn a_pinned_name_exists_where_the_service_is_exported() {
    let pinned = |exported, cluster: &str| {
        let mut local = example::local(1, 1);
        local.exported = exported;
        let service = example::service(Some(local), vec![example::remote("eu-west", 0, 0)]);
        let host = format!("orders.shop.{cluster}.global");
        found(&example::snapshot(service), &host, None).is_ok()
    };
    assert!(pinned(ExportTo::Everyone, "us-east"));
    assert!(!pinned(ExportTo::Nobody, "us-east"));
    assert!(pinned(ExportTo::Nobody, "eu-west"));
    assert!(!pinned(ExportTo::Everyone, "us-west"));
}

#[test]
fn virtual_addresses_lead_to_the_same_routes() {
    let snapshot = example::snapshot(example::service(
        Some(example::local(1, 1)),
        vec![example::remote("eu-west", 1, 1)],
    ));
    let scope = |address: &str| {
        destination_by_address(&snapshot, address.parse().unwrap())
            .map(|found| found.map(|route| route.destination.scope))
    };
    let pinned = Scope::Pinned(example::cluster("eu-west"));
    assert_eq!(scope("10.1.0.1:80"), Some(Ok(Scope::Cluster)));
    assert_eq!(scope("240.241.0.1:80"), Some(Ok(Scope::Set)));
    assert_eq!(scope("[::ffff:240.241.0.2]:80"), Some(Ok(pinned)));
    assert_eq!(scope("10.0.0.1:80"), None);
    assert!(matches!(scope("240.241.0.1:81"), Some(Err(_))));
    // Nobody's: refused, never passed on to whatever answers there.
    assert!(matches!(scope("240.241.9.9:80"), Some(Err(_))));
    assert!(matches!(scope("[fd24:241::9]:80"), Some(Err(_))));
    assert_eq!(scope("255.255.255.255:80"), None);
}

#[test]
fn before_the_first_snapshot_nothing_is_ready() {
    let refusal = found(&Snapshot::default(), "orders.shop.global", None).unwrap_err();
    assert_eq!(refusal.reason, Reason::NotReady);
    assert!(destination_by_host(&Snapshot::default(), "example.com", None).is_none());
}

proptest! {
    #[test]
    fn reading_never_panics(host in "\\PC{0,60}(\\.global|\\.svc\\.clusterset\\.local)?(:[0-9]{0,6})?\\.?") {
        let _ = parse_host(&host);
    }

    #[test]
    fn case_dot_and_port_do_not_matter(
        service in "[a-z0-9]{1,10}", namespace in "[a-z0-9]{1,10}", port: u16,
    ) {
        let plain = format!("{service}.{namespace}.svc.clusterset.local");
        let dressed = format!("{}.:{port}", plain.to_ascii_uppercase());
        prop_assert_eq!(parse_host(&plain), parse_host(&dressed));
        prop_assert!(parse_host(&plain).unwrap().is_ok());
    }
}
