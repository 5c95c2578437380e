//! Processors that never halt.
//!
//! A processor without work halts, and a virtual one goes back to the hypervisor by that. Waking it for a packet
//! takes tens of microseconds, which every process on a request's way pays alike, whoever wrote it. What is left
//! without that is the work of the processes themselves.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::thread::{CpuSet, sched_getaffinity};

use crate::child::{Process, find};
use crate::network::Place;

/// The longest that a processor is kept awake, should nobody end that.
const AWAKE_MAX: Duration = Duration::from_secs(600);

/// As long as it lives, each processor has work that gives way to any other.
pub(crate) struct Awake {
    _spinning: Vec<Process>,
}

impl Awake {
    /// Keeps the processors awake that this process may use. Logs go to `folder`.
    ///
    /// # Errors
    /// When util-linux is missing.
    pub(crate) fn begin(place: &Place, folder: &std::path::Path) -> Result<Self> {
        let tool = |name: &str| {
            find(name).with_context(|| format!("--awake needs {name}: install util-linux"))
        };
        let (chrt, taskset) = (tool("chrt")?, tool("taskset")?);
        let program = std::env::current_exe().context("cannot find this program itself")?;
        let allowed = sched_getaffinity(None).context("cannot tell the processors")?;
        let allowed = (0..CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu));
        let words = |cpu: usize| -> Vec<PathBuf> {
            let cpu = cpu.to_string();
            ["--idle", "0"]
                .map(PathBuf::from)
                .into_iter()
                .chain([taskset.clone(), "--cpu-list".into(), cpu.into()])
                .chain([program.clone(), "spin".into()])
                .collect()
        };
        let spinning = allowed
            .map(|cpu| Process::start(place, &format!("spin-{cpu}"), &chrt, &words(cpu), folder));
        Ok(Self {
            _spinning: spinning.collect::<Result<_>>()?,
        })
    }
}

/// What each of them does, until it is killed.
pub(crate) fn spin() {
    let end = std::time::Instant::now() + AWAKE_MAX;
    while std::time::Instant::now() < end {
        for count in 0..10_000 {
            // Not a pause: a hypervisor takes a processor that pauses in a loop for one that waits for a lock, and
            // gives its time to others.
            std::hint::black_box(count);
        }
    }
}
