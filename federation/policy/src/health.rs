//! Whether an app counts as healthy, by what its health checks found. Apps that go up and down all the time
//! must prove themselves for longer each time.

use std::time::Duration;

/// For how long a change of mind is held against an app.
pub const FLAP_WINDOW: Duration = Duration::from_secs(60);
/// How often it may change within that time before it has to prove itself for longer.
pub const FLAPS_FREE: u32 = 2;
/// The most times as many good answers as the threshold says.
pub const PATIENCE_MAX: u32 = 8;

/// How many answers in a row change a verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Thresholds {
    /// Good ones, until it counts as healthy again.
    pub healthy: u32,
    /// Bad ones, until it does not.
    pub unhealthy: u32,
}

/// What is known by one health check of one port.
#[derive(Debug, Clone, Default)]
pub struct Judge {
    /// `None` before the first answer.
    healthy: Option<bool>,
    /// Answers in a row that say otherwise.
    against: u32,
    /// When it became unhealthy of late.
    falls: Vec<Duration>,
}

impl Judge {
    /// Whether it is healthy; `None` before the first answer.
    #[must_use]
    pub fn healthy(&self) -> Option<bool> {
        self.healthy
    }

    /// Takes note of an answer. The first one decides alone. Returns whether the verdict is another one.
    pub fn record(&mut self, good: bool, thresholds: Thresholds, now: Duration) -> bool {
        let Some(healthy) = self.healthy else {
            self.healthy = Some(good);
            return true;
        };
        if good == healthy {
            self.against = 0;
            return false;
        }
        self.against = self.against.saturating_add(1);
        let needed = if good {
            thresholds.healthy.saturating_mul(self.patience(now))
        } else {
            thresholds.unhealthy
        };
        if self.against < needed.max(1) {
            return false;
        }
        self.healthy = Some(good);
        self.against = 0;
        if !good {
            self.forget(now);
            self.falls.push(now);
        }
        true
    }

    /// How many times the threshold it takes to come back: doubled with each fall too many.
    fn patience(&mut self, now: Duration) -> u32 {
        self.forget(now);
        let falls = u32::try_from(self.falls.len()).unwrap_or(u32::MAX);
        let doublings = falls.saturating_sub(FLAPS_FREE).min(8);
        (1 << doublings).min(PATIENCE_MAX)
    }

    fn forget(&mut self, now: Duration) {
        self.falls
            .retain(|fall| now.saturating_sub(*fall) < FLAP_WINDOW);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TWO_THREE: Thresholds = Thresholds {
        healthy: 2,
        unhealthy: 3,
    };

    fn s(s: u64) -> Duration {
        Duration::from_secs(s)
    }

    #[test]
    fn so_many_in_a_row_change_the_verdict() {
        let mut judge = Judge::default();
        let mut verdicts = Vec::new();
        for (second, good) in [
            true, false, false, true, false, false, false, true, false, true, true,
        ]
        .into_iter()
        .enumerate()
        {
            judge.record(good, TWO_THREE, s(second as u64));
            verdicts.push(judge.healthy().unwrap());
        }
        let (up, down) = (true, false);
        assert_eq!(
            verdicts,
            [up, up, up, up, up, up, down, down, down, down, up]
        );
    }

    #[test]
    fn whoever_flaps_has_to_prove_itself_for_longer_and_is_forgiven() {
        let once = Thresholds {
            healthy: 1,
            unhealthy: 1,
        };
        let mut judge = Judge::default();
        judge.record(true, once, s(0));
        let mut come_back = |at: u64| {
            judge.record(false, once, s(at));
            (1..).find(|_| judge.record(true, once, s(at))).unwrap()
        };
        let answers: Vec<i32> = (1..=7).map(&mut come_back).collect();
        assert_eq!(answers, [1, 1, 2, 4, 8, 8, 8]);
        assert_eq!(come_back(100), 1, "a minute later");
    }

    proptest! {
        #[test]
        fn a_verdict_never_changes_without_enough_answers_in_a_row(
            answers in prop::collection::vec(any::<bool>(), 1..200),
            healthy in 1_u32..5, unhealthy in 1_u32..5,
        ) {
            let thresholds = Thresholds { healthy, unhealthy };
            let mut judge = Judge::default();
            for (index, good) in answers.iter().enumerate() {
                let changed = judge.record(*good, thresholds, s(index as u64));
                if changed && index > 0 {
                    let needed = if *good { healthy } else { unhealthy } as usize;
                    let row = answers[..=index].iter().rev().take_while(|it| *it == good);
                    prop_assert!(row.count() >= needed);
                }
            }
        }
    }
}
