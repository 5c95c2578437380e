//! When a link sends its packets twice: while it loses some. Pure.

use std::time::Duration;

/// Packets that were sent longer ago than this count half.
const HALVED_EVERY: Duration = Duration::from_secs(10);
/// Fewer lost packets than this may be an accident.
const LOST_MIN: u64 = 2;
/// The share of lost packets from which on copies are worth their bytes.
const LOSS_MIN: f64 = 0.001;
/// How long packets are sent twice after a loss: copies hide the losses that would tell of more.
const HOLD: Duration = Duration::from_secs(60);

/// What a link lost lately.
#[derive(Debug, Default)]
pub(crate) struct Losses {
    sent: u64,
    lost: u64,
    halved: Option<Duration>,
    twice_until: Duration,
}

impl Losses {
    /// So many packets more were sent and lost until `now`. Whether packets are to be sent twice.
    pub(crate) fn observe(&mut self, now: Duration, sent: u64, lost: u64) -> bool {
        let Some(halved) = self.halved else {
            // The link was just made. What that took says little: the peer may not have listened yet.
            self.halved = Some(now);
            return false;
        };
        if now.saturating_sub(halved) >= HALVED_EVERY {
            self.halved = Some(now);
            self.sent /= 2;
            self.lost /= 2;
        }
        self.sent += sent;
        self.lost += lost;
        let share = self.lost as f64 / self.sent.max(1) as f64;
        if lost > 0 && self.lost >= LOST_MIN && share >= LOSS_MIN {
            self.twice_until = now + HOLD;
        }
        now < self.twice_until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn losses_are_answered_for_a_minute() {
        let mut losses = Losses::default();
        assert!(!losses.observe(SECOND, 20, 5), "the handshake's");
        assert!(!losses.observe(SECOND, 1_000, 0));
        assert!(!losses.observe(2 * SECOND, 100, 1), "one is an accident");
        assert!(losses.observe(3 * SECOND, 100, 1));
        assert!(losses.observe(62 * SECOND, 100, 0));
        assert!(!losses.observe(63 * SECOND, 100, 0));
        assert!(!losses.observe(64 * SECOND, 1_000, 0));
    }

    #[test]
    fn one_in_ten_thousand_is_not_worth_a_copy() {
        let mut losses = Losses::default();
        for second in 0..100 {
            assert!(!losses.observe(second * SECOND, 10_000, 1), "{second}");
        }
    }

    #[test]
    fn what_was_lost_long_ago_does_not_count() {
        let mut losses = Losses::default();
        for minute in 0..10 {
            assert!(!losses.observe(60 * minute * SECOND, 10, 1), "{minute}");
        }
    }
}
