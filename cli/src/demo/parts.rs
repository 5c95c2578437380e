//! The demo's child processes.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};

use super::files::Folder;
use super::layout::{AppKind, Cluster, Workload};
use crate::daemon::PARENT_VARIABLE;
use crate::exit::Failure;
use crate::render;

/// How long parts get to end by themselves.
const STOP_WAIT: Duration = Duration::from_secs(3);
/// How often a part that was started again is looked at while it ends.
const STOP_LOOK: Duration = Duration::from_millis(20);
/// How much of a log is shown when the start fails, in bytes.
const LOG_TAIL: i64 = 2_000;

/// Everything that was started, by `<cluster>/<part>`.
pub(super) struct Parts {
    program: PathBuf,
    folder: PathBuf,
    running: BTreeMap<String, Part>,
}

pub(super) struct Part {
    child: Child,
    pub(super) pid: u32,
    /// The command line that starts the part again.
    pub(super) argv: Vec<String>,
    log: PathBuf,
}

impl Part {
    /// What starts it, for a shell.
    pub(super) fn command_line(&self) -> String {
        let words: Vec<_> = self.argv.iter().map(|word| quoted(word)).collect();
        words.join(" ")
    }
}

impl Parts {
    pub(super) fn new(folder: &Folder) -> Result<Self, Failure> {
        let program = std::env::current_exe().map_err(|error| {
            Failure::internal(format!("cannot find this program's own file: {error}"))
        })?;
        Ok(Self {
            program,
            folder: folder.path().to_owned(),
            running: BTreeMap::new(),
        })
    }

    pub(super) fn start_control(&mut self, cluster: &Cluster) -> Result<(), Failure> {
        self.start_daemon(cluster, "control", "control")
    }

    pub(super) fn start_gateway(&mut self, cluster: &Cluster) -> Result<(), Failure> {
        self.start_daemon(cluster, "gateway", "gateway")
    }

    /// Starts an app and the sidecar beside it.
    pub(super) fn start_workload(
        &mut self,
        cluster: &Cluster,
        workload: &Workload,
    ) -> Result<(), Failure> {
        let face = if workload.kind == AppKind::Tcp {
            "--tcp"
        } else {
            "--http"
        };
        let instance = format!("{}-{}", cluster.name, workload.name);
        let address = workload.app.to_string();
        let arguments = [
            "demo-app",
            face,
            &address,
            "--service",
            workload.name,
            "--version",
            workload.version,
            "--cluster",
            cluster.name,
            "--region",
            cluster.region,
            "--instance",
            &instance,
        ];
        self.start(
            &app_key(cluster, workload),
            cluster,
            &format!("{}-app", workload.name),
            &arguments,
        )?;
        self.start_daemon(cluster, workload.name, "sidecar")
    }

    fn start_daemon(
        &mut self,
        cluster: &Cluster,
        part: &str,
        command: &str,
    ) -> Result<(), Failure> {
        let config = self.folder.join(cluster.name).join(format!("{part}.yaml"));
        let config = config.display().to_string();
        self.start(
            &key(cluster, part),
            cluster,
            part,
            &[command, "--config", &config],
        )
    }

    fn start(
        &mut self,
        key: &str,
        cluster: &Cluster,
        log: &str,
        arguments: &[&str],
    ) -> Result<(), Failure> {
        let log = self
            .folder
            .join("logs")
            .join(format!("{}-{log}.log", cluster.name));
        let fail =
            |error: std::io::Error| Failure::internal(format!("cannot start {key}: {error}"));
        let output = File::create(&log).map_err(fail)?;
        let child = Command::new(&self.program)
            .args(arguments)
            .env(PARENT_VARIABLE, std::process::id().to_string())
            .stdin(Stdio::null())
            .stdout(output.try_clone().map_err(fail)?)
            .stderr(output)
            .kill_on_drop(true)
            .spawn()
            .map_err(fail)?;
        let argv = std::iter::once(self.program.display().to_string())
            .chain(arguments.iter().map(ToString::to_string));
        let part = Part {
            pid: child.id().unwrap_or(0),
            child,
            argv: argv.collect(),
            log,
        };
        self.running.insert(key.to_owned(), part);
        Ok(())
    }

    /// This program's own file.
    pub(super) fn program(&self) -> &Path {
        &self.program
    }

    /// A cluster's admin socket.
    pub(super) fn admin_socket(&self, cluster: &Cluster) -> PathBuf {
        self.folder.join(cluster.name).join("admin.sock")
    }

    pub(super) fn control(&self, cluster: &Cluster) -> Option<&Part> {
        self.running.get(&key(cluster, "control"))
    }

    pub(super) fn gateway(&self, cluster: &Cluster) -> Option<&Part> {
        self.running.get(&key(cluster, "gateway"))
    }

