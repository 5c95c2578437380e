//! Whether the machine was ours alone.

use std::fs;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{Times, family};
use crate::say;

/// A machine is idle when less than this share of its time was used over [`SAMPLE`].
const BUSY_MAX: f64 = 0.1;
const SAMPLE: Duration = Duration::from_secs(1);
/// How long an idle machine is waited for.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// A share of stolen time above this makes figures doubtful.
const STEAL_MAX: f64 = 0.02;
/// The same for the time that others' processes use.
const OTHERS_MAX: f64 = 0.05;

/// What had been used when a run began.
pub(crate) struct Quiet {
    machine: Machine,
    processes: Processes,
}

impl Quiet {
    /// Waits until the machine is idle if that is wanted, but not for ever, and begins to watch; returns what
    /// is wrong already.
    ///
    /// The load average would tell of the build that has just ended.
    pub(crate) async fn begin(wait: bool) -> (Self, Vec<String>) {
        let busy = if wait { wait_until_idle().await } else { None };
        let warning = busy.map(|busy| {
            format!(
                "the machine was busy before the run ({:.0} % of its time): trust ratios and CPU, not latencies",
                busy * 100.0
            )
        });
        let quiet = Self {
            machine: Machine::read(),
            processes: Processes::read(),
        };
        (quiet, warning.into_iter().collect())
    }

    /// What went wrong since. What was started must still run.
    pub(crate) fn end(&self) -> Vec<String> {
        let machine = Machine::read().since(&self.machine);
        let processes = Processes::read().since(&self.processes);
        let percent = |share: f64| share * 100.0;
        let (stolen, others) = (machine.stolen(), others(&machine, &processes));
        let mut warnings = Vec::new();
        if stolen > STEAL_MAX {
            warnings.push(format!(
                "the hypervisor took {:.1} % of the time: repeat the run",
                percent(stolen)
            ));
        }
        if others > OTHERS_MAX {
            warnings.push(format!(
                "other processes used {:.1} % of the machine's time: stop them and repeat the run",
                percent(others)
            ));
        }
        warnings
    }
}

/// The share of the machine's time that others' processes used.
///
/// Those that can be seen are counted one by one. In other containers there may be more, which only the
/// machine's counters have: what programs used in all, less what ours did. Interrupts are not in that, but
/// many kernels charge them to the process that they meet, so that it is less than the others' share rather
/// than more, and never blames them for our packets.
fn others(machine: &Machine, processes: &Processes) -> f64 {
    let all = machine.programs().saturating_sub(processes.ours);
    all.max(processes.others) as f64 / machine.total()
}

/// How busy the machine still is after the wait, if it is.
async fn wait_until_idle() -> Option<f64> {
    let begun = Instant::now();
    let mut told = false;
    loop {
        let before = Machine::read();
        sleep(SAMPLE).await;
        let busy = Machine::read().since(&before).busy();
        if busy < BUSY_MAX {
            return None;
        }
        if begun.elapsed() > WAIT_MAX {
            return Some(busy);
        }
        if !told {
            say(&format!(
                "the machine is busy ({:.0} % of its time): waiting at most {} s until it is idle ...",
                busy * 100.0,
                WAIT_MAX.as_secs()
            ));
            told = true;
        }
    }
}

/// Ticks of all cores: user, nice, system, idle, iowait, irq, softirq, steal.
struct Machine([u64; 8]);

impl Machine {
    fn read() -> Self {
        let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
        let fields = stat.lines().next().unwrap_or_default().split_whitespace();
        let mut ticks = [0; 8];
        for (tick, field) in ticks.iter_mut().zip(fields.skip(1)) {
            *tick = field.parse().unwrap_or(0);
        }
        Self(ticks)
    }

    fn since(&self, before: &Self) -> Self {
        let (now, before) = (self.0, before.0);
        Self(std::array::from_fn(|index| {
            now[index].saturating_sub(before[index])
        }))
    }

    fn total(&self) -> f64 {
        self.0.iter().sum::<u64>().max(1) as f64
    }

    /// User, nice and system.
    fn programs(&self) -> u64 {
        self.0[..3].iter().sum()
    }

    fn busy(&self) -> f64 {
        let interrupts: u64 = self.0[5..7].iter().sum();
        (self.programs() + interrupts) as f64 / self.total()
    }

    fn stolen(&self) -> f64 {
        self.0[7] as f64 / self.total()
    }
}

/// Ticks of processes that run, and of those that ended: who waited for them has theirs, so that none are lost.
struct Processes {
    /// This one and its descendants.
    ours: u64,
    /// All others that can be seen, but for the kernel's threads, which work for ours.
    others: u64,
}

impl Processes {
    fn read() -> Self {
        let family = family(std::process::id());
        let mut processes = Self { ours: 0, others: 0 };
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let name = entry.file_name();
            let Some(pid) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else {
                continue;
            };
            // It may have ended by now.
            let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
            match Times::parse(&stat) {
                Some(times) if family.contains(&pid) => processes.ours += times.own + times.ended,
                Some(times) if !times.kernel => processes.others += times.own + times.ended,
                Some(_) | None => {}
            }
        }
        processes
    }

    fn since(&self, before: &Self) -> Self {
        Self {
            ours: self.ours.saturating_sub(before.ours),
            others: self.others.saturating_sub(before.others),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A hundred ticks of two cores: programs had 120, of which ours 110; interrupts 20; the hypervisor 10.
    const MACHINE: Machine = Machine([90, 10, 20, 40, 10, 5, 15, 10]);

    #[test]
    fn interrupts_are_busy_but_nobodys_fault() {
        assert_eq!(MACHINE.busy(), 0.7);
        assert_eq!(MACHINE.stolen(), 0.05);
        let ours_alone = Processes {
            ours: 120,
            others: 0,
        };
        assert_eq!(others(&MACHINE, &ours_alone), 0.0);
    }

    #[test]
    fn others_count_whether_they_can_be_seen_or_not() {
        let hidden = Processes {
            ours: 110,
            others: 0,
        };
        assert_eq!(others(&MACHINE, &hidden), 0.05);
        // The kernel charged 20 ticks of interrupts to ours.
        let seen = Processes {
            ours: 130,
            others: 10,
        };
        assert_eq!(others(&MACHINE, &seen), 0.05);
    }
}
