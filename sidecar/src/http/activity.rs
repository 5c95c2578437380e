//! Whether a connection is in use.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// Requests under way on a connection.
pub(crate) struct Activity {
    running: Cell<usize>,
    quiet_since: Cell<Instant>,
}

/// One request under way, until it is dropped.
pub(crate) struct Busy(Rc<Activity>);

impl Activity {
    pub(crate) fn new() -> Rc<Self> {
        Rc::new(Self {
            running: Cell::new(0),
            quiet_since: Cell::new(Instant::now()),
        })
    }

    /// A request begins.
    pub(crate) fn begin(self: &Rc<Self>) -> Busy {
        self.running.set(self.running.get() + 1);
        Busy(Rc::clone(self))
    }

    /// Ends when there was no request for this long. Requests do not tell it that they begin and end, which
    /// would cost each of them a timer: it looks when the time could have come.
    pub(crate) async fn idle(&self, limit: Duration) {
        let mut look = self.quiet_since.get() + limit;
        loop {
            sleep_until(look).await;
            let now = Instant::now();
            let since = match self.running.get() {
                0 => self.quiet_since.get(),
                _ => now,
            };
            look = since + limit;
            if look <= now {
                return;
            }
        }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let left = self.0.running.get().saturating_sub(1);
        self.0.running.set(left);
        if left == 0 {
            self.0.quiet_since.set(Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::timeout;

    const LIMIT: Duration = Duration::from_millis(20);

    #[tokio::test]
    async fn a_connection_is_idle_when_its_last_request_is_long_over() {
        let activity = Activity::new();
        let (first, second) = (activity.begin(), activity.begin());
        assert!(timeout(LIMIT * 4, activity.idle(LIMIT)).await.is_err());
        drop(first);
        assert!(timeout(LIMIT * 4, activity.idle(LIMIT)).await.is_err());
        let begun = Instant::now();
        drop(second);
        activity.idle(LIMIT).await;
        assert!(begun.elapsed() >= LIMIT);
    }
}
