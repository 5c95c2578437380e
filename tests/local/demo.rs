//! A running demo, and what a test does with it.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::Deserialize;
use tempfile::TempDir;

/// The program under test.
pub const PORTOLAN: &str = env!("CARGO_BIN_EXE_portolan");

/// How long a condition may take on a busy machine before a test gives up.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Two demos at once are more than a small machine carries; tests in one process take turns.
static TURN: Mutex<()> = Mutex::new(());

#[derive(Deserialize)]
struct Ready {
    clusters: Vec<Cluster>,
}

#[derive(Deserialize, Clone)]
pub struct Cluster {
    pub name: String,
    pub region: String,
    pub dns: SocketAddr,
    pub admin: String,
    pub gateway: Gateway,
    pub workloads: Vec<Workload>,
    pub pids: DaemonPids,
    pub argv: DaemonArgv,
}

#[derive(Deserialize, Clone)]
pub struct Gateway {
    pub tcp: SocketAddr,
    pub quic: SocketAddr,
    pub admin: SocketAddr,
}

#[derive(Deserialize, Clone)]
pub struct DaemonPids {
    pub control: i32,
    pub gateway: i32,
}

#[derive(Deserialize, Clone)]
pub struct DaemonArgv {
    pub control: Vec<String>,
    pub gateway: Vec<String>,
}

#[derive(Deserialize, Clone)]
pub struct Workload {
    pub name: String,
    pub namespace: String,
    pub version: String,
    pub app: SocketAddr,
    pub outbound: SocketAddr,
    pub inbound: SocketAddr,
    pub admin: SocketAddr,
    pub pids: WorkloadPids,
    pub argv: WorkloadArgv,
}

#[derive(Deserialize, Clone)]
pub struct WorkloadPids {
    pub app: i32,
    pub sidecar: i32,
}

#[derive(Deserialize, Clone)]
pub struct WorkloadArgv {
    pub app: Vec<String>,
    pub sidecar: Vec<String>,
}

impl Cluster {
    pub fn workload(&self, name: &str) -> &Workload {
        self.workloads
            .iter()
            .find(|workload| workload.name == name)
            .unwrap()
    }
}

pub struct Demo {
    child: Child,
    clusters: Vec<Cluster>,
    restarted: Vec<Child>,
    pub dir: TempDir,
    _turn: MutexGuard<'static, ()>,
}

impl Demo {
    /// Starts a demo and waits until it says that it is ready.
    pub fn start() -> Self {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let dir = TempDir::new().unwrap();
        let mut child = Command::new(PORTOLAN)
            .args(["demo", "--json", "--for", "300", "--dir"])
            .arg(dir.path().join("demo"))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let ready: Ready = serde_json::from_str(&line)
            .unwrap_or_else(|error| panic!("no ready line: {error}: {line:?}"));
        Self {
            child,
            clusters: ready.clusters,
            restarted: Vec::new(),
            dir,
            _turn: turn,
        }
    }

    pub fn cluster(&self, name: &str) -> &Cluster {
        self.clusters
            .iter()
            .find(|cluster| cluster.name == name)
            .unwrap()
    }

    pub fn clusters(&self) -> &[Cluster] {
        &self.clusters
    }

    /// Where us-east's frontend sends its calls.
    pub fn frontend(&self) -> SocketAddr {
        self.cluster("us-east").workload("frontend").outbound
    }

    /// `kill -9`, and waits until the process is gone.
    pub fn kill(&self, pid: i32) {
        signal(pid, rustix::process::Signal::KILL);
        eventually("the process is gone", || {
            // A reaped process has no entry; the demo reaps its children.
            !std::path::Path::new(&format!("/proc/{pid}")).exists()
        });
    }

    /// Starts a part again with the command line that the demo printed.
    pub fn restart(&mut self, argv: &[String]) {
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.dir.path().join("restarted.log"))
            .unwrap();
        let child = Command::new(&argv[0])
            .args(&argv[1..])
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.restarted.push(child);
    }

    /// Runs `portolan ARGUMENTS` against a cluster's control plane.
    pub fn portolan(&self, cluster: &str, arguments: &[&str]) -> Ran {
        portolan_with(
            &[("PORTOLAN_ADMIN", &self.cluster(cluster).admin)],
            arguments,
            "",
        )
    }

    /// `portolan apply -f -` with this text.
    pub fn apply(&self, cluster: &str, text: &str) -> Ran {
        portolan_with(
            &[("PORTOLAN_ADMIN", &self.cluster(cluster).admin)],
            &["apply", "-f", "-"],
            text,
        )
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        for child in &mut self.restarted {
            let _gone = child.kill();
            let _gone = child.wait();
        }
        signal(self.child.id().cast_signed(), rustix::process::Signal::TERM);
        let _gone = self.child.wait();
        if std::thread::panicking() {
            print_logs(self.dir.path());
        }
    }
}

/// Prints the end of every log, so that a failed test can be understood from its output.
fn print_logs(dir: &std::path::Path) {
    let logs = std::fs::read_dir(dir.join("demo/logs"))
        .into_iter()
        .flatten()
        .flatten();
    for log in logs
        .map(|entry| entry.path())
        .chain([dir.join("restarted.log")])
    {
        if let Ok(text) = std::fs::read_to_string(&log) {
            let lines: Vec<&str> = text.lines().collect();
            let tail = &lines[lines.len().saturating_sub(25)..];
            eprintln!("--- {}\n{}", log.display(), tail.join("\n"));
        }
    }
}

pub fn signal(pid: i32, signal: rustix::process::Signal) {
    if let Some(pid) = rustix::process::Pid::from_raw(pid) {
        let _gone = rustix::process::kill_process(pid, signal);
    }
}

/// How a command ended.
pub struct Ran {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Ran {
    pub fn ok(self) -> String {
        assert_eq!(self.code, 0, "{}{}", self.out, self.err);
        self.out
    }
}

/// Runs the program under test with an environment and standard input.
pub fn portolan_with(environment: &[(&str, &str)], arguments: &[&str], input: &str) -> Ran {
    use std::io::Write;
    let mut child = Command::new(PORTOLAN)
        .args(arguments)
        .envs(environment.iter().copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A command that ends before it reads its input is no failure of the test.
    let _unread = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    Ran {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Looks until it holds, within [`PATIENCE`].
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) -> Duration {
    let begin = Instant::now();
    while !holds() {
        assert!(
            begin.elapsed() < PATIENCE,
            "not within {PATIENCE:?}: {what}"
        );
        std::thread::yield_now();
        std::thread::park_timeout(Duration::from_millis(5));
    }
    begin.elapsed()
}
