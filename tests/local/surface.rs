//! What every process shows of itself, and that nothing of a demo outlives it.

use std::net::SocketAddr;
use std::process::{Command, Stdio};

use super::call::{get, get_now, runtime};
use super::demo::{Demo, PORTOLAN, eventually, signal};

fn page(address: SocketAddr, path: &str) -> (u16, String) {
    let answer = runtime()
        .block_on(get(address, &format!("http://{address}{path}")))
        .unwrap();
    (
        answer.status,
        String::from_utf8_lossy(&answer.body).into_owned(),
    )
}

#[test]
fn every_process_serves_metrics_and_health_and_logs_each_request() {
    let demo = Demo::start();
    for _ in 0..20 {
        assert_eq!(
            get_now(demo.frontend(), "http://payments.shop.global/")
                .unwrap()
                .status,
            200
        );
    }
    let us_east = demo.cluster("us-east");
    let frontend = us_east.workload("frontend");
    for admin in [us_east.gateway.admin, frontend.admin] {
        for path in ["/healthz", "/readyz"] {
            assert_eq!(page(admin, path).0, 200, "{admin}{path}");
        }
    }
    let metrics = page(frontend.admin, "/metrics").1;
    let counted = metrics.lines().any(|line| {
        line.starts_with("portolan_requests_total")
            && [
                "destination=\"shop/payments\"",
                "destination_cluster=\"eu-west\"",
                "source_cluster=\"us-east\"",
            ]
            .iter()
            .all(|label| line.contains(label))
    });
    assert!(counted, "{metrics}");
    let metrics = page(us_east.gateway.admin, "/metrics").1;
    assert!(
        metrics.contains("portolan_gateway_link_rtt_seconds") && metrics.contains("eu-west"),
        "{metrics}"
    );

    let log =
        std::fs::read_to_string(demo.dir.path().join("demo/logs/us-east-frontend.log")).unwrap();
    let line = log
        .lines()
        .rfind(|line| line.contains("shop/payments"))
        .unwrap_or_else(|| panic!("no access log line in\n{log}"));
    for word in ["eu-west", "tries", "200"] {
        assert!(line.contains(word), "{word} is missing: {line}");
    }
}

#[test]
fn the_ready_line_keeps_its_shape() {
    let demo = Demo::start();
    let shape: Vec<(&str, &str, Vec<&str>)> = demo
        .clusters()
        .iter()
        .map(|cluster| {
            (
                cluster.name.as_str(),
                cluster.region.as_str(),
                cluster
                    .workloads
                    .iter()
                    .map(|workload| workload.name.as_str())
                    .collect(),
            )
        })
        .collect();
    assert_eq!(
        shape,
        [
            ("us-east", "us", vec!["frontend", "orders"]),
            ("us-west", "us", vec!["frontend", "orders", "orders-v2"]),
            (
                "eu-west",
                "eu",
                vec!["frontend", "orders", "payments", "ledger", "inventory"]
            ),
        ]
    );
    for cluster in demo.clusters() {
        assert!(cluster.admin.starts_with("unix:/"));
        for workload in &cluster.workloads {
            let version = if workload.name == "orders-v2" {
                "v2"
            } else {
                "v1"
            };
            assert_eq!(
                (workload.namespace.as_str(), workload.version.as_str()),
                ("shop", version)
            );
            assert!(std::path::Path::new(&format!("/proc/{}", workload.pids.sidecar)).exists());
        }
    }
}

#[test]
fn every_child_ends_with_the_demo_however_it_ends() {
    for how in [rustix::process::Signal::TERM, rustix::process::Signal::KILL] {
        let dir = tempfile::tempdir().unwrap();
        let mut child = Command::new(PORTOLAN)
            .args(["demo", "--json", "--for", "120", "--dir"])
            .arg(dir.path().join("demo"))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        std::io::BufRead::read_line(
            &mut std::io::BufReader::new(child.stdout.take().unwrap()),
            &mut line,
        )
        .unwrap();
        let ready: serde_json::Value = serde_json::from_str(&line).unwrap();
        let mut pids = Vec::new();
        collect(&ready, &mut pids);
        assert_eq!(pids.len(), 3 * 2 + 10 * 2, "{line}");
        signal(child.id().cast_signed(), how);
        child.wait().unwrap();
        eventually("no child is left", || pids.iter().all(|pid| !runs(*pid)));
    }
}

/// Whether a process runs: an entry that only waits to be buried by init does not.
fn runs(pid: i64) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ")
        .next()
        .is_some_and(|rest| !rest.is_empty() && !rest.starts_with('Z'))
}

/// Every process id in the ready line.
fn collect(value: &serde_json::Value, pids: &mut Vec<i64>) {
    match value {
        serde_json::Value::Object(fields) => {
            for (name, value) in fields {
                if name == "pids" {
                    pids.extend(
                        value
                            .as_object()
                            .unwrap()
                            .values()
                            .filter_map(serde_json::Value::as_i64),
                    );
                } else {
                    collect(value, pids);
                }
            }
        }
        serde_json::Value::Array(items) => items.iter().for_each(|item| collect(item, pids)),
        serde_json::Value::Null
        | serde_json::Value::Bool(_)
        | serde_json::Value::Number(_)
        | serde_json::Value::String(_) => {}
    }
}
