//! An instance's part of a limit that all instances keep together: tokens that the control plane let it
//! have for a moment, spent without asking anybody.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use portolan_model::limit::Alone;

use super::bucket::{Bucket, Left, Rate};

/// How long tokens may be spent, from when they were asked for.
pub const LEASE: Duration = Duration::from_millis(500);
/// The pause between two askings of an instance.
pub const ASK_EVERY: Duration = Duration::from_millis(125);
/// An instance without an answer for so long is alone. Longer than
/// [`super::budget::LOST_AFTER`]: its share is set aside before it goes by it.
pub const ALONE_AFTER: Duration = Duration::from_millis(2_000);
/// Askings whose tokens may live at the same time.
const GRANTS_MAX: usize = 8;
/// The most tokens of one asking.
pub const TOKENS_MAX: u32 = (1 << TOKEN_BITS) - 1;
const TOKEN_BITS: u32 = 24;
/// What a token is worth where bytes are counted: small pieces waste little, and the most tokens of one asking
/// are still a gigabyte.
pub const BYTES_PER_TOKEN: u64 = 64;

/// What an instance knows of the control plane. One for all its leases.
#[derive(Debug, Default)]
pub struct Contact {
    /// When it asked the question that was answered last, in milliseconds since the start; 0: never.
    answered_ms: AtomicU64,
}

impl Contact {
    /// An answer came to what was asked at `asked`.
    pub fn answered(&self, asked: Duration) {
        let _ = self
            .answered_ms
            .fetch_max(milliseconds(asked).max(1), Ordering::Relaxed);
    }

    /// Since when nothing that was asked has been answered, if that is too long.
    #[must_use]
    pub fn alone_since(&self, now: Duration) -> Option<Duration> {
        let answered = Duration::from_millis(self.answered_ms.load(Ordering::Relaxed));
        (answered.is_zero() || now.saturating_sub(answered) > ALONE_AFTER).then_some(answered)
    }
}

/// The tokens that an instance has for one key of one limit.
#[derive(Debug, Default)]
pub struct Lease {
    /// Until when, in milliseconds since the start, and how many.
    grants: [AtomicU64; GRANTS_MAX],
    /// Tried since the last asking.
    tried: AtomicU32,
    /// What was asked for the last time before.
    usual: AtomicU32,
    /// Until when there is nothing to be had, in milliseconds since the start.
    short_until_ms: AtomicU64,
    /// Counts while the instance is alone.
    alone: Bucket,
}

/// Tokens that were spent together, so that what is not used after all can be given back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spent {
    /// Tokens of the grant that lives until then, in milliseconds since the start.
    Granted {
        /// How many.
        tokens: u32,
        /// Until when.
        until_ms: u64,
    },
    /// Tokens of the own share, while alone.
    Alone(u32),
    /// Nobody counts while alone.
    Free(u32),
}

impl Spent {
    /// How many.
    #[must_use]
    pub fn tokens(self) -> u32 {
        match self {
            Self::Granted { tokens, .. } | Self::Alone(tokens) | Self::Free(tokens) => tokens,
        }
    }

    /// What is left of it when so many were given back.
    #[must_use]
    pub fn less(self, unused: u32) -> Self {
        let left = self.tokens().saturating_sub(unused);
        match self {
            Self::Granted { until_ms, .. } => Self::Granted {
                tokens: left,
                until_ms,
            },
            Self::Alone(_) => Self::Alone(left),
            Self::Free(_) => Self::Free(left),
        }
    }
}

/// Why a lease let nothing through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Empty {
    /// The limit is reached, as far as is known. Worth another try after this time.
    Reached(Duration),
    /// Nobody was asked yet: an answer may be had in a moment.
    Unasked,
}

