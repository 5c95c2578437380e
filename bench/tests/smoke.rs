//! The benchmarks run and print. No figure is believed, and none is checked.

#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking, its helpers too"
)]

#[path = "../../tests/skipped.rs"]
mod skipped;

use std::path::{Path, PathBuf};
use std::process::Command;

use self::skipped::skipped;

/// How a benchmark says which of its peers is not here, at the begin and at the end of a line.
const MISSING: (&str, &str) = ("SKIPPED: ", " (bench/setup)");

/// The programs, if both are built. Cargo tells only a package's own tests where its program is.
fn programs(test: &str) -> Option<(PathBuf, PathBuf)> {
    let bench = PathBuf::from(env!("CARGO_BIN_EXE_portolan-bench"));
    let portolan = bench.with_file_name("portolan");
    if portolan.is_file() {
        return Some((bench, portolan));
    }
    skipped(test, &format!("{} is not built", portolan.display()));
    None
}

/// A peer, its program, and the work that it cannot do.
struct Peer {
    name: &'static str,
    program: &'static str,
    cannot: &'static [&'static str],
}

const fn peer(name: &'static str, program: &'static str, cannot: &'static [&'static str]) -> Peer {
    Peer {
        name,
        program,
        cannot,
    }
}

const PEERS: [Peer; 12] = [
    peer("envoy", "envoy", &["grpc"]),
    peer("envoy h2", "envoy", &[]),
    peer("envoy gateways", "envoy", &["grpc"]),
    peer("envoy gateways h2", "envoy", &[]),
    peer("envoy gateways h3 tunnel", "envoy", &["grpc"]),
    peer("envoy gateways h3 tunnel h2", "envoy", &[]),
    peer("haproxy", "haproxy", &["grpc"]),
    peer("haproxy h2", "haproxy", &[]),
    peer("haproxy gateways", "haproxy", &["grpc"]),
    peer("haproxy gateways h2", "haproxy", &[]),
    peer("relay gateways", "haproxy", &[]),
    peer("nginx", "nginx", &["http2"]),
];

impl Peer {
    /// A peer that can take part has a row; of the others it is said why they have none.
    fn check(&self, work: &str, said: &str) {
        let name = self.name;
        let skipped = format!("SKIPPED: {name}: ");
        if installed(self.program) && !self.cannot.contains(&work) {
            assert!(has_row(said, name), "`{name}` has no row: {said}");
        } else {
            assert!(!has_row(said, name), "`{name}` has a row: {said}");
            assert!(
                said.lines().any(|line| line.starts_with(&skipped)),
                "nobody said why `{name}` has no row: {said}"
            );
        }
    }
}

/// Whether a program is where the benchmarks look for it.
fn installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folder = |variable| std::env::var_os(variable).map(PathBuf::from);
    let cache = folder("XDG_CACHE_HOME").or_else(|| Some(folder("HOME")?.join(".cache")));
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .chain(cache.map(|cache| cache.join("portolan-bench")))
        .any(|folder| folder.join(program).is_file())
}

/// Whether some table has a row that begins with this.
fn has_row(said: &str, name: &str) -> bool {
    let cells = said.lines().filter_map(|line| line.strip_prefix('|'));
    let mut firsts = cells.filter_map(|cells| cells.split('|').next());
    firsts.any(|first| first.trim() == name)
}

/// Runs a measurement of seconds, and expects that it prints all of this. Returns what it printed.
fn prints(test: &str, arguments: &[&str], expected: &[&str]) -> Option<String> {
    let (bench, portolan) = programs(test)?;
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
    for line in told.lines().filter(|line| line.ends_with(MISSING.1)) {
        skipped(test, line.trim_start_matches(MISSING.0));
    }
    for expected in expected {
        assert!(said.contains(expected), "{arguments:?}: {said}\n{told}");
    }
    Some(said.into_owned())
}

#[test]
fn every_kind_of_work_runs_on_every_path() {
    let test = "every_kind_of_work_runs_on_every_path";
    for work in ["http1", "fresh", "http2", "grpc"] {
        let arguments = ["path", "--connections", "4", "--work", work];
        let Some(said) = prints(test, &arguments, &["Ratios", "KiB per idle tunnel"]) else {
            return;
        };
        for own in ["direct", "portolan", "portolan gateways"] {
            assert!(has_row(&said, own), "`{own}` has no row: {said}");
        }
        for peer in &PEERS {
            peer.check(work, &said);
        }
    }
}

#[test]
fn latencies_are_measured_once_more_with_processors_awake() {
    let mut arguments = vec!["path", "--awake", "--only", "portolan", "--rates", "1000"];
    arguments.extend(["--connections", "4", "--bulk", "0", "--tunnels", "0"]);
    prints(
        "latencies_are_measured_once_more_with_processors_awake",
        &arguments,
        &["latency at 1000/s, µs", "latency at 1000/s, awake, µs"],
    );
}

#[test]
fn who_is_asked_for_and_cannot_is_told() {
    let arguments = ["path", "--work", "grpc", "--only", "envoy,haproxy"];
    let expected = ["SKIPPED: envoy: HTTP/1.1", "SKIPPED: haproxy: HTTP/1.1"];
    if let Some(said) = prints("who_is_asked_for_and_cannot_is_told", &arguments, &expected) {
        assert!(!said.contains("nginx"), "only these are told of: {said}");
    }
}

#[test]
fn a_subject_that_there_is_not_is_an_error_that_lists_all() {
    let subjects = [
        ("path", "envoy gateways h3 tunnel"),
        ("wan", "haproxy gateways"),
        ("dns", "portolan control plane"),
    ];
    for (command, subject) in subjects {
        let mut bench = Command::new(env!("CARGO_BIN_EXE_portolan-bench"));
        let output = bench.args([command, "--only", "nobody"]).output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{told}");
        assert!(
            told.contains("`nobody`") && told.contains(subject),
            "{told}"
        );
    }
}

#[test]
fn work_far_away_runs() {
    let test = "work_far_away_runs";
    if !rustix::process::geteuid().is_root() {
        skipped(test, "needs root");
        return;
    }
    let needed = ["/dev/net/tun", "/run", "/proc/self/ns/net"];
    if let Some(missing) = needed.iter().find(|path| !Path::new(path).exists()) {
        skipped(test, &format!("needs {missing}"));
        return;
    }
    if Command::new("ip").arg("-V").output().is_err() {
        skipped(test, "no ip; tests/run installs it");
        return;
    }
    let own = ["portolan", "portolan gateways"];
    let all = own.into_iter().chain(PEERS.map(|peer| peer.name));
    let only = all.collect::<Vec<_>>().join(",");
    let arguments = ["wan", "--connections", "4", "--loss", "1", "--only", &only];
    if let Some(said) = prints(test, &arguments, &["more round trips"]) {
        for own in own {
            assert!(has_row(&said, own), "`{own}` has no row: {said}");
        }
        for peer in &PEERS {
            peer.check("http1", &said);
        }
    }
}

#[test]
fn questions_run() {
    let expected = ["portolan control plane", "portolan sidecar"];
    if let Some(said) = prints("questions_run", &["dns", "--askers", "4"], &expected) {
        if installed("knotd") {
            assert!(has_row(&said, "knot"), "{said}");
        } else {
            assert!(said.contains("SKIPPED: knot: "), "{said}");
        }
    }
}
