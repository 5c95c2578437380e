//! Processes that the benchmark starts, and ends with itself.

use std::ffi::OsStr;
use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};

use crate::network::Place;

/// The longest start that is waited for.
const START_MAX: Duration = Duration::from_secs(60);
const AGAIN: Duration = Duration::from_millis(25);
/// How much of a log is shown when a start fails, in bytes.
const LOG_TAIL: usize = 2_000;

/// A process; killed when this is dropped.
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
        let child = tied(place, program)
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

    fn tail(&self) -> String {
        let text = std::fs::read(&self.log).unwrap_or_default();
        let start = text.len().saturating_sub(LOG_TAIL);
        String::from_utf8_lossy(&text[start..]).into_owned()
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

/// Runs a program to its end.
pub(crate) async fn run<S: AsRef<OsStr>>(program: &Path, arguments: &[S]) -> Result<()> {
    let output = Command::new(program)
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
