//! One count: a word that says when everything it let through is paid for.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How fast a [`Bucket`] fills, and how much it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    count: u64,
    per_ns: u64,
    burst: u64,
    /// How far ahead of the clock the word may be, in nanoseconds: the price of `burst`.
    ahead_ns: u64,
}

/// What is left after something was let through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Left {
    /// How much could follow at once.
    pub remaining: u64,
    /// Until the bucket is as full as it gets.
    pub full_after: Duration,
}

impl Rate {
    /// Single things: so many in a time, and at most `burst` at once.
    #[must_use]
    pub fn of_requests(count: u32, per: Duration, burst: u32) -> Self {
        let mut rate = Self::new(u64::from(count), per, u64::from(burst));
        rate.ahead_ns = rate.price(1).saturating_mul(rate.burst);
        rate
    }

    /// Amounts that are taken in pieces: so much in a time, which may also come at once.
    #[must_use]
    pub fn of_bytes(count: u64, per: Duration) -> Self {
        Self::new(count, per, count)
    }

    fn new(count: u64, per: Duration, burst: u64) -> Self {
        let mut rate = Self {
            count,
            per_ns: nanoseconds(per).max(1),
            burst,
            ahead_ns: 0,
        };
        rate.ahead_ns = rate.price(burst);
        rate
    }

    /// A part of this rate, rounded down. Burst and rate shrink alike.
    #[must_use]
    pub fn part(&self, millionths: u32) -> Self {
        let of = |whole: u64| u128::from(whole) * u128::from(millionths.min(1_000_000)) / 1_000_000;
        let burst = u64::try_from(of(self.burst)).unwrap_or(u64::MAX);
        // A part of the count may be less than one: the time grows instead.
        let per_ns = u128::from(self.per_ns) * 1_000_000 / u128::from(millionths.max(1));
        let mut rate = Self {
            count: if millionths == 0 { 0 } else { self.count },
            per_ns: u64::try_from(per_ns).unwrap_or(u64::MAX),
            burst,
            ahead_ns: 0,
        };
        rate.ahead_ns = rate.price(1).saturating_mul(rate.burst);
        rate
    }

    /// How much may come at once.
    #[must_use]
    pub fn burst(&self) -> u64 {
        self.burst
    }

    /// How long it takes to earn `amount`, in nanoseconds, rounded up.
    fn price(&self, amount: u64) -> u64 {
        if self.count == 0 {
            return u64::MAX;
        }
        let price = (u128::from(amount) * u128::from(self.per_ns)).div_ceil(u128::from(self.count));
        u64::try_from(price).unwrap_or(u64::MAX)
    }

    /// How much `ns` nanoseconds pay for, rounded down.
    fn worth(&self, ns: u64) -> u64 {
        let amount = u128::from(ns) * u128::from(self.count) / u128::from(self.per_ns);
        u64::try_from(amount).unwrap_or(u64::MAX)
    }

    fn left(&self, paid_until: u64, now: u64) -> Left {
        let owed = paid_until.saturating_sub(now);
        let free = self.ahead_ns.saturating_sub(owed);
        let by_price = free.checked_div(self.price(1)).unwrap_or(0);
        Left {
            remaining: by_price.min(self.burst),
            full_after: Duration::from_nanos(owed),
        }
    }
}

/// One count. Moments are times since a start that all who share it keep to.
#[derive(Debug, Default)]
pub struct Bucket {
    /// When all that was let through is paid for, in nanoseconds since the start.
    paid_until: AtomicU64,
}

impl Bucket {
    /// Makes it as empty as it would be if everything had been taken at `moment`.
    pub fn empty_since(&self, rate: &Rate, moment: Duration) {
        let paid_until = nanoseconds(moment).saturating_add(rate.ahead_ns);
        self.paid_until.fetch_max(paid_until, Ordering::Relaxed);
    }

