//! Time in which the observer itself was awake.
//!
//! Whoever waits for a sign of life must not take its own sleep for the other's silence: a process
//! that was stopped or starved finds every deadline passed when it wakes, and what arrived meanwhile
//! still unread. So silence is measured in steps, each of which counts for no more than it should have
//! taken, however long it took.

use std::time::Duration;

/// Counts time in steps of bounded size. Moments must not go backwards.
#[derive(Debug, Clone, Copy)]
pub struct Awake {
    step_max: Duration,
    last: Duration,
    counted: Duration,
}

impl Awake {
    /// Begins at `now`. It wants to be told the time more often than once per `step_max`.
    #[must_use]
    pub fn new(step_max: Duration, now: Duration) -> Self {
        Self {
            step_max,
            last: now,
            counted: Duration::ZERO,
        }
    }

    /// The observer looks, at `now`. Returns for how long it has been awake since the beginning.
    pub fn look(&mut self, now: Duration) -> Duration {
        let step = now.saturating_sub(self.last).min(self.step_max);
        self.last = self.last.max(now);
        self.counted = self.counted.saturating_add(step);
        self.counted
    }

    /// For how long the observer had been awake when it looked last.
    #[must_use]
    pub fn counted(&self) -> Duration {
        self.counted
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_sleep_counts_as_one_step() {
        let mut awake = Awake::new(ms(200), ms(1_000));
        for (now, counted) in [
            (1_100, 100),
            (1_200, 200),
            // Stopped for a minute.
            (61_200, 400),
            (61_300, 500),
            (61_300, 500),
        ] {
            assert_eq!(awake.look(ms(now)), ms(counted), "at {now}");
            assert_eq!(awake.counted(), ms(counted));
        }
    }

    proptest! {
        /// Reference: the sum over all gaps.
        #[test]
        fn it_is_the_sum_of_the_gaps_that_were_not_too_long(
            gaps in prop::collection::vec(0_u64..1_000, 0..50), step_max in 1_u64..500
        ) {
            let mut awake = Awake::new(ms(step_max), ms(7));
            let mut now = 7;
            for gap in &gaps {
                now += gap;
                awake.look(ms(now));
            }
            let expected: u64 = gaps.iter().map(|gap| (*gap).min(step_max)).sum();
            prop_assert_eq!(awake.counted(), ms(expected));
        }
    }
}
