//! Without control planes everything that runs goes on, and what is restarted begins from its last-good file.

use super::call::get_now;
use super::demo::{Demo, eventually, output_of};
use super::load::Load;
use super::tools::have;

const ORDERS: &str = "http://orders.shop.svc.clusterset.local/";

#[test]
fn without_any_control_plane_traffic_failover_names_and_restarts_go_on() {
    let mut demo = Demo::start();
    let frontend = demo.cluster("us-east").workload("frontend").clone();
    for cluster in demo.clusters() {
        demo.kill(cluster.pids.control);
    }
    let tally = Load {
        proxy: frontend.outbound,
        url: ORDERS,
        per_second: 200,
        total: 400,
    }
    .run_while(0, || {});
    assert!(tally.failures().is_empty(), "{:?}", tally.failures());

    let orders = demo.cluster("us-east").workload("orders").clone();
    let tally = Load {
        proxy: frontend.outbound,
        url: ORDERS,
        per_second: 200,
        total: 800,
    }
    .run_while(100, || demo.kill(orders.pids.app));
    assert!(tally.failures().is_empty(), "{:?}", tally.failures());
    assert!(tally.from("us-west") > 0);

    if have("dig", "names without a control plane") {
        let dns = demo.cluster("us-east").dns;
        let answer = output_of(
            "dig",
            &[
                &format!("@{}", dns.ip()),
                "-p",
                &dns.port().to_string(),
                "+short",
                "payments.shop.svc.clusterset.local",
            ],
        );
        assert!(answer.trim().starts_with("240.241."), "{answer:?}");
    }

    demo.kill(frontend.pids.sidecar);
    let gateway = demo.cluster("us-east").pids.gateway;
    demo.kill(gateway);
    demo.restart(&frontend.argv.sidecar);
    let argv = demo.cluster("us-east").argv.gateway.clone();
    demo.restart(&argv);
    eventually(
        "the restarted proxies carry calls to another cluster",
        || {
            get_now(frontend.outbound, "http://payments.shop.global/")
                .is_ok_and(|answer| answer.cluster() == "eu-west")
        },
    );
}

#[test]
fn a_control_plane_that_comes_back_goes_on_where_it_was() {
    let mut demo = Demo::start();
    let us_east = demo.cluster("us-east").clone();
    let imports = demo
        .portolan("us-east", &["get", "imports", "-o", "json"])
        .ok();
    demo.kill(us_east.pids.control);
    let frontend = demo.frontend();
    let argv = us_east.argv.control.clone();
    let tally = Load {
        proxy: frontend,
        url: ORDERS,
        per_second: 100,
        total: 500,
    }
    .run_while(100, || demo.restart(&argv));
    assert!(tally.failures().is_empty(), "{:?}", tally.failures());
    assert_eq!(
        tally.from("us-east"),
        500,
        "a restarted control plane moves no traffic"
    );
    eventually("the same imports have the same addresses", || {
        let now = demo.portolan("us-east", &["get", "imports", "-o", "json"]);
        now.code == 0 && addresses(&now.out) == addresses(&imports)
    });
}

fn addresses(list: &str) -> Vec<(String, String)> {
    let list: serde_json::Value = serde_json::from_str(list).unwrap();
    let items = list["items"].as_array().cloned().unwrap_or_default();
    items
        .iter()
        .map(|item| {
            (
                item["metadata"]["name"].to_string(),
                item["spec"]["ips"].to_string(),
            )
        })
        .collect()
}
