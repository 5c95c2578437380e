//! Calls between clusters that are 60 ms apart.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::able;
use super::mesh::Mesh;

#[test]
fn unmodified_curl_calls_by_name_across_sixty_milliseconds() {
    if !able("unmodified_curl_calls_by_name_across_sixty_milliseconds") {
        return;
    }
    let mesh = Mesh::start(1, "delay=30ms", None);
    mesh.capture("us-east/frontend");
    for host in ["payments.shop.svc.clusterset.local", "payments.shop.global"] {
        let url = format!("http://{host}/far");
        let curl = ["curl", "-s", "-m", "10", &url];
        let (success, body) = mesh.app("us-east/frontend", &curl);
        let answer: Value =
            serde_json::from_str(&body).unwrap_or_else(|_| panic!("{host}: {body:?}"));
        assert!(success && answer["cluster"] == "eu-west", "{host}: {body}");
        let caller = answer["headers"]["x-forwarded-client-cert"]
            .as_str()
            .unwrap_or_default();
        assert!(
            caller.contains("spiffe://us-east.demo/ns/shop/sa/frontend"),
            "{caller}"
        );
    }
    // A warm call costs the distance and little more; without a network between, it would cost nothing.
    let warm = (0..5).map(|_| {
        let begin = Instant::now();
        let answered = mesh.answer("us-east/frontend", "http://payments.shop.global/");
        assert_eq!(answered.as_deref(), Some("eu-west"));
        begin.elapsed()
    });
    let best = warm.min().unwrap();
    println!("a warm call over a 60 ms round trip: {best:?}, curl's start included");
    assert!(best >= Duration::from_millis(60), "{best:?}");
    assert!(
        best < Duration::from_millis(120),
        "one round trip, not two: {best:?}"
    );
}

#[test]
fn gateways_send_twice_while_packets_are_lost() {
    if !able("gateways_send_twice_while_packets_are_lost") {
        return;
    }
    let mesh = Mesh::start(1, "delay=30ms", None);
    let copied = || {
        mesh.counted(
            "us-east/gateway-1",
            "portolan_gateway_link_packets_copied_total",
        )
    };
    let call = || {
        let answered = mesh.answer("us-east/frontend", "http://payments.shop.global/");
        assert_eq!(answered.as_deref(), Some("eu-west"));
    };
    for _ in 0..5 {
        call();
    }
    assert_eq!(copied(), 0, "nothing is lost");
    mesh.wan.set("eu-west delay=30ms loss=10%");
    let begin = Instant::now();
    while copied() == 0 {
        assert!(
            begin.elapsed() < Duration::from_secs(60),
            "no packet has a copy"
        );
        call();
    }
}
