//! How long to wait before the next try.

use std::time::Duration;

/// Doubling waits with jitter, so that many clients of one server do not come back together.
#[derive(Debug, Clone)]
pub(crate) struct Backoff {
    floor: Duration,
    ceiling: Duration,
    next: Duration,
}

impl Backoff {
    /// The first wait is at most `floor`, none is longer than `ceiling`.
    pub(crate) fn new(floor: Duration, ceiling: Duration) -> Self {
        Self {
            floor,
            ceiling,
            next: floor,
        }
    }

    /// The next wait: between half of the bound and the bound.
    pub(crate) fn wait(&mut self) -> Duration {
        let bound = self.next;
        self.next = bound.saturating_mul(2).min(self.ceiling);
        bound.mul_f64(rand::random_range(0.5..=1.0))
    }

    /// It worked: begin again with short waits.
    pub(crate) fn reset(&mut self) {
        self.next = self.floor;
    }

    /// It worked for so long. What ends as soon as it has begun is no better than what fails: only
    /// what lasted longer than the longest wait begins again with short ones.
    pub(crate) fn worked_for(&mut self, lasted: Duration) {
        if lasted > self.ceiling {
            self.reset();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_the_ceiling_and_begin_again() {
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));
        assert!(backoff.wait() <= Duration::from_millis(50));
        for _ in 0..100 {
            assert!(backoff.wait() <= Duration::from_secs(2));
        }
        assert!(backoff.wait() >= Duration::from_secs(1));
        backoff.worked_for(Duration::from_secs(2));
        assert!(backoff.wait() >= Duration::from_secs(1));
        backoff.worked_for(Duration::from_secs(3));
        assert!(backoff.wait() <= Duration::from_millis(50));
    }
}
