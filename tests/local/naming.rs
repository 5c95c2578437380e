//! Federated DNS, asked with dig.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::demo::{Demo, eventually, output_of};
use super::tools::have;

pub(crate) fn dig(dns: SocketAddr, arguments: &[&str]) -> String {
    let server = format!("@{}", dns.ip());
    let port = dns.port().to_string();
    let all: Vec<&str> = [server.as_str(), "-p", &port, "+tries=1", "+time=2"]
        .into_iter()
        .chain(arguments.iter().copied())
        .collect();
    output_of("dig", &all)
}

#[test]
fn every_name_is_answered_over_udp_and_tcp() {
    if !have("dig", "every_name_is_answered_over_udp_and_tcp") {
        return;
    }
    let demo = Demo::start();
    let dns = demo.cluster("us-east").dns;
    for name in [
        "orders.shop.svc.clusterset.local",
        "orders.shop.global",
        "orders.shop.eu-west.global",
        "ORDERS.Shop.Global",
    ] {
        for transport in ["+notcp", "+tcp"] {
            let a = dig(dns, &[transport, "+short", name, "A"]);
            assert!(a.starts_with("240.241."), "{name} {transport}: {a:?}");
        }
        let aaaa = dig(dns, &["+short", name, "AAAA"]);
        assert!(aaaa.starts_with("fd"), "{name}: {aaaa:?}");
    }
    let srv = dig(
        dns,
        &[
            "+short",
            "_grpc._tcp.payments.shop.svc.clusterset.local",
            "SRV",
        ],
    );
    assert!(
        srv.contains("9090 payments.shop.svc.clusterset.local."),
        "{srv:?}"
    );
    let version = dig(dns, &["+short", "dns-version.clusterset.local", "TXT"]);
    assert!(version.contains("1.0.0"), "{version:?}");

    let hidden = dig(dns, &["inventory.shop.svc.clusterset.local", "A"]);
    assert!(
        hidden.contains("NXDOMAIN") && hidden.contains("SOA"),
        "{hidden}"
    );
}

#[test]
fn an_export_and_its_end_are_seen_in_the_next_cluster_at_once() {
    if !have(
        "dig",
        "an_export_and_its_end_are_seen_in_the_next_cluster_at_once",
    ) {
        return;
    }
    let demo = Demo::start();
    let dns = demo.cluster("us-east").dns;
    let resolves = || dig(dns, &["+short", "inventory.shop.global"]).starts_with("240.241.");
    assert!(!resolves());
    let export = "apiVersion: multicluster.x-k8s.io/v1beta1\nkind: ServiceExport\nmetadata: {name: inventory, namespace: shop}\n";
    for round in 1..=3 {
        let begin = Instant::now();
        demo.apply("eu-west", export).ok();
        eventually("the export resolves in us-east", resolves);
        let exported = begin.elapsed();
        let begin = Instant::now();
        demo.portolan("eu-west", &["delete", "export", "inventory", "-n", "shop"])
            .ok();
        eventually("the name is gone in us-east", || !resolves());
        println!(
            "round {round}: from `apply` to the peer's answer {exported:?}, from `delete` to NXDOMAIN {:?} (each with a CLI call and dig)",
            begin.elapsed()
        );
        assert!(exported < Duration::from_secs(10));
    }
}
