//! What the machine says: how busy it is, and what a process used of it.

mod awake;
mod quiet;

use std::fs;

use anyhow::{Context, Result};

pub(crate) use awake::{Awake, spin};
pub(crate) use quiet::Quiet;

/// Set among the flags of the kernel's threads (`PF_KTHREAD`).
const KERNEL_THREAD: u64 = 0x0020_0000;

/// What a process had used when it was looked at.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Used {
    /// CPU seconds, of user and system.
    pub(crate) cpu: f64,
    /// Resident memory in KiB, the program's own file included.
    pub(crate) resident: u64,
    /// The most that it ever was, in KiB.
    pub(crate) peak: u64,
    /// The part of it that no other process and no file shares, in KiB.
    pub(crate) private: u64,
}

/// Looks at a process.
fn used(pid: u32) -> Result<Used> {
    let read = |file: &str| {
        let path = format!("/proc/{pid}/{file}");
        fs::read_to_string(&path).with_context(|| format!("cannot read {path}: the process ended"))
    };
    let status = read("status")?;
    let times = Times::parse(&read("stat")?).context("/proc/PID/stat has another form")?;
    let resident = memory(&status, "VmRSS:").unwrap_or(0);
    Ok(Used {
        cpu: times.own as f64 / rustix::param::clock_ticks_per_second() as f64,
        resident,
        peak: memory(&status, "VmHWM:").unwrap_or(resident),
        private: memory(&status, "RssAnon:").unwrap_or(0),
    })
}

/// Looks at a process and its children, whose peaks are taken as if they had come together.
pub(crate) fn used_with_children(pid: u32) -> Result<Used> {
    let mut sum = Used::default();
    for pid in family(pid) {
        let one = used(pid)?;
        sum.cpu += one.cpu;
        sum.resident += one.resident;
        sum.peak += one.peak;
        sum.private += one.private;
    }
    Ok(sum)
}

/// A process, its children, and theirs.
fn family(pid: u32) -> Vec<u32> {
    let mut family = vec![pid];
    let mut next = 0;
    while let Some(&parent) = family.get(next) {
        next += 1;
        // A child belongs to the thread that started it.
        let threads = fs::read_dir(format!("/proc/{parent}/task"));
        for thread in threads.into_iter().flatten().flatten() {
            let children = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
            let children = children.split_whitespace();
            family.extend(children.filter_map(|id| id.parse::<u32>().ok()));
        }
    }
    family
}

/// CPU time of a process in ticks.
struct Times {
    /// Whether it is a thread of the kernel.
    kernel: bool,
    /// Of user and system.
    own: u64,
    /// The same of its children that have ended, and of theirs.
    ended: u64,
}

impl Times {
    /// Reads `/proc/PID/stat`.
    fn parse(stat: &str) -> Option<Self> {
        // The name in parentheses may hold spaces.
        let (_, rest) = stat.rsplit_once(')')?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
        Some(Self {
            kernel: number(6)? & KERNEL_THREAD != 0,
            own: number(11)? + number(12)?,
            ended: number(13)? + number(14)?,
        })
    }
}

fn memory(status: &str, kind: &str) -> Option<u64> {
    let line = status.lines().find(|line| line.starts_with(kind))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// The processor's name and the number of cores.
pub(crate) fn describe() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .and_then(|rest| rest.split_once(':'))
        .map_or("unknown processor", |(_, name)| name.trim());
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    format!("{cores} cores, {name}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_spaces_and_parentheses_do_not_shift_the_fields() {
        let stat = "7 (a (b) c) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14";
        let times = Times::parse(stat).unwrap();
        assert_eq!((times.own, times.ended), (11 + 12, 13 + 14));
        assert!(!times.kernel);
    }

    #[test]
    fn children_belong_to_the_family_whichever_thread_started_them() {
        let mut cat = std::process::Command::new("cat");
        let mut child = cat.stdin(std::process::Stdio::piped()).spawn().unwrap();
        assert!(family(std::process::id()).contains(&child.id()));
        drop(child.stdin.take());
        child.wait().unwrap();
    }

    #[test]
    fn this_process_uses_memory() {
        let used = used(std::process::id()).unwrap();
        assert!(used.resident > 0);
        assert!(used.peak >= used.private);
    }
}
