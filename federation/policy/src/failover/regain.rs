//! How a cluster that was gone gets its share back: little by little, so that calls do not fall on caches
//! that are cold and connections that are not there; and the slower the more often it goes.

use std::time::Duration;

/// The part that a cluster has at once when it comes back.
const FIRST_PART: f64 = 0.1;
/// How much longer the return may take after several, as a power of two.
const DOUBLINGS_MAX: u32 = 3;
/// A cluster that stayed for so long after it had everything is as good as one that never went.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(60);

/// Whether one cluster can take calls, over time. Moments must not go backwards.
#[derive(Debug, Clone, Default)]
pub struct Regain {
    /// It could take calls at some time.
    seen: bool,
    /// It could, and cannot now.
    gone: bool,
    /// When it came back.
    back_at: Option<Duration>,
    /// How often it came back since that was forgotten last.
    returns: u32,
}

impl Regain {
    /// Notes whether the cluster can take calls at `now`. Returns which part of its share it has, from 0 to
    /// 1. A cluster that was never gone has all of it at once, and so has every one if `over` is nothing.
    pub fn observe(&mut self, available: bool, now: Duration, over: Duration) -> f64 {
        if !available {
            self.gone = self.seen;
            return 1.0;
        }
        self.seen = true;
        if std::mem::take(&mut self.gone) {
            self.back_at = Some(now);
            self.returns = self.returns.saturating_add(1);
        }
        let Some(back_at) = self.back_at else {
            return 1.0;
        };
        let doublings = self.returns.saturating_sub(1).min(DOUBLINGS_MAX);
        let over = over.saturating_mul(1 << doublings);
        let passed = now.saturating_sub(back_at);
        if passed < over {
            let part = passed.as_secs_f64() / over.as_secs_f64();
            return FIRST_PART + (1.0 - FIRST_PART) * part;
        }
        if passed >= over.saturating_add(FORGOTTEN_AFTER) {
            self.back_at = None;
            self.returns = 0;
        }
        1.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const OVER: Duration = Duration::from_secs(10);

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// The part in percent.
    fn part(regain: &mut Regain, available: bool, at_s: u64) -> u32 {
        (regain.observe(available, s(at_s), OVER) * 100.0).round() as u32
    }

    #[test]
    fn who_begins_has_everything_and_who_comes_back_gets_it_little_by_little() {
        let mut regain = Regain::default();
        assert_eq!(part(&mut regain, false, 0), 100);
        assert_eq!(part(&mut regain, true, 1), 100, "it was never there before");
        part(&mut regain, false, 2);
        assert_eq!(part(&mut regain, true, 20), 10, "not nothing");
        assert_eq!(part(&mut regain, true, 25), 55);
        assert_eq!(part(&mut regain, true, 30), 100);
    }

    #[test]
    fn who_flaps_takes_longer_each_time_and_is_forgiven_when_it_stays() {
        let mut regain = Regain::default();
        part(&mut regain, true, 0);
        for (gone, back, whole) in [
            (1, 2, 12),
            (13, 14, 34),
            (35, 36, 76),
            (77, 78, 158),
            (159, 160, 240),
        ] {
            part(&mut regain, false, gone);
            assert_eq!(part(&mut regain, true, back), 10);
            assert!(part(&mut regain, true, whole - 1) < 100, "{whole}");
            assert_eq!(part(&mut regain, true, whole), 100, "{whole}");
        }
        part(&mut regain, true, 300);
        part(&mut regain, false, 301);
        part(&mut regain, true, 302);
        assert_eq!(part(&mut regain, true, 312), 100);
    }

    #[test]
    fn without_a_time_to_return_everything_is_back_at_once() {
        let mut regain = Regain::default();
        for available in [true, false] {
            regain.observe(available, s(1), Duration::ZERO);
        }
        assert!(regain.observe(true, s(2), Duration::ZERO) >= 1.0);
    }

    proptest! {
        #[test]
        fn the_part_is_never_nothing_and_never_falls_while_it_stays(
            steps in prop::collection::vec((any::<bool>(), 0_u64..5_000), 1..60)
        ) {
            let mut regain = Regain::default();
            let (mut now_ms, mut before) = (0, None);
            for (available, wait_ms) in steps {
                now_ms += wait_ms;
                let part = regain.observe(available, Duration::from_millis(now_ms), OVER);
                prop_assert!((FIRST_PART..=1.0).contains(&part));
                if let Some(before) = before {
                    prop_assert!(!available || part >= before, "{part} after {before}");
                }
                before = available.then_some(part);
            }
        }
    }
}
