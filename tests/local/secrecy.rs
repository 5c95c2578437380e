//! Nothing readable leaves a sidecar.

use std::process::{Command, Stdio};

use super::call::get_now;
use super::demo::{Demo, eventually, signal};
use super::tools::{have, is_root};

const MARKER: &str = "portolan-marker-5f2c91";

#[test]
fn a_packet_capture_shows_no_plaintext_at_the_gateways() {
    let test = "a_packet_capture_shows_no_plaintext_at_the_gateways";
    if !have("tcpdump", test) || !is_root(test) {
        return;
    }
    let demo = Demo::start();
    let file = demo.dir.path().join("all.pcap");
    let mut tcpdump = Command::new("tcpdump")
        .args([
            "-i",
            "lo",
            "-U",
            "--immediate-mode",
            "-s",
            "0",
            "-Z",
            "root",
            "-w",
        ])
        .arg(&file)
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    eventually("tcpdump writes", || {
        std::fs::metadata(&file).is_ok_and(|meta| meta.len() > 0)
    });
    let url = format!("http://payments.shop.global/{MARKER}");
    let app = demo
        .cluster("eu-west")
        .workload("payments")
        .app
        .ip()
        .to_string();
    let gateways: Vec<String> = demo
        .clusters()
        .iter()
        .map(|cluster| format!("host {}", cluster.gateway.tcp.ip()))
        .collect();
    eventually(
        "the capture holds the last hop, where the app reads, and the gateways' packets",
        || {
            assert_eq!(get_now(demo.frontend(), &url).unwrap().cluster(), "eu-west");
            let passed: usize = gateways.iter().map(|gateway| packets(&file, gateway)).sum();
            count(&file, &format!("host {app}")) > 0 && passed > 20
        },
    );
    signal(tcpdump.id().cast_signed(), rustix::process::Signal::INT);
    tcpdump.wait().unwrap();

    for gateway in gateways {
        assert_eq!(count(&file, &gateway), 0, "plaintext at {gateway}");
    }
}

fn read(file: &std::path::Path, filter: &str, format: &str) -> String {
    let output = Command::new("tcpdump")
        .args(["-nn", format, "-r"])
        .arg(file)
        .arg(filter)
        .output()
        .unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn count(file: &std::path::Path, filter: &str) -> usize {
    read(file, filter, "-A").matches(MARKER).count()
}

fn packets(file: &std::path::Path, filter: &str) -> usize {
    read(file, filter, "-q").lines().count()
}
