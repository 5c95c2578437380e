//! A full disk is told in one sentence; what is stored stays, and what runs goes on.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::demo::{PORTOLAN, Ran, eventually, portolan_with, signal};
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
        println!("SKIPPED: {test} (cannot mount a small file system here)");
        None
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _gone = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

struct Control(Child);

impl Drop for Control {
    fn drop(&mut self) {
        signal(self.0.id().cast_signed(), rustix::process::Signal::TERM);
        let _gone = self.0.wait();
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
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("admin.sock").display().to_string();
    let _control = start(dir.path(), disk.0.path(), &socket);
    let portolan = |arguments: &[&str], input: &str| {
        portolan_with(&[("PORTOLAN_ADMIN", &socket)], arguments, input)
    };
    eventually("the control plane answers", || {
        portolan(&["status"], "").code == 0
    });

    let apply = |text: &str| portolan(&["apply", "-f", "-"], text);
    apply(&service("kept", "")).ok();
    // Writing stops where the disk is full; the rest of this file does not matter.
    let _full = std::fs::write(disk.0.path().join("fill"), vec![0; 3 << 20]);
    let many: Vec<String> = (0..800)
        .map(|number| service(&format!("s{number}"), &"y".repeat(1_000)))
        .collect();
    let refused: Ran = apply(&many.join("---\n"));
    assert_eq!(refused.code, 7, "{}", refused.err);
    assert!(
        refused.err.contains("registry.redb") && refused.err.contains("free some space"),
        "{}",
        refused.err
    );
    assert_eq!(refused.err.trim().lines().count(), 1, "{}", refused.err);

    let services = portolan(&["get", "services"], "").ok();
    assert_eq!(
        services.trim().lines().count(),
        2,
        "only what was stored before:\n{services}"
    );
    std::fs::remove_file(disk.0.path().join("fill")).unwrap();
    apply(&service("later", "")).ok();
}

fn service(name: &str, note: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, annotations: {{note: \"{note}\"}}}}\nspec: {{selector: {{app: x}}, ports: [{{name: http, port: 80}}]}}\n"
    )
}

fn start(dir: &Path, disk: &Path, socket: &str) -> Control {
    let root = dir.join("root").display().to_string();
    let ca = dir.join("ca").display().to_string();
    portolan_with(
        &[],
        &["ca", "init", "--dir", &root, "--cluster-set", "set"],
        "",
    )
    .ok();
    portolan_with(
        &[],
        &[
            "ca",
            "issue",
            "--dir",
            &root,
            "--cluster",
            "small",
            "--cluster-set",
            "set",
            "--out",
            &ca,
        ],
        "",
    )
    .ok();
    let config = serde_json::json!({
        "cluster": "small",
        "clusterSet": "set",
        "region": "here",
        "dataDir": disk.join("control"),
        "listen": "127.0.0.1:0",
        "admin": socket,
        "http": "127.0.0.1:0",
        "ca": { "certificate": format!("{ca}/ca.pem"), "key": format!("{ca}/ca.key"), "roots": format!("{ca}/root.pem") },
    });
    let file = dir.join("control.yaml");
    std::fs::write(&file, config.to_string()).unwrap();
    let child = Command::new(PORTOLAN)
        .args(["control", "--config"])
        .arg(&file)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    Control(child.unwrap())
}