impl Lease {
    /// Spends a token.
    ///
    /// # Errors
    /// When there is none.
    pub fn take(&self, now: Duration) -> Result<(), Empty> {
        let now_ms = milliseconds(now);
        self.tries(1);
        let spend = |word: u64| (until(word) > now_ms && tokens(word) > 0).then(|| word - 1);
        let spent = self.grants.iter().any(|grant| {
            grant
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, spend)
                .is_ok()
        });
        if spent {
            Ok(())
        } else {
            Err(self.why_empty(now_ms))
        }
    }

    /// Spends as many of `wanted` tokens as there are in the grant that ends first.
    ///
    /// # Errors
    /// When there are none.
    pub fn take_some(&self, wanted: u32, now: Duration) -> Result<Spent, Empty> {
        let now_ms = milliseconds(now);
        let mut by_end: [&AtomicU64; GRANTS_MAX] = std::array::from_fn(|at| &self.grants[at]);
        by_end.sort_by_key(|grant| until(grant.load(Ordering::Relaxed)));
        for grant in by_end {
            let part = |word: u64| u64::from(tokens(word).min(wanted));
            let spend =
                |word: u64| (until(word) > now_ms && part(word) > 0).then(|| word - part(word));
            let spent = grant.fetch_update(Ordering::Relaxed, Ordering::Relaxed, spend);
            if let Ok(word) = spent {
                let tokens = tokens(word).min(wanted);
                self.tries(tokens);
                return Ok(Spent::Granted {
                    tokens,
                    until_ms: until(word),
                });
            }
        }
        self.tries(wanted);
        Err(self.why_empty(now_ms))
    }

    /// Gives back `unused` tokens of those: to the same grant, so that they live no longer than they would have.
    pub fn give_back(&self, spent: Spent, unused: u32, rate: &Rate) {
        let unused = unused.min(spent.tokens());
        match spent {
            Spent::Granted { until_ms, .. } => {
                let _ = self
                    .tried
                    .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |tried| {
                        Some(tried.saturating_sub(unused))
                    });
                let add = |word: u64| {
                    let fits = tokens(word).checked_add(unused)? <= TOKENS_MAX;
                    (until(word) == until_ms && fits).then(|| word + u64::from(unused))
                };
                // A grant that was replaced in the meantime has nothing to be added to.
                let _ = self.grants.iter().find(|grant| {
                    grant
                        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, add)
                        .is_ok()
                });
            }
            Spent::Alone(_) => self.alone.give_back(rate, unused.into()),
            Spent::Free(_) => {}
        }
    }

    fn tries(&self, more: u32) {
        let _ = self
            .tried
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |tried| {
                Some(tried.saturating_add(more))
            });
    }

    fn why_empty(&self, now_ms: u64) -> Empty {
        if self.short_until_ms.load(Ordering::Relaxed) > now_ms {
            Empty::Reached(ASK_EVERY)
        } else {
            Empty::Unasked
        }
    }

    /// [`Lease::take_some`] while nobody can be asked since `since`; 0 tokens if nothing may pass.
    pub fn take_some_alone(
        &self,
        wanted: u32,
        alone: Alone,
        (rate, share): (&Rate, u32),
        (since, now): (Duration, Duration),
    ) -> Spent {
        match alone {
            Alone::Open => Spent::Free(wanted),
            Alone::Closed => Spent::Alone(0),
            Alone::LastShare => {
                let own = rate.part(share);
                self.alone.empty_since(&own, since);
                let some = self.alone.take_some(&own, wanted.into(), now);
                // It is at most `wanted`.
                Spent::Alone(u32::try_from(some).unwrap_or(wanted))
            }
        }
    }

    /// Lets a request through, or not, while nobody can be asked since `since`. `share`: millionths
    /// of `rate` that are the instance's own.
    ///
    /// # Errors
    /// The time after which it may be tried again.
    pub fn take_alone(
        &self,
        alone: Alone,
        (rate, share): (&Rate, u32),
        since: Duration,
        now: Duration,
    ) -> Result<Option<Left>, Duration> {
        match alone {
            Alone::Open => Ok(None),
            Alone::Closed => Err(ALONE_AFTER),
            Alone::LastShare => {
                let own = rate.part(share);
                self.alone.empty_since(&own, since);
                self.alone
                    .take(&own, 1, now)
                    .map(Some)
                    .map_err(|wait| wait.min(Duration::from_secs(60)))
            }
        }
    }

    /// How many tokens to ask for: what was tried of late and a little more, less what is left.
    pub fn asking(&self, now: Duration) -> u32 {
        let tried = self.tried.swap(0, Ordering::Relaxed);
        let usual = self.usual.load(Ordering::Relaxed);
        let expected = tried.max(usual / 2);
        self.usual.store(expected, Ordering::Relaxed);
        let wanted = expected.saturating_add(expected / 4).min(TOKENS_MAX);
        wanted.saturating_sub(self.unspent(now))
    }

    /// Takes what was given of `asked` tokens that were asked for at `at`.
    pub fn put(&self, asked: u32, given: u32, at: Duration) {
        let until_ms = milliseconds(at + LEASE);
        if given < asked {
            self.short_until_ms
                .store(milliseconds(at + 3 * ASK_EVERY), Ordering::Relaxed);
        } else {
            self.short_until_ms.store(0, Ordering::Relaxed);
        }
        let word = until_ms << TOKEN_BITS | u64::from(given.min(TOKENS_MAX));
        let oldest = self
            .grants
            .iter()
            .min_by_key(|grant| until(grant.load(Ordering::Relaxed)));
        if let Some(oldest) = oldest.filter(|_| given > 0) {
            oldest.store(word, Ordering::Relaxed);
        }
    }

    /// Tokens that can be spent now.
    #[must_use]
    pub fn unspent(&self, now: Duration) -> u32 {
        let now_ms = milliseconds(now);
        let words = self
            .grants
            .iter()
            .map(|grant| grant.load(Ordering::Relaxed));
        words
            .filter(|word| until(*word) > now_ms)
            .map(tokens)
            .fold(0, u32::saturating_add)
    }

    /// Whether nobody needs it: it can be forgotten.
    #[must_use]
    pub fn is_unused(&self, now: Duration) -> bool {
        self.tried.load(Ordering::Relaxed) == 0
            && self.usual.load(Ordering::Relaxed) == 0
            && self.unspent(now) == 0
            && self.alone.is_full(now)
    }
}

