//! Traffic leaves when it must, comes back when it can, and nothing is lost on the way.

use std::time::Duration;

use super::call::get_now;
use super::demo::{Demo, eventually};
use super::load::Load;

const ORDERS: &str = "http://orders.shop.svc.clusterset.local/";

#[test]
fn a_killed_app_moves_traffic_to_the_next_cluster_and_back() {
    let mut demo = Demo::start();
    let frontend = demo.frontend();
    let orders = demo.cluster("us-east").workload("orders").clone();
    assert_eq!(get_now(frontend, ORDERS).unwrap().cluster(), "us-east");

    let load = Load {
        proxy: frontend,
        url: ORDERS,
        per_second: 200,
        total: 2_000,
    };
    let tally = load.run_while(500, || demo.kill(orders.pids.app));
    println!(
        "app killed: {} from us-east, {} from us-west, longest {:?}",
        tally.from("us-east"),
        tally.from("us-west"),
        tally.longest()
    );
    assert!(tally.failures().is_empty(), "{:?}", tally.failures());
    assert_eq!(tally.sent.len(), 2_000);
    assert!(
        tally.from("us-east") >= 500,
        "it answered until it was killed"
    );
    assert!(
        tally.from("us-west") > 0,
        "traffic went to us-west, which is nearer than eu-west"
    );
    assert_eq!(get_now(frontend, ORDERS).unwrap().cluster(), "us-west");

    demo.restart(&orders.argv.app);
    let back = eventually("us-east answers again", || {
        get_now(frontend, ORDERS).is_ok_and(|answer| answer.cluster() == "us-east")
    });
    println!("back in us-east after {back:?}");
}

#[test]
fn losing_an_app_with_its_sidecar_and_the_next_cluster_s_gateway_and_control_plane_fails_nothing() {
    let demo = Demo::start();
    let frontend = demo.frontend();
    let orders = demo.cluster("us-east").workload("orders").clone();
    let us_west = demo.cluster("us-west").pids.clone();

    let load = Load {
        proxy: frontend,
        url: ORDERS,
        per_second: 200,
        total: 2_000,
    };
    let tally = load.run_while(500, || {
        for pid in [
            orders.pids.app,
            orders.pids.sidecar,
            us_west.gateway,
            us_west.control,
        ] {
            demo.kill(pid);
        }
    });
    println!(
        "all killed: {} from eu-west, longest {:?}",
        tally.from("eu-west"),
        tally.longest()
    );
    assert!(tally.failures().is_empty(), "{:?}", tally.failures());
    assert!(
        tally.longest() < Duration::from_secs(2),
        "{:?}",
        tally.longest()
    );
    assert_eq!(get_now(frontend, ORDERS).unwrap().cluster(), "eu-west");
}