    /// Lets `amount` through, or says after how long it would.
    ///
    /// # Errors
    /// The wait, [`Duration::MAX`] if no wait would do.
    pub fn take(&self, rate: &Rate, amount: u64, now: Duration) -> Result<Left, Duration> {
        let (now, price) = (nanoseconds(now), rate.price(amount));
        let next = |paid: u64| paid.max(now).saturating_add(price);
        let fits = |paid: u64| next(paid).saturating_sub(now) <= rate.ahead_ns;
        let taken = self
            .paid_until
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |paid| {
                fits(paid).then(|| next(paid))
            });
        match taken {
            Ok(paid) => Ok(rate.left(next(paid), now)),
            Err(_) if price > rate.ahead_ns => Err(Duration::MAX),
            Err(paid) => {
                let wait = next(paid).saturating_sub(now.saturating_add(rate.ahead_ns));
                Err(Duration::from_nanos(wait))
            }
        }
    }

    /// Lets as much of `amount` through as fits now; 0 if nothing does.
    pub fn take_some(&self, rate: &Rate, amount: u64, now: Duration) -> u64 {
        let now = nanoseconds(now);
        let mut taken = 0;
        // What is taken is known only when the exchange succeeds: the closure's last run counts.
        let _ = self
            .paid_until
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |paid| {
                let from = paid.max(now);
                let free = rate.ahead_ns.saturating_sub(from - now);
                taken = rate.worth(free).min(amount);
                (taken > 0).then(|| from.saturating_add(rate.price(taken)))
            });
        taken
    }

    /// Gives back what was let through and not used after all.
    pub fn give_back(&self, rate: &Rate, amount: u64) {
        let price = rate.price(amount);
        let less = |paid: u64| Some(paid.saturating_sub(price));
        let _ = self
            .paid_until
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }

    /// What is left now.
    #[must_use]
    pub fn left(&self, rate: &Rate, now: Duration) -> Left {
        rate.left(self.paid_until.load(Ordering::Relaxed), nanoseconds(now))
    }

    /// Whether it is as full as a new one: it can be forgotten.
    #[must_use]
    pub fn is_full(&self, now: Duration) -> bool {
        self.paid_until.load(Ordering::Relaxed) <= nanoseconds(now)
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// Whether something lets more through in some stretch of time than it may: every stretch, one by one.
    pub(crate) fn exceeded(
        taken: &[(Duration, u64)],
        count: u64,
        per: Duration,
        burst: u64,
    ) -> bool {
        (0..taken.len()).any(|first| {
            let mut sum = 0_u128;
            taken[first..].iter().any(|(at, amount)| {
                sum += u128::from(*amount);
                let time = (*at - taken[first].0).as_nanos();
                sum > u128::from(burst) + u128::from(count) * time / per.as_nanos()
            })
        })
    }

    #[test]
    fn the_burst_comes_at_once_and_the_rest_at_its_rate() {
        let rate = Rate::of_requests(10, ms(1000), 3);
        let bucket = Bucket::default();
        let take = |at| bucket.take(&rate, 1, ms(at));
        let left = take(5000).unwrap();
        assert_eq!((left.remaining, left.full_after), (2, ms(100)));
        take(5000).unwrap();
        assert_eq!(take(5000).unwrap().remaining, 0);
        assert_eq!(take(5000), Err(ms(100)));
        assert_eq!(take(5099), Err(ms(1)));
        take(5100).unwrap();
        assert!(!bucket.is_full(ms(5399)) && bucket.is_full(ms(5400)));
        assert_eq!(bucket.left(&rate, ms(5300)).remaining, 2);
    }

    #[test]
    fn what_is_given_back_can_be_taken_again() {
        let rate = Rate::of_requests(1, ms(1000), 1);
        let bucket = Bucket::default();
        bucket.take(&rate, 1, ms(10)).unwrap();
        bucket.give_back(&rate, 1);
        bucket.take(&rate, 1, ms(10)).unwrap();
        assert!(bucket.take(&rate, 1, ms(10)).is_err());
    }

    #[test]
    fn pieces_are_as_large_as_fits() {
        let rate = Rate::of_bytes(1000, ms(1000));
        let bucket = Bucket::default();
        assert_eq!(bucket.take_some(&rate, 600, ms(0)), 600);
        assert_eq!(bucket.take_some(&rate, 600, ms(0)), 400);
        assert_eq!(bucket.take_some(&rate, 600, ms(0)), 0);
        assert_eq!(bucket.take_some(&rate, 600, ms(100)), 100);
    }

    #[test]
    fn a_part_is_never_more_than_the_part() {
        let whole = Rate::of_requests(10, ms(1000), 10);
        let third = whole.part(333_333);
        assert_eq!(third.burst(), 3);
        let bucket = Bucket::default();
        let taken = (0..10_000).filter(|at| bucket.take(&third, 1, ms(*at)).is_ok());
        assert_eq!(taken.count(), 3 + 33);
        assert_eq!(bucket.take(&whole.part(0), 1, ms(0)), Err(Duration::MAX));
    }

    #[test]
    fn threads_together_get_no_more_than_one() {
        let rate = Rate::of_requests(1, Duration::from_secs(3600), 1000);
        let bucket = Arc::new(Bucket::default());
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let bucket = Arc::clone(&bucket);
                std::thread::spawn(move || {
                    (0..2000)
                        .filter(|_| bucket.take(&rate, 1, ms(1)).is_ok())
                        .count()
                })
            })
            .collect();
        let taken: usize = threads.into_iter().map(|it| it.join().unwrap()).sum();
        assert_eq!(taken, 1000);
    }

    proptest! {
        #[test]
        fn never_above_and_never_needlessly_below(
            count in 1_u32..5_000, per_ms in 1_u64..5_000, burst in 1_u32..200,
            steps in prop::collection::vec(0_u64..3_000_000, 1..300),
        ) {
            let (per, mut now) = (ms(per_ms), Duration::from_secs(9));
            let rate = Rate::of_requests(count, per, burst);
            let bucket = Bucket::default();
            let mut taken = Vec::new();
            for step in steps {
                now += Duration::from_nanos(step);
                match bucket.take(&rate, 1, now) {
                    Ok(_) => taken.push((now, 1)),
                    // The wait is true: a nanosecond earlier it would not fit, then it does.
                    Err(wait) => {
                        prop_assert!(bucket.take(&rate, 1, now + wait - Duration::from_nanos(1)).is_err());
                        now += wait;
                        prop_assert!(bucket.take(&rate, 1, now).is_ok());
                        taken.push((now, 1));
                    }
                }
            }
            prop_assert!(!exceeded(&taken, count.into(), per, burst.into()));
        }

        #[test]
        fn pieces_are_never_above(
            count in 1_u64..50_000_000, per_ms in 1_u64..5_000,
            steps in prop::collection::vec((0_u64..3_000_000, 1_u64..100_000), 1..200),
        ) {
            let (per, mut now) = (ms(per_ms), Duration::from_secs(9));
            let rate = Rate::of_bytes(count, per);
            let bucket = Bucket::default();
            let mut taken = Vec::new();
            for (step, amount) in steps {
                now += Duration::from_nanos(step);
                let some = bucket.take_some(&rate, amount, now);
                prop_assert!(some <= amount);
                taken.push((now, some));
            }
            prop_assert!(!exceeded(&taken, count, per, count + 1));
        }
    }
}
