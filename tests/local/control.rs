//! One control plane alone, for what needs no demo.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use super::demo::{PORTOLAN, Ran, eventually, portolan_with, signal};

pub(crate) struct Control {
    child: Child,
    socket: String,
    dir: TempDir,
}

impl Control {
    /// Starts a control plane that keeps its data in `data`, with other settings on top, and waits until
    /// it answers.
    pub(crate) fn start(data: &Path, settings: &[(&str, Value)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).display().to_string();
        let (root, ca, socket) = (path("root"), path("ca"), path("admin.sock"));
        let portolan = |arguments: &[&str]| portolan_with(&[], arguments, "").ok();
        portolan(&["ca", "init", "--dir", &root, "--cluster-set", "set"]);
        portolan(&[
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
        ]);
        let mut config = serde_json::json!({
            "cluster": "small",
            "clusterSet": "set",
            "region": "here",
            "dataDir": data,
            "listen": "127.0.0.1:0",
            "admin": socket,
            "http": "127.0.0.1:0",
            "ca": {
                "certificate": format!("{ca}/ca.pem"),
                "key": format!("{ca}/ca.key"),
                "roots": format!("{ca}/root.pem"),
            },
        });
        for (name, value) in settings {
            config[*name] = value.clone();
        }
        std::fs::write(dir.path().join("control.yaml"), config.to_string()).unwrap();
        let mut control = Self {
            child: spawn(dir.path()),
            socket,
            dir,
        };
        control.wait();
        control
    }

    /// `kill -9`, and starts it again.
    pub(crate) fn kill_and_start_again(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.child = spawn(self.dir.path());
        self.wait();
    }

    pub(crate) fn portolan(&self, arguments: &[&str], input: &str) -> Ran {
        portolan_with(&[("PORTOLAN_ADMIN", &self.socket)], arguments, input)
    }

    pub(crate) fn apply(&self, text: &str) -> Ran {
        self.portolan(&["apply", "-f", "-"], text)
    }

    fn wait(&mut self) {
        eventually("the control plane answers", || {
            assert!(self.child.try_wait().unwrap().is_none(), "{}", self.log());
            self.portolan(&["status"], "").code == 0
        });
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap()
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        signal(self.child.id().cast_signed(), rustix::process::Signal::TERM);
        let _gone = self.child.wait();
    }
}

fn spawn(dir: &Path) -> Child {
    let log = std::fs::File::options()
        .create(true)
        .append(true)
        .open(dir.join("log"))
        .unwrap();
    Command::new(PORTOLAN)
        .args(["control", "--config"])
        .arg(dir.join("control.yaml"))
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap()
}

/// A service's declaration.
pub(crate) fn service(name: &str, note: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, annotations: {{note: \"{note}\"}}}}\n\
         spec: {{selector: {{app: x}}, ports: [{{name: http, port: 80}}]}}\n"
    )
}
