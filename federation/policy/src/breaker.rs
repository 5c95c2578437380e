//! Bounds on what one upstream service may have under way; above them calls are refused at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use portolan_model::traffic::CircuitBreaker;
use portolan_model::{Hop, Reason, Refusal};

/// How much may be under way to one upstream service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Open connections.
    pub connections: u32,
    /// Calls that wait for a connection.
    pub pending: u32,
    /// Calls that were sent and are not finished.
    pub requests: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 1024,
            pending: 1024,
            requests: 1024,
        }
    }
}

impl From<&CircuitBreaker> for Limits {
    fn from(declared: &CircuitBreaker) -> Self {
        Self {
            connections: declared.connections,
            pending: declared.pending,
            requests: declared.requests,
        }
    }
}

/// What is bounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    /// Open connections.
    Connections,
    /// Calls that wait for a connection.
    Pending,
    /// Calls that were sent and are not finished.
    Requests,
}

/// Counts what is under way to one upstream service. Clones count together, on every thread.
#[derive(Debug, Clone, Default)]
pub struct Breaker {
    limits: Limits,
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    connections: AtomicU32,
    pending: AtomicU32,
    requests: AtomicU32,
}

/// One thing under way, until it is dropped.
#[derive(Debug)]
#[must_use = "dropping the permit says that it is over"]
pub struct Permit {
    counts: Arc<Counts>,
    bound: Bound,
}

impl Breaker {
    /// A breaker with nothing under way.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            counts: Arc::default(),
        }
    }

    /// The same counts under other limits.
    #[must_use]
    pub fn limited(&self, limits: Limits) -> Self {
        Self {
            limits,
            counts: Arc::clone(&self.counts),
        }
    }

    /// Counts one more thing under way, until the permit is dropped.
    ///
    /// # Errors
    /// [`Reason::Overloaded`] when there are as many as the limit allows.
    pub fn try_acquire(&self, bound: Bound) -> Result<Permit, Refusal> {
        let limit = self.limit(bound);
        let more = |count: u32| (count < limit).then(|| count + 1);
        match self
            .counts
            .of(bound)
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more)
        {
            Ok(_) => Ok(Permit {
                counts: Arc::clone(&self.counts),
                bound,
            }),
            Err(count) => Err(Refusal::new(
                Reason::Overloaded,
                Hop::Outbound,
                format!("{count} {} under way, the limit is {limit}", bound.plural()),
            )),
        }
    }

    /// How many are under way.
    #[must_use]
    pub fn in_use(&self, bound: Bound) -> u32 {
        self.counts.of(bound).load(Ordering::Relaxed)
    }

    fn limit(&self, bound: Bound) -> u32 {
        match bound {
            Bound::Connections => self.limits.connections,
            Bound::Pending => self.limits.pending,
            Bound::Requests => self.limits.requests,
        }
    }
}

impl Counts {
    fn of(&self, bound: Bound) -> &AtomicU32 {
        match bound {
            Bound::Connections => &self.connections,
            Bound::Pending => &self.pending,
            Bound::Requests => &self.requests,
        }
    }
}

impl Bound {
    fn plural(self) -> &'static str {
        match self {
            Self::Connections => "connections are",
            Self::Pending => "waiting calls are",
            Self::Requests => "calls are",
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.counts.of(self.bound).fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_limit_is_reached_exactly_and_says_so() {
        let breaker = Breaker::new(Limits {
            requests: 2,
            ..Limits::default()
        });
        let first = breaker.try_acquire(Bound::Requests).unwrap();
        let _second = breaker.clone().try_acquire(Bound::Requests).unwrap();
        let refusal = breaker.try_acquire(Bound::Requests).unwrap_err();
        assert_eq!(refusal.reason, Reason::Overloaded);
        assert_eq!(refusal.detail, "2 calls are under way, the limit is 2");
        assert!(breaker.try_acquire(Bound::Pending).is_ok());
        drop(first);
        assert!(breaker.try_acquire(Bound::Requests).is_ok());
    }

    proptest! {
        /// Reference: a list of what was let in.
        #[test]
        fn never_above_the_limit(limit in 0_u32..5, steps in prop::collection::vec(any::<bool>(), 0..60)) {
            let breaker = Breaker::new(Limits { connections: limit, ..Limits::default() });
            let mut inside = Vec::new();
            for enter in steps {
                if enter {
                    let permit = breaker.try_acquire(Bound::Connections);
                    prop_assert_eq!(permit.is_ok(), inside.len() < limit as usize);
                    inside.extend(permit);
                } else {
                    inside.pop();
                }
                prop_assert_eq!(breaker.in_use(Bound::Connections) as usize, inside.len());
            }
        }
    }
}
