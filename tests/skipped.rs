//! Tests that did not run, each by its name.

use std::fs::File;
use std::io::Write;

/// A file to which skipped tests are added: the test runner keeps for itself what passing tests print, so
/// `tests/run` prints it at its end.
const FILE: &str = "PORTOLAN_SKIPPED";

/// Says that a test, or a part of it, did not run, and why.
#[expect(
    clippy::print_stdout,
    reason = "whoever reads the results learns what did not run"
)]
pub(crate) fn skipped(test: &str, why: &str) {
    let line = format!("SKIPPED: {test} ({why})\n");
    print!("{line}");
    if let Some(path) = std::env::var_os(FILE) {
        // Many tests add to it at a time: one write each, so that lines stay whole.
        let mut file = File::options()
            .create(true)
            .append(true)
            .open(path)
            .unwrap();
        file.write_all(line.as_bytes()).unwrap();
    }
}
