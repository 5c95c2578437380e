//! A running demo, and what a test does with it.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::Deserialize;
use tempfile::TempDir;

/// The program under test.
pub(crate) const PORTOLAN: &str = env!("CARGO_BIN_EXE_portolan");

/// How long a condition may take on a busy machine before a test gives up.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Two demos at once are more than a small machine carries; tests in one process take turns.
static TURN: Mutex<()> = Mutex::new(());

/// Waits for this test's turn.
pub(crate) fn turn() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Deserialize)]
struct Ready {
    clusters: Vec<Cluster>,
}

#[derive(Deserialize, Clone)]
pub(crate) struct Cluster {
    pub(crate) name: String,
    pub(crate) region: String,
    pub(crate) dns: SocketAddr,
    pub(crate) admin: String,
    pub(crate) gateway: Gateway,
    pub(crate) workloads: Vec<Workload>,
    pub(crate) pids: DaemonPids,
    pub(crate) argv: DaemonArgv,
}

#[derive(Deserialize, Clone)]
pub(crate) struct Gateway {
    pub(crate) tcp: SocketAddr,
    pub(crate) quic: SocketAddr,
    pub(crate) admin: SocketAddr,
}

#[derive(Deserialize, Clone)]
pub(crate) struct DaemonPids {
    pub(crate) control: i32,
    pub(crate) gateway: i32,
}

#[derive(Deserialize, Clone)]
pub(crate) struct DaemonArgv {
    pub(crate) control: Vec<String>,
    pub(crate) gateway: Vec<String>,
}

#[derive(Deserialize, Clone)]
pub(crate) struct Workload {
    pub(crate) name: String,
    pub(crate) namespace: String,
    pub(crate) version: String,
    pub(crate) app: SocketAddr,
    pub(crate) outbound: SocketAddr,
    pub(crate) inbound: SocketAddr,
    pub(crate) admin: SocketAddr,
    pub(crate) pids: WorkloadPids,
    pub(crate) argv: WorkloadArgv,
}

#[derive(Deserialize, Clone)]
pub(crate) struct WorkloadPids {
    pub(crate) app: i32,
    pub(crate) sidecar: i32,
}

#[derive(Deserialize, Clone)]
pub(crate) struct WorkloadArgv {
    pub(crate) app: Vec<String>,
    pub(crate) sidecar: Vec<String>,
}

impl Cluster {
    pub(crate) fn workload(&self, name: &str) -> &Workload {
        self.workloads
            .iter()
            .find(|workload| workload.name == name)
            .unwrap()
    }
}

pub(crate) struct Demo {
    child: Child,
    clusters: Vec<Cluster>,
    restarted: Vec<Child>,
    pub(crate) dir: TempDir,
    _turn: MutexGuard<'static, ()>,
}

