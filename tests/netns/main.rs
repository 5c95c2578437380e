//! Tests in network namespaces of their own, as root: what only the kernel can show.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test fails by panicking, and says what it measured or skipped"
)]

#[path = "../skipped.rs"]
mod skipped;
#[path = "../local/tools.rs"]
mod tools;

mod hostile;
mod hosts;
mod instruments;
mod mesh;
mod namespace;
mod parts;
mod scenario;
mod scenarios;

mod capture;
mod distance;
mod faults;

use std::sync::LazyLock;
use std::time::{Duration, Instant};

/// The program under test: `PORTOLAN_PROGRAM`, or the one that belongs to this build.
fn portolan() -> &'static str {
    static PROGRAM: LazyLock<String> = LazyLock::new(|| {
        let own = || env!("CARGO_BIN_EXE_portolan").to_owned();
        std::env::var("PORTOLAN_PROGRAM").unwrap_or_else(|_| own())
    });
    &PROGRAM
}

/// How long a condition may take on a busy machine before a test gives up.
const PATIENCE: Duration = Duration::from_secs(30);

/// Whether clusters in namespaces can be had here; says which test is skipped for want of what.
fn able(test: &str) -> bool {
    let programs = ["ip", "nft", "curl", "setpriv"];
    tools::is_root(test) && programs.iter().all(|program| tools::have(program, test))
}

/// Looks until it holds.
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !holds() {
        assert!(
            begin.elapsed() < PATIENCE,
            "not within {PATIENCE:?}: {what}"
        );
        std::thread::park_timeout(Duration::from_millis(5));
    }
}
