//! A full disk is told in one sentence; what is stored stays, and what runs goes on.

use std::process::{Command, Stdio};

use super::control::{Control, service};
use super::skipped::skipped;
use super::tools::is_root;

/// A file system of three megabytes.
struct Disk(tempfile::TempDir);

impl Disk {
    fn mount(test: &str) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=3m", "tmpfs"])
            .arg(dir.path())
            .stderr(Stdio::null())
            .status();
        if mounted.is_ok_and(|status| status.success()) {
            return Some(Self(dir));
        }
        skipped(test, "cannot mount a small file system here");
        None
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _gone = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[test]
fn a_full_disk_is_told_and_loses_nothing() {
    let test = "a_full_disk_is_told_and_loses_nothing";
    if !is_root(test) {
        return;
    }
    let Some(disk) = Disk::mount(test) else {
        return;
    };
    let control = Control::start(&disk.0.path().join("control"), &[]);
    control.apply(&service("kept", "")).ok();
    // Writing stops where the disk is full; the rest of this file does not matter.
    let _full = std::fs::write(disk.0.path().join("fill"), vec![0; 3 << 20]);
    let many: Vec<String> = (0..800)
        .map(|number| service(&format!("s{number}"), &"y".repeat(1_000)))
        .collect();
    let refused = control.apply(&many.join("---\n"));
    assert_eq!(refused.code, 7, "{}", refused.err);
    assert!(
        refused.err.contains("registry.redb") && refused.err.contains("free some space"),
        "{}",
        refused.err
    );
    assert_eq!(refused.err.trim().lines().count(), 1, "{}", refused.err);

    let services = control.portolan(&["get", "services"], "").ok();
    assert_eq!(
        services.trim().lines().count(),
        2,
        "only what was stored before:\n{services}"
    );
    std::fs::remove_file(disk.0.path().join("fill")).unwrap();
    control.apply(&service("later", "")).ok();
}
