//! `explain`, `status` and `get`, as people use them.

use super::demo::Demo;

#[test]
fn explain_names_every_cluster_its_health_and_the_reason() {
    let demo = Demo::start();
    let text = demo
        .portolan(
            "us-east",
            &[
                "explain",
                "--from",
                "shop/frontend",
                "orders.shop.svc.clusterset.local",
            ],
        )
        .ok();
    for word in ["us-east", "us-west", "eu-west", "1/1"] {
        assert!(text.contains(word), "{word} is missing:\n{text}");
    }
    let json = demo
        .portolan(
            "us-east",
            &[
                "explain",
                "-o",
                "json",
                "--from",
                "shop/frontend",
                "orders.shop.global",
            ],
        )
        .ok();
    let told: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(told["chosen"], "us-east");
    assert_eq!(told["candidates"].as_array().unwrap().len(), 3);

    let admin = demo
        .cluster("us-east")
        .workload("frontend")
        .admin
        .to_string();
    let live = demo
        .portolan(
            "us-east",
            &["explain", "--sidecar", &admin, "payments.shop.global"],
        )
        .ok();
    assert!(live.contains("eu-west"), "{live}");
    let hidden = demo
        .portolan(
            "us-east",
            &[
                "explain",
                "--from",
                "shop/frontend",
                "inventory.shop.global",
            ],
        )
        .ok();
    assert!(hidden.contains("no_route"), "{hidden}");
}

#[test]
fn status_and_get_show_the_links_and_what_is_imported() {
    let demo = Demo::start();
    let status = demo.portolan("us-east", &["status"]).ok();
    for word in ["us-west", "eu-west", "up", "live"] {
        assert!(status.contains(word), "{word} is missing:\n{status}");
    }
    let imports = demo.portolan("us-east", &["get", "imports"]).ok();
    assert!(
        imports.contains("payments")
            && imports.contains("eu-west")
            && !imports.contains("inventory"),
        "{imports}"
    );
    let exports = demo
        .portolan("eu-west", &["get", "exports", "-n", "shop"])
        .ok();
    assert!(exports.contains("ledger"), "{exports}");
    let one = demo
        .portolan(
            "us-east",
            &["get", "service", "orders", "-n", "shop", "-o", "yaml"],
        )
        .ok();
    assert!(one.contains("kind: Service"), "{one}");
    let peer = demo.portolan("us-east", &["peer", "show"]).ok();
    assert!(peer.contains("trustDomain: us-east.demo"), "{peer}");
}
