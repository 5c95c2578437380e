//! The benchmarks run and print. No figure is believed, and none is checked.

#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test fails by panicking, and says what it skipped"
)]

use std::path::{Path, PathBuf};
use std::process::Command;

/// The programs, if both are built. Cargo tells only a package's own tests where its program is.
fn programs() -> Option<(PathBuf, PathBuf)> {
    let bench = PathBuf::from(env!("CARGO_BIN_EXE_portolan-bench"));
    let portolan = bench.with_file_name("portolan");
    if portolan.is_file() {
        return Some((bench, portolan));
    }
    eprintln!("SKIPPED: {} is not built", portolan.display());
    None
}

/// Runs a measurement of seconds, and expects that it prints all of this.
fn prints(arguments: &[&str], expected: &[&str]) {
    let Some((bench, portolan)) = programs() else {
        return;
    };
    let output = Command::new(bench)
        .args(arguments)
        .args(["--smoke", "--portolan"])
        .arg(&portolan)
        .output()
        .unwrap();
    let (said, told) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "{arguments:?}: {told}");
    for expected in expected {
        assert!(said.contains(expected), "{arguments:?}: {said}\n{told}");
    }
}

#[test]
fn every_kind_of_work_runs() {
    for work in ["http1", "fresh", "http2", "grpc"] {
        let arguments = ["path", "--connections", "4", "--work", work];
        prints(&arguments, &["portolan gateways", "KiB per idle tunnel"]);
    }
}

#[test]
fn work_far_away_runs() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: work_far_away_runs needs root");
        return;
    }
    let needed = ["/dev/net/tun", "/run", "/proc/self/ns/net"];
    if let Some(missing) = needed.iter().find(|path| !Path::new(path).exists()) {
        eprintln!("SKIPPED: work_far_away_runs needs {missing}");
        return;
    }
    if Command::new("ip").arg("-V").output().is_err() {
        eprintln!("SKIPPED: work_far_away_runs needs ip (iproute2)");
        return;
    }
    let only = "portolan gateways,envoy gateways,envoy gateways h3 tunnel";
    let arguments = ["wan", "--connections", "4", "--loss", "0,1", "--only", only];
    prints(&arguments, &["portolan gateways", "more round trips"]);
}

#[test]
fn questions_run() {
    let expected = ["portolan control plane", "portolan sidecar"];
    prints(&["dns", "--askers", "4"], &expected);
}