fn until(word: u64) -> u64 {
    word >> TOKEN_BITS
}

fn tokens(word: u64) -> u32 {
    // The mask leaves 24 bits.
    u32::try_from(word & u64::from(TOKENS_MAX)).unwrap_or(TOKENS_MAX)
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn tokens_are_spent_once_and_only_in_time() {
        let lease = Lease::default();
        assert_eq!(lease.take(ms(10)), Err(Empty::Unasked));
        lease.put(2, 2, ms(10));
        assert_eq!(lease.unspent(ms(509)), 2);
        assert_eq!(lease.take(ms(20)), Ok(()));
        assert_eq!(lease.take(ms(510)), Err(Empty::Unasked), "too late");
        lease.put(3, 1, ms(600));
        assert_eq!(lease.take(ms(610)), Ok(()));
        assert_eq!(lease.take(ms(610)), Err(Empty::Reached(ASK_EVERY)));
    }

    #[test]
    fn what_is_not_used_goes_back_to_the_grant_it_came_from() {
        let rate = Rate::of_requests(10, ms(1000), 10);
        let lease = Lease::default();
        assert_eq!(lease.take_some(5, ms(10)), Err(Empty::Unasked));
        lease.put(10, 10, ms(100));
        lease.put(4, 4, ms(10));
        let first = lease.take_some(6, ms(110)).unwrap();
        let of_first = Spent::Granted {
            tokens: 4,
            until_ms: 510,
        };
        assert_eq!(
            first, of_first,
            "of the one that ends first, all that is there"
        );
        lease.give_back(first, 3, &rate);
        assert_eq!(lease.unspent(ms(509)), 13);
        assert_eq!(
            lease.unspent(ms(510)),
            10,
            "they live no longer than before"
        );
        let second = lease.take_some(6, ms(520)).unwrap();
        assert_eq!(second.tokens(), 6);
        lease.give_back(second, 100, &rate);
        assert_eq!(lease.unspent(ms(520)), 10, "no more than was spent");
        assert_eq!(lease.take_some(1, ms(600)), Err(Empty::Unasked));
    }

    #[test]
    fn bytes_too_do_as_written_when_alone() {
        let lease = Lease::default();
        let rate = Rate::of_requests(10, ms(1000), 10);
        let take = |alone, share, now| {
            let some = lease.take_some_alone(8, alone, (&rate, share), (ms(1000), ms(now)));
            some.tokens()
        };
        assert_eq!(take(Alone::Open, 0, 3001), 8);
        assert_eq!(take(Alone::Closed, 500_000, 3001), 0);
        assert_eq!(take(Alone::LastShare, 0, 3001), 0);
        // Empty at the last answer, half of the rate since.
        assert_eq!(take(Alone::LastShare, 500_000, 1800), 4);
        assert_eq!(take(Alone::LastShare, 500_000, 1800), 0);
    }

    #[test]
    fn it_asks_for_what_was_tried_and_forgets_by_halves() {
        let lease = Lease::default();
        for _ in 0..8 {
            let _ = lease.take(ms(1));
        }
        assert_eq!(lease.asking(ms(2)), 10);
        assert_eq!(lease.asking(ms(2)), 5);
        lease.put(5, 5, ms(2));
        assert_eq!(lease.asking(ms(2)), 0, "what is left is enough");
        assert!(!lease.is_unused(ms(3)));
        let _ = lease.asking(ms(700));
        assert_eq!(lease.asking(ms(700)), 0);
        assert!(lease.is_unused(ms(700)));
    }

    #[test]
    fn whoever_is_alone_does_as_written() {
        let contact = Contact::default();
        assert_eq!(contact.alone_since(ms(1)), Some(ms(0)), "never answered");
        contact.answered(ms(1000));
        assert_eq!(contact.alone_since(ms(3000)), None);
        assert_eq!(contact.alone_since(ms(3001)), Some(ms(1000)));
        let lease = Lease::default();
        let rate = Rate::of_requests(10, ms(1000), 10);
        let take = |alone, share, now| lease.take_alone(alone, (&rate, share), ms(1000), now);
        assert_eq!(take(Alone::Open, 0, ms(3001)), Ok(None));
        assert!(take(Alone::Closed, 500_000, ms(3001)).is_err());
        assert!(take(Alone::LastShare, 0, ms(3001)).is_err());
        // Empty at the last answer, half of the rate since.
        let served = (0..30).filter(|_| take(Alone::LastShare, 500_000, ms(1800)).is_ok());
        assert_eq!(served.count(), 4);
    }
}
