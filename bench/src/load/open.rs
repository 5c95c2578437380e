//! Open loop: requests are due at a fixed rate, whether earlier ones were answered or not. Each
//! latency is counted from the moment at which the request was due, so that a path that stalls
//! cannot hide it by receiving fewer requests.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::{Caller, Seen, failures::Failures, histogram, record};

/// What callers and the clock share.
struct Schedule {
    begun: Instant,
    interval: Duration,
    /// How many requests are due by now.
    due: Cell<u64>,
    /// How many were taken by callers.
    taken: Cell<u64>,
    total: u64,
    changed: Notify,
}

impl Schedule {
    /// When the next request was due; waits until it is. `None` after the last one.
    async fn next(&self) -> Option<(u64, Instant)> {
        loop {
            let number = self.taken.get();
            if number == self.total {
                return None;
            }
            if number < self.due.get() {
                self.taken.set(number + 1);
                let after = self.interval * u32::try_from(number).unwrap_or(u32::MAX);
                return Some((number, self.begun + after));
            }
            self.changed.notified().await;
        }
    }

    /// Makes requests due as time passes, until the last.
    async fn run(&self) {
        let clock = Clock::start(self.begun, self.interval);
        while self.due.get() < self.total {
            clock.tick.notified().await;
            let passed = self.begun.elapsed().as_nanos() / self.interval.as_nanos().max(1);
            let due = u64::try_from(passed + 1)
                .unwrap_or(u64::MAX)
                .min(self.total);
            for _ in self.due.get()..due {
                self.changed.notify_one();
            }
            self.due.set(due);
        }
        // Callers that wait learn that there is nothing more.
        self.changed.notify_waiters();
    }
}

/// A thread that ticks precisely: the runtime's own timers are good to a millisecond only.
struct Clock {
    tick: Arc<Notify>,
    ended: Arc<AtomicBool>,
}

impl Clock {
    fn start(begun: Instant, interval: Duration) -> Self {
        let clock = Self {
            tick: Arc::default(),
            ended: Arc::default(),
        };
        let (tick, ended) = (Arc::clone(&clock.tick), Arc::clone(&clock.ended));
        std::thread::spawn(move || {
            let mut next = begun;
            while !ended.load(Ordering::Relaxed) {
                next += interval;
                std::thread::sleep(next.saturating_duration_since(Instant::now()));
                tick.notify_one();
            }
        });
        clock
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
    }
}

/// Calls `rate` times a second for `warm` and then for `measured`.
pub(crate) async fn open(
    callers: Vec<Caller>,
    rate: u32,
    (warm, measured): (Duration, Duration),
) -> Result<Seen> {
    let interval = Duration::from_secs(1) / rate;
    let requests = |time: Duration| (time.as_secs_f64() * f64::from(rate)) as u64;
    let uncounted = requests(warm);
    let latency = Rc::new(RefCell::new(histogram()?));
    let schedule = Rc::new(Schedule {
        begun: Instant::now(),
        interval,
        due: Cell::new(0),
        taken: Cell::new(0),
        total: uncounted + requests(measured),
        changed: Notify::new(),
    });
    let failures = Rc::new(Failures::default());
    let mut calling = JoinSet::new();
    for mut caller in callers {
        let (schedule, latency) = (Rc::clone(&schedule), Rc::clone(&latency));
        let failures = Rc::clone(&failures);
        calling.spawn_local(async move {
            while let Some((number, due)) = schedule.next().await {
                if let Err(error) = caller.call().await {
                    failures.note(&error)?;
                    caller.recover().await?;
                    continue;
                }
                if number >= uncounted {
                    record(&mut latency.borrow_mut(), due.elapsed());
                }
            }
            // The last one may have slept through the end; wake the next.
            schedule.changed.notify_one();
            Ok::<_, anyhow::Error>(())
        });
    }
    let clock = Rc::clone(&schedule);
    calling.spawn_local(async move {
        clock.run().await;
        Ok(())
    });
    while let Some(ended) = calling.join_next().await {
        ended??;
    }
    let latency = latency.borrow().clone();
    let (failed, why) = failures.all();
    Ok(Seen {
        answered: latency.len(),
        failed,
        why,
        over: measured,
        latency,
    })
}
