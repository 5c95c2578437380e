//! The benchmarks run and print. No figure is believed, and none is checked.

use std::path::Path;
use std::process::Command;

#[test]
fn every_kind_of_work_runs() {
    let bench = Path::new(env!("CARGO_BIN_EXE_portolan-bench"));
    // Cargo tells only a package's own tests where its program is.
    let portolan = bench.with_file_name("portolan");
    if !portolan.is_file() {
        eprintln!("SKIPPED: {} is not built", portolan.display());
        return;
    }
    for work in ["http1", "fresh", "http2", "grpc"] {
        let output = Command::new(bench)
            .args(["path", "--smoke", "--connections", "4", "--work", work])
            .arg("--portolan")
            .arg(&portolan)
            .output()
            .unwrap();
        let (said, told) = (
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        );
        assert!(output.status.success(), "{work}: {told}");
        assert!(said.contains("portolan gateways"), "{work}: {said}\n{told}");
    }
}
