//! Every metric that a running process shows is explained.

use std::net::SocketAddr;

use super::call::get_now;
use super::demo::Demo;

const PAGE: &str = include_str!("../../docs/reference/metrics.md");

#[test]
fn the_reference_page_explains_every_metric() {
    let demo = Demo::start();
    let us_east = demo.cluster("us-east");
    let frontend = us_east.workload("frontend");
    for host in [
        "payments.shop.global",
        "orders.shop.svc.cluster.local",
        "nothing.shop.global",
    ] {
        get_now(frontend.outbound, &format!("http://{host}/")).unwrap();
    }
    let orders = us_east.workload("orders");
    // The demo gives a control plane's pages the address of the DNS server and the port of all other admin pages.
    let control = SocketAddr::new(us_east.dns.ip(), us_east.gateway.admin.port());
    for admin in [us_east.gateway.admin, frontend.admin, orders.admin, control] {
        let metrics = get_now(admin, &format!("http://{admin}/metrics")).unwrap();
        let text = String::from_utf8_lossy(&metrics.body).into_owned();
        let names: Vec<&str> = text
            .lines()
            .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next())
            .collect();
        assert!(names.len() > 3, "{text}");
        for name in names {
            let explained = ["", "_total", "_info"]
                .iter()
                .any(|end| PAGE.contains(&format!("| `{name}{end}` |")));
            assert!(
                explained,
                "docs/reference/metrics.md does not explain {name}"
            );
        }
    }
}
