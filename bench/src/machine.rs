//! What the machine says: how busy it is, and what a process used of it.

use std::fs;

use anyhow::{Context, Result};

/// A load average above this many busy cores, before we start, makes figures doubtful.
const LOAD_MAX: f64 = 0.5;
/// A share of stolen time above this makes figures doubtful.
const STEAL_MAX: f64 = 0.02;

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
    let resident = memory(&status, "VmRSS:").unwrap_or(0);
    Ok(Used {
        cpu: cpu_ticks(&read("stat")?).context("/proc/PID/stat has another form")? as f64
            / rustix::param::clock_ticks_per_second() as f64,
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

/// Children of a process, and theirs.
fn family(pid: u32) -> Vec<u32> {
    let mut family = vec![pid];
    let mut next = 0;
    while let Some(&parent) = family.get(next) {
        next += 1;
        let path = format!("/proc/{parent}/task/{parent}/children");
        let children = fs::read_to_string(path).unwrap_or_default();
        family.extend(
            children
                .split_whitespace()
                .filter_map(|id| id.parse::<u32>().ok()),
        );
    }
    family
}

fn cpu_ticks(stat: &str) -> Option<u64> {
    // The name in parentheses may hold spaces.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

fn memory(status: &str, kind: &str) -> Option<u64> {
    let line = status.lines().find(|line| line.starts_with(kind))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// How busy the machine was over a run.
pub(crate) struct Quiet {
    stat: Vec<u64>,
}

impl Quiet {
    /// Begins to watch, and returns what is wrong already.
    pub(crate) fn begin() -> (Self, Vec<String>) {
        let mut warnings = Vec::new();
        let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let load: f64 = load
            .split_whitespace()
            .next()
            .and_then(|text| text.parse().ok())
            .unwrap_or(0.0);
        if load > LOAD_MAX {
            warnings.push(format!(
                "the machine is busy (load average {load:.2}): trust ratios and CPU, not latencies"
            ));
        }
        let stat = total_stat();
        (Self { stat }, warnings)
    }

    /// What went wrong since.
    pub(crate) fn end(&self) -> Vec<String> {
        let now = total_stat();
        let passed: Vec<u64> = now
            .iter()
            .zip(&self.stat)
            .map(|(now, then)| now.saturating_sub(*then))
            .collect();
        let total: u64 = passed.iter().sum();
        let stolen = passed.get(7).copied().unwrap_or(0);
        let share = stolen as f64 / total.max(1) as f64;
        if share > STEAL_MAX {
            vec![format!(
                "the hypervisor took {:.1} % of the time: repeat the run",
                share * 100.0
            )]
        } else {
            Vec::new()
        }
    }
}

/// The first eight counters of all cores: user, nice, system, idle, iowait, irq, softirq, steal.
fn total_stat() -> Vec<u64> {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    let fields = stat.lines().next().unwrap_or_default().split_whitespace();
    fields
        .skip(1)
        .take(8)
        .filter_map(|field| field.parse().ok())
        .collect()
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
        assert_eq!(cpu_ticks(stat), Some(11 + 12));
    }

    #[test]
    fn this_process_uses_memory() {
        let used = used(std::process::id()).unwrap();
        assert!(used.resident > 0);
        assert!(used.peak >= used.private);
    }
}
