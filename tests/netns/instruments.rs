//! The programs of `tests/wan`: the network between sites, and the load.

use std::fs::Permissions;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Once;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde::Deserialize;

use super::hosts::Hosts;
use super::namespace::must;
use super::until;

const PROGRAMS: [&str; 3] = ["wan", "load", "garbage"];

/// Where one of the instruments is. They are no dependency of this package, since their libraries would
/// change the features, and so the build, of everything here; so they are built now if they are stale.
pub(crate) fn instrument(name: &str) -> PathBuf {
    static LOOKED: Once = Once::new();
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let built = Path::new(env!("CARGO_BIN_EXE_portolan")).parent().unwrap();
    let folder = built.parent().unwrap().join("debug");
    LOOKED.call_once(|| {
        if !fresh(&folder, &workspace.join("tests/wan")) {
            must(
                Command::new(env!("CARGO"))
                    .args([
                        "build",
                        "--quiet",
                        "-p",
                        "portolan-wan",
                        "--bins",
                        "--manifest-path",
                    ])
                    .arg(workspace.join("Cargo.toml")),
            );
        }
    });
    folder.join(name)
}

/// Whether all programs are younger than their sources.
fn fresh(folder: &Path, sources: &Path) -> bool {
    let changed = |path: PathBuf| {
        std::fs::metadata(path)
            .and_then(|file| file.modified())
            .ok()
    };
    let oldest = PROGRAMS
        .iter()
        .map(|name| changed(folder.join(name)))
        .min()
        .flatten();
    let sources = std::fs::read_dir(sources.join("src"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .chain([sources.join("Cargo.toml")]);
    let youngest = sources.filter_map(changed).max();
    oldest > youngest
}

/// A program that ends with this one, however that ends.
fn tied(program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]).arg(program);
    command
}

/// The running network between the sites.
pub(crate) struct Wan {
    child: Child,
    program: PathBuf,
    socket: PathBuf,
}

impl Wan {
    /// Joins sites (name and number).
    pub(crate) fn start(hosts: &Hosts, sites: &[(&str, u8)], dir: &Path) -> Self {
        let program = instrument("wan");
        let socket = dir.join("wan.sock");
        let mut command = tied(&program);
        command.arg("--socket").arg(&socket).arg("run");
        for (site, number) in sites {
            let namespace = hosts.namespace(site);
            command.args(["--site", &format!("{site}={namespace}:10.{number}.0.0/16")]);
        }
        let child = command.spawn().unwrap();
        let wan = Self {
            child,
            program,
            socket,
        };
        until("the wide-area network answers", || {
            wan.command(&["show"]).output().unwrap().status.success()
        });
        wan
    }

    /// Changes directions: `us-west delay=30ms loss=1%`.
    pub(crate) fn set(&self, change: &str) {
        let words: Vec<&str> = change.split_whitespace().collect();
        must(self.command(&["set"]).args(words));
    }

    pub(crate) fn show(&self) -> String {
        must(&mut self.command(&["show"]))
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--socket").arg(&self.socket).args(words);
        command
    }
}

impl Drop for Wan {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}

/// What became of one request; times in microseconds, `at` of Unix time.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Outcome {
    pub(crate) at_us: u64,
    pub(crate) took_us: u64,
    pub(crate) from: Option<String>,
    pub(crate) failed: Option<String>,
}

/// A running load.
pub(crate) struct Load {
    // It goes with the load that it holds.
    _program: tempfile::TempDir,
    child: Child,
    input: Option<ChildStdin>,
    outcomes: Option<JoinHandle<Vec<Outcome>>>,
    begin: Instant,
}

impl Load {
    /// Sends requests from a host, as these words say, until it is stopped; as the user that these words for
    /// `setpriv` say.
    pub(crate) fn start(hosts: &Hosts, from: &str, as_user: &[&str], words: &[&str]) -> Self {
        // Another user may not look into the folder that it was built in.
        let anybody = Permissions::from_mode(0o755);
        let program = tempfile::Builder::new()
            .permissions(anybody)
            .tempdir()
            .unwrap();
        let load = program.path().join("load");
        std::fs::copy(instrument("load"), &load).unwrap();
        let mut child = hosts
            .command(from, "setpriv")
            .args(["--pdeathsig", "KILL"])
            .args(as_user)
            .arg(load)
            .args(words)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let outcomes = std::thread::spawn(move || {
            let parse = |line: String| serde_json::from_str(&line).unwrap();
            lines.map_while(Result::ok).map(parse).collect()
        });
        Self {
            _program: program,
            input: child.stdin.take(),
            child,
            outcomes: Some(outcomes),
            begin: Instant::now(),
        }
    }

    /// Waits until the load has run for so long.
    pub(crate) fn run_until(&self, seconds: f64) {
        let end = self.begin + Duration::from_secs_f64(seconds);
        while let Some(left) = end
            .checked_duration_since(Instant::now())
            .filter(|left| !left.is_zero())
        {
            std::thread::park_timeout(left);
        }
    }

    /// Sends nothing more, and waits for the last answers.
    pub(crate) fn stop(mut self) -> Vec<Outcome> {
        drop(self.input.take());
        let mut outcomes = self.outcomes.take().unwrap().join().unwrap();
        outcomes.sort_by_key(|outcome: &Outcome| outcome.at_us);
        outcomes
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}