    pub(super) fn app(&self, cluster: &Cluster, workload: &Workload) -> Option<&Part> {
        self.running.get(&app_key(cluster, workload))
    }

    pub(super) fn sidecar(&self, cluster: &Cluster, workload: &Workload) -> Option<&Part> {
        self.running.get(&key(cluster, workload.name))
    }

    /// Fails if a part has ended.
    pub(super) fn all_alive(&mut self) -> Result<(), Failure> {
        for (name, part) in &mut self.running {
            if let Ok(Some(status)) = part.child.try_wait() {
                return Err(Failure::internal(format!(
                    "{name} ended: {status}\n{}",
                    tail(&part.log)
                )));
            }
        }
        Ok(())
    }

    /// Adds the end of a log to a failed start, where one tells more.
    pub(super) fn why(&mut self, failure: Failure) -> Failure {
        match self.all_alive() {
            Err(ended) => ended,
            Ok(()) => failure,
        }
    }

    /// Buries parts that somebody killed, so that their process ids are free; never returns.
    pub(super) async fn reap(&mut self, quiet: bool) {
        let mut ticks = tokio::time::interval(Duration::from_millis(50));
        let mut ended = std::collections::BTreeSet::new();
        loop {
            ticks.tick().await;
            for (name, part) in &mut self.running {
                if let Ok(Some(status)) = part.child.try_wait()
                    && ended.insert(name.clone())
                    && !quiet
                {
                    render::complain(&format!(
                        "{name} ended ({status}); start it again with: {}",
                        part.command_line()
                    ));
                }
            }
        }
    }

    /// Ends processes with a part's very command line that are no children of ours.
    async fn stop_restarted(&self) {
        for pid in self.restarted() {
            send(pid, Signal::TERM);
        }
        let end = tokio::time::Instant::now() + STOP_WAIT;
        while !self.restarted().is_empty() && tokio::time::Instant::now() < end {
            tokio::time::sleep(STOP_LOOK).await;
        }
        for pid in self.restarted() {
            send(pid, Signal::KILL);
        }
    }

    fn restarted(&self) -> Vec<i32> {
        let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        pids.filter(|pid| self.is_part_but_no_child(*pid)).collect()
    }

    fn is_part_but_no_child(&self, pid: i32) -> bool {
        // A process that has ended has no command line.
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let words: Vec<&[u8]> = line
            .split(|byte| *byte == 0)
            .filter(|word| !word.is_empty())
            .collect();
        let is_part = |part: &Part| {
            part.argv
                .iter()
                .map(String::as_bytes)
                .eq(words.iter().copied())
        };
        let is_child = |part: &Part| part.child.id() == u32::try_from(pid).ok();
        self.running.values().any(is_part) && !self.running.values().any(is_child)
    }

    /// Asks every part to end, also those that somebody started again, and ends those that do not.
    pub(super) async fn stop(&mut self) {
        for part in self
            .running
            .values()
            .filter(|part| part.child.id().is_some())
        {
            send(part.pid.cast_signed(), Signal::TERM);
        }
        self.stop_restarted().await;
        let all = async {
            for part in self.running.values_mut() {
                let _status = part.child.wait().await;
            }
        };
        if tokio::time::timeout(STOP_WAIT, all).await.is_err() {
            for part in self.running.values_mut() {
                let _status = part.child.kill().await;
            }
        }
    }
}

/// Sends a signal; only a process that ended in this moment refuses it.
fn send(pid: i32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid) {
        let _ended = kill_process(pid, signal);
    }
}

fn key(cluster: &Cluster, part: &str) -> String {
    format!("{}/{part}", cluster.name)
}

fn app_key(cluster: &Cluster, workload: &Workload) -> String {
    format!("{}/{}-app", cluster.name, workload.name)
}

fn tail(log: &Path) -> String {
    let read = || -> std::io::Result<String> {
        let mut file = File::open(log)?;
        let start = i64::try_from(file.metadata()?.len())
            .unwrap_or(0)
            .min(LOG_TAIL);
        file.seek(SeekFrom::End(-start))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    read().unwrap_or_default()
}

/// A word as a shell takes it: a folder may have a space in its name.
pub(super) fn quoted(word: &str) -> Cow<'_, str> {
    // Only a zero byte cannot be quoted, and no argument has one.
    shlex::try_quote(word).unwrap_or(Cow::Borrowed(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_words_that_a_shell_would_split_are_quoted() {
        assert_eq!(quoted("/opt/portolan"), "/opt/portolan");
        assert_eq!(quoted("unix:/tmp/a.sock"), "unix:/tmp/a.sock");
        assert_eq!(quoted("/a folder/portolan"), "'/a folder/portolan'");
    }
}
