//! Whether an app beside a sidecar is stuck: it is there, its system accepts connections for it, and it
//! does nothing.
//!
//! Such an app cannot be told from a slow one by its silence alone. But an app that is only slow goes on
//! to accept connections, or answers somebody else meanwhile. One that does neither for a while is stuck,
//! or can serve one request at a time and is busy with one. For everybody else that is the same: if
//! somebody else can serve them, they should go there.

use std::time::Duration;

use crate::awake::Awake;

/// How long connections must wait in vain to be accepted.
pub const STALLED_AFTER: Duration = Duration::from_secs(1);
/// The longest pause between two looks that counts in full.
const STEP_MAX: Duration = Duration::from_millis(300);

/// What a caller says of a request that it sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Alternative {
    /// Nobody else could serve it: let it wait.
    None,
    /// Somebody else could, as long as it is certain that it was not processed here.
    Unsent,
    /// Somebody else could, and to process it twice does no harm.
    Any,
}

impl Alternative {
    /// What is said of a request: whether it may be sent `again`, or at least if it was `unsent`.
    #[must_use]
    pub fn of(again: bool, unsent: bool) -> Self {
        match (again, unsent) {
            (true, _) => Self::Any,
            (false, true) => Self::Unsent,
            (false, false) => Self::None,
        }
    }

    /// Whether a request is refused by a sidecar whose app is stuck; `sent` tells whether the app may
    /// have got it.
    #[must_use]
    pub fn refused(self, sent: bool) -> bool {
        match self {
            Self::None => false,
            Self::Unsent => !sent,
            Self::Any => true,
        }
    }
}

/// What was seen of one port of the app. Moments must not go backwards.
#[derive(Debug, Clone)]
pub struct Stall {
    awake: Awake,
    looked: Duration,
    /// How long the observer had been awake when connections began to wait.
    since: Option<Duration>,
    stuck: bool,
}

impl Stall {
    /// Nothing was seen before `now`.
    #[must_use]
    pub fn new(now: Duration) -> Self {
        Self {
            awake: Awake::new(STEP_MAX, now),
            looked: now,
            since: None,
            stuck: false,
        }
    }

    /// Looks at the port: how many connections wait to be accepted (`None`: that cannot be seen), and
    /// when the app answered last. Returns whether the app is stuck.
    pub fn look(
        &mut self,
        now: Duration,
        waiting: Option<u32>,
        answered: Option<Duration>,
    ) -> bool {
        let counted = self.awake.look(now);
        let looked = std::mem::replace(&mut self.looked, now);
        let answers = answered.is_some_and(|at| at > looked);
        self.since = match waiting {
            Some(1..) if !answers => self.since.or(Some(counted)),
            Some(_) | None => None,
        };
        let waited = self.since.map(|since| counted.saturating_sub(since));
        self.stuck = waited.is_some_and(|waited| waited >= STALLED_AFTER);
        self.stuck
    }

    /// Whether it was stuck at the last look.
    #[must_use]
    pub fn stuck(&self) -> bool {
        self.stuck
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// Looks every 250 ms from second 10 on; the first look at which it was stuck.
    fn stuck_at(
        waiting: impl Fn(u64) -> Option<u32>,
        answered: impl Fn(u64) -> Option<u64>,
    ) -> Option<u64> {
        let mut stall = Stall::new(ms(9_750));
        (10_000..20_000)
            .step_by(250)
            .find(|now| stall.look(ms(*now), waiting(*now), answered(*now).map(ms)))
    }

    #[test]
    fn stuck_is_who_neither_accepts_nor_answers_for_a_second() {
        let before = |_| Some(9_000);
        assert_eq!(stuck_at(|_| Some(2), before), Some(11_000));
        assert_eq!(stuck_at(|_| Some(2), |_| None), Some(11_000));
        assert_eq!(stuck_at(|_| Some(0), before), None, "all are accepted");
        assert_eq!(stuck_at(|_| None, before), None, "nobody knows");
        let now_and_then = |now| Some(u32::from(now % 1_000 != 0));
        assert_eq!(stuck_at(now_and_then, before), None, "it accepts");
        let answers = |now| Some(now / 500 * 500);
        assert_eq!(stuck_at(|_| Some(9), answers), None, "it answers");
        let until_12 = |now: u64| Some(now.min(12_000));
        assert_eq!(stuck_at(|_| Some(9), until_12), Some(13_250));
    }

    #[test]
    fn it_ends_at_once_and_a_sleep_of_the_observer_counts_little() {
        let mut stall = Stall::new(ms(0));
        for now in [250, 500, 750, 1_000, 1_250] {
            stall.look(ms(now), Some(1), None);
        }
        assert!(stall.stuck());
        assert!(!stall.look(ms(1_500), Some(0), None) && !stall.stuck());
        assert!(!stall.look(ms(1_750), Some(1), None));
        assert!(
            !stall.look(ms(61_750), Some(1), None),
            "one step, not a minute"
        );
    }

    #[test]
    fn who_is_refused() {
        for (again, unsent, refused_before, refused_after) in [
            (true, true, true, true),
            (false, true, true, false),
            (false, false, false, false),
        ] {
            let alternative = Alternative::of(again, unsent);
            assert_eq!(alternative.refused(false), refused_before);
            assert_eq!(alternative.refused(true), refused_after);
        }
    }
}