impl Demo {
    /// Starts a demo and waits until it says that it is ready.
    pub(crate) fn start() -> Self {
        let turn = turn();
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

    pub(crate) fn cluster(&self, name: &str) -> &Cluster {
        self.clusters
            .iter()
            .find(|cluster| cluster.name == name)
            .unwrap()
    }

    pub(crate) fn clusters(&self) -> &[Cluster] {
        &self.clusters
    }

    /// Where us-east's frontend sends its calls.
    pub(crate) fn frontend(&self) -> SocketAddr {
        self.cluster("us-east").workload("frontend").outbound
    }

    /// `kill -9`, and waits until the process is gone.
    pub(crate) fn kill(&self, pid: i32) {
        signal(pid, rustix::process::Signal::KILL);
        eventually("the process is gone", || {
            // A reaped process has no entry; the demo reaps its children.
            !std::path::Path::new(&format!("/proc/{pid}")).exists()
        });
    }

    /// Starts a part again with the command line that the demo printed.
    pub(crate) fn restart(&mut self, argv: &[String]) {
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

    /// Starts one more instance of a workload, an app and a sidecar, at addresses of its own.
    pub(crate) fn add(
        &mut self,
        cluster: &str,
        like: &Workload,
        number: usize,
        weight: u32,
    ) -> Workload {
        let name = format!("{}-{number}", like.name);
        let folder = self.dir.path().join("demo").join(cluster);
        let config = std::fs::read_to_string(folder.join(format!("{}.yaml", like.name))).unwrap();
        let mut config: serde_json::Value = serde_saphyr::from_str(&config).unwrap();
        let mut member = like.clone();
        for (field, address) in [
            ("outbound", &mut member.outbound),
            ("inbound", &mut member.inbound),
            ("admin", &mut member.admin),
            ("", &mut member.app),
        ] {
            *address = beside(*address, number);
            if !field.is_empty() {
                config[field] = address.to_string().into();
            }
        }
        config["workload"]["name"] = name.clone().into();
        config["workload"]["address"] = member.app.ip().to_string().into();
        config["workload"]["weight"] = weight.into();
        config["stateDir"] = folder.join(&name).to_str().unwrap().into();
        let file = folder.join(format!("{name}.yaml"));
        std::fs::write(&file, config.to_string()).unwrap();
        for argument in &mut member.argv.app {
            if *argument == like.app.to_string() {
                *argument = member.app.to_string();
            } else if *argument == format!("{cluster}-{}", like.name) {
                *argument = format!("{cluster}-{name}");
            }
        }
        if let Some(argument) = member.argv.sidecar.last_mut() {
            *argument = file.to_str().unwrap().to_owned();
        }
        member.name = name;
        self.restart(&member.argv.app);
        self.restart(&member.argv.sidecar);
        member
    }

    /// Starts a workload's sidecar anew, with another configuration.
    pub(crate) fn reconfigure(
        &mut self,
        cluster: &str,
        workload: &Workload,
        change: impl FnOnce(&mut serde_json::Value),
    ) {
        let folder = self.dir.path().join("demo").join(cluster);
        let file = folder.join(format!("{}.yaml", workload.name));
        let text = std::fs::read_to_string(&file).unwrap();
        let mut config: serde_json::Value = serde_saphyr::from_str(&text).unwrap();
        change(&mut config);
        std::fs::write(&file, config.to_string()).unwrap();
        self.kill(workload.pids.sidecar);
        self.restart(&workload.argv.sidecar);
    }

    /// Runs `portolan ARGUMENTS` against a cluster's control plane.
    pub(crate) fn portolan(&self, cluster: &str, arguments: &[&str]) -> Ran {
        portolan_with(
            &[("PORTOLAN_ADMIN", &self.cluster(cluster).admin)],
            arguments,
            "",
        )
    }

    /// `portolan apply -f -` with this text.
    pub(crate) fn apply(&self, cluster: &str, text: &str) -> Ran {
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

/// The address of the n-th workload of its kind: each has a loopback address of the demo's network.
fn beside(address: SocketAddr, number: usize) -> SocketAddr {
    let std::net::IpAddr::V4(ip) = address.ip() else {
        panic!("{address} is not the demo's");
    };
    let [a, b, c, _] = ip.octets();
    let last = 100 + u8::try_from(number).unwrap();
    SocketAddr::from(([a, b, c, last], address.port()))
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

pub(crate) fn signal(pid: i32, signal: rustix::process::Signal) {
    if let Some(pid) = rustix::process::Pid::from_raw(pid) {
        let _gone = rustix::process::kill_process(pid, signal);
    }
}

/// How a command ended.
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ran {
    pub(crate) fn ok(self) -> String {
        assert_eq!(self.code, 0, "{}{}", self.out, self.err);
        self.out
    }
}

/// Runs the program under test with an environment and standard input.
pub(crate) fn portolan_with(environment: &[(&str, &str)], arguments: &[&str], input: &str) -> Ran {
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
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) -> Duration {
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

/// Runs somebody else's program to its end; its standard output.
pub(crate) fn output_of(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}
