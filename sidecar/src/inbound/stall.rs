//! Watches whether the app is stuck, while requests wait for it that somebody else could serve.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use portolan_policy::stall::Stall;
use tokio::time::{Instant, sleep};

/// How long a request waits for its answer before it is looked why.
const PATIENCE: Duration = Duration::from_millis(400);
/// How often it is looked, however many requests wait.
const LOOK: Duration = Duration::from_millis(200);

/// How one port of the app does.
pub(super) struct StallWatch {
    created: Instant,
    looked: Cell<Option<Instant>>,
    answered: Cell<Option<Instant>>,
    stall: RefCell<Stall>,
}

impl Default for StallWatch {
    fn default() -> Self {
        Self {
            created: Instant::now(),
            looked: Cell::new(None),
            answered: Cell::new(None),
            stall: RefCell::new(Stall::new(Duration::ZERO)),
        }
    }
}

impl StallWatch {
    /// The app answered.
    pub(super) fn answers(&self) {
        self.answered.set(Some(Instant::now()));
    }

    /// Whether the app was found stuck, and is so still; `waiting` tells how many connections it has yet
    /// to accept.
    pub(super) fn still_stuck(&self, waiting: impl Fn() -> Option<u32>) -> bool {
        self.stall.borrow().stuck() && self.look(waiting)
    }

    /// Ends when the app is found stuck.
    pub(super) async fn stuck(&self, waiting: impl Fn() -> Option<u32>) {
        sleep(PATIENCE).await;
        while !self.look(&waiting) {
            sleep(LOOK).await;
        }
    }

    fn look(&self, waiting: impl Fn() -> Option<u32>) -> bool {
        let mut stall = self.stall.borrow_mut();
        let unchanged = |looked: Instant| {
            let answers = self.answered.get().is_some_and(|at| at > looked);
            looked.elapsed() < LOOK / 2 && !answers
        };
        if self.looked.get().is_some_and(unchanged) {
            return stall.stuck();
        }
        self.looked.set(Some(Instant::now()));
        let moment = |at: Instant| at.saturating_duration_since(self.created);
        stall.look(
            moment(Instant::now()),
            waiting(),
            self.answered.get().map(moment),
        )
    }
}
