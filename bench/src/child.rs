//! Processes that the benchmark starts, and ends with itself.

use std::ffi::OsStr;
use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};

use crate::network::Place;
use crate::say;

/// The longest start that is waited for.
const START_MAX: Duration = Duration::from_secs(60);
const AGAIN: Duration = Duration::from_millis(25);
/// How much of a log is shown when a start fails, in bytes.
const LOG_TAIL: usize = 2_000;

/// How long a process that was asked to end is waited for.
const END_MAX: Duration = Duration::from_secs(20);
/// Set where programs count what runs (`deploy/build`). They write it down when they end by themselves.
const PROFILES: &str = "LLVM_PROFILE_FILE";
/// Stands in its value for the first argument, which says what kind of process it is.
const COMMAND: &str = "{command}";

/// A process; killed when this is dropped, or asked to end where it is being profiled.
pub(crate) struct Process {
    pub(crate) name: String,
    pub(crate) pid: u32,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts a program at a place; its output goes to `folder`.
    pub(crate) fn start<S: AsRef<OsStr>>(
        place: &Place,
        name: &str,
        program: &Path,
        arguments: &[S],
        folder: &Path,
    ) -> Result<Self> {
        let log = folder.join(format!("{name}.log"));
        let output =
            File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let mut command = tied(place, program);
        let child = profiled(&mut command, arguments)
            .args(arguments)
            .env("PORTOLAN_DEMO_PARENT", std::process::id().to_string())
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        Ok(Self {
            name: name.to_owned(),
            pid: child.id().context("the process ended at once")?,
            child,
            log,
        })
    }

    /// Waits until something listens at `address`.
    pub(crate) async fn listens(&mut self, address: SocketAddr) -> Result<()> {
        let what = format!("{} does not listen on {address}", self.name);
        self.until(&what, async || TcpStream::connect(address).await.is_ok())
            .await
    }

    /// Waits until `condition` holds.
    pub(crate) async fn until(
        &mut self,
        what: &str,
        mut condition: impl AsyncFnMut() -> bool,
    ) -> Result<()> {
        let end = Instant::now() + START_MAX;
        while !condition().await {
            if let Some(status) = self.child.try_wait()? {
                bail!("{} ended ({status})\n{}", self.name, self.tail());
            }
            if Instant::now() > end {
                bail!("{what} after {} s\n{}", START_MAX.as_secs(), self.tail());
            }
            sleep(AGAIN).await;
        }
        Ok(())
    }

    /// Asks it to end, and waits.
    fn end(&mut self) -> Result<()> {
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw);
        kill_process(pid.context("no process has that number")?, Signal::TERM)?;
        let end = std::time::Instant::now() + END_MAX;
        while self.child.try_wait()?.is_none() {
            if std::time::Instant::now() > end {
                bail!("{} did not end within {} s", self.name, END_MAX.as_secs());
            }
            std::thread::sleep(AGAIN);
        }
        Ok(())
    }

    fn tail(&self) -> String {
        let text = std::fs::read(&self.log).unwrap_or_default();
        let start = text.len().saturating_sub(LOG_TAIL);
        String::from_utf8_lossy(&text[start..]).into_owned()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::env::var_os(PROFILES).is_some()
            && let Err(error) = self.end()
        {
            say(&format!("error: no profile of {}: {error:#}", self.name));
        }
    }
}

/// A program that ends with this one, even if that is killed, where util-linux can tie it.
fn tied(place: &Place, program: &Path) -> Command {
    let mut words: Vec<&OsStr> = Vec::new();
    let setpriv = find("setpriv");
    if let Some(setpriv) = &setpriv {
        words.extend([setpriv.as_os_str(), "--pdeathsig".as_ref(), "KILL".as_ref()]);
    }
    if let Some(namespace) = place.namespace() {
        words.extend(["ip", "netns", "exec", namespace].map(OsStr::new));
    }
    words.push(program.as_os_str());
    let mut words = words.into_iter();
    let mut command = Command::new(words.next().unwrap_or_default());
    command.args(words);
    command
}

/// Says where a program writes what it counted, if it counts.
fn profiled<'a, S: AsRef<OsStr>>(command: &'a mut Command, arguments: &[S]) -> &'a mut Command {
    if let (Ok(profile), Some(first)) = (std::env::var(PROFILES), arguments.first()) {
        let kind = first.as_ref().to_string_lossy();
        command.env(PROFILES, profile.replace(COMMAND, &kind));
    }
    command
}

/// Runs a program to its end.
pub(crate) async fn run<S: AsRef<OsStr>>(program: &Path, arguments: &[S]) -> Result<()> {
    let mut command = Command::new(program);
    let output = profiled(&mut command, arguments)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .await
        .with_context(|| format!("cannot start {}", program.display()))?;
    if !output.status.success() {
        bail!(
            "{} ended ({}): {}",
            program.display(),
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}

/// Finds a program in `PATH` and where Debian keeps daemons.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain([PathBuf::from("/usr/sbin"), PathBuf::from("/sbin")])
        .map(|folder| folder.join(program))
        .find(|candidate| candidate.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::{Network, Side};

    #[tokio::test]
    async fn a_process_that_is_asked_to_end_has_ended() {
        let network = Network::loopback().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let place = network.place(Side::Near);
        // It says when it can be asked.
        let script = [
            "-c",
            "trap 'echo ended; exit 0' TERM; echo ready; while :; do sleep 0.05; done",
        ];
        let program = find("bash").unwrap();
        let mut process = Process::start(place, "asked", &program, &script, folder.path()).unwrap();
        let log = process.log.clone();
        let said = || std::fs::read_to_string(&log).unwrap();
        process
            .until("it is not ready", async || said().contains("ready"))
            .await
            .unwrap();
        process.end().unwrap();
        assert!(said().contains("ended"), "{}", said());
    }
}
