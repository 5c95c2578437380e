//! Programs of other people that tests use.

use super::skipped::skipped;

/// Whether a program is installed; says by name which test is skipped for want of it.
pub(crate) fn have(program: &str, test: &str) -> bool {
    let found = std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(program).is_file()))
        || ["/usr/sbin", "/sbin"]
            .iter()
            .any(|dir| std::path::Path::new(dir).join(program).is_file());
    if !found {
        skipped(test, &format!("no {program}; tests/run installs it"));
    }
    found
}

pub(crate) fn is_root(test: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        skipped(test, "needs root");
    }
    root
}
