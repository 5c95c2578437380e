//! A control plane on a real etcd.

use std::net::{Ipv4Addr, TcpListener};
use std::process::{Child, Command, Stdio};

use serde_json::json;

use super::control::{Control, service};
use super::demo::{PORTOLAN, eventually};
use super::skipped::skipped;
use super::tools::have;

struct Etcd(Child);

impl Drop for Etcd {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _gone = self.0.wait();
    }
}

/// A URL that stays free until etcd takes it: nobody else uses this address, not even for connections.
fn free() -> String {
    let [.., high, low] = std::process::id().to_be_bytes();
    let listener = TcpListener::bind((Ipv4Addr::new(127, 97, high, low), 0)).unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

#[test]
fn declarations_in_etcd_survive_the_control_plane() {
    let test = "declarations_in_etcd_survive_the_control_plane";
    if !have("etcd", test) {
        return;
    }
    let data = tempfile::tempdir().unwrap();
    if !built_with_etcd(data.path()) {
        skipped(test, "built without the feature `etcd`");
        return;
    }
    let (client, peer) = (free(), free());
    let etcd = Command::new("etcd")
        .args([
            "--listen-client-urls",
            &client,
            "--advertise-client-urls",
            &client,
        ])
        .args([
            "--listen-peer-urls",
            &peer,
            "--initial-advertise-peer-urls",
            &peer,
        ])
        .args(["--initial-cluster", &format!("default={peer}")])
        .arg("--data-dir")
        .arg(data.path().join("etcd"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let _etcd = Etcd(etcd);
    let address = client.trim_start_matches("http://").to_owned();
    eventually("etcd listens", || {
        std::net::TcpStream::connect(&address).is_ok()
    });

    let registry = json!({ "kind": "etcd", "endpoints": [client], "prefix": "/portolan/small" });
    let mut control = Control::start(&data.path().join("control"), &[("registry", registry)]);
    control.apply(&service("kept", "")).ok();
    control.kill_and_start_again();
    let services = control.portolan(&["get", "services"], "").ok();
    assert!(services.contains("kept"), "{services}");
    assert!(control.portolan(&["status"], "").ok().contains("etcd"));
}

/// A build without etcd says so when it is asked to use it.
fn built_with_etcd(dir: &std::path::Path) -> bool {
    let config = dir.join("probe.yaml");
    let none = dir.join("none");
    let text = json!({
        "cluster": "a", "clusterSet": "b", "region": "c", "dataDir": none, "listen": "127.0.0.1:0", "http": "127.0.0.1:0",
        "registry": { "kind": "etcd", "endpoints": ["http://127.0.0.1:1"] },
        "ca": { "certificate": none, "key": none, "roots": none },
    });
    std::fs::write(&config, text.to_string()).unwrap();
    let output = Command::new(PORTOLAN)
        .args(["control", "--config"])
        .arg(&config)
        .output()
        .unwrap();
    !String::from_utf8_lossy(&output.stderr).contains("--features etcd")
}
