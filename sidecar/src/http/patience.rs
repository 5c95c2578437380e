//! How long something may make no progress.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

/// Runs while something waits. What it is made of is made when something waits for the first time.
#[derive(Debug, Default)]
pub(crate) struct Patience {
    sleep: Option<Pin<Box<Sleep>>>,
    running: bool,
}

impl Patience {
    /// Something moved.
    pub(crate) fn renew(&mut self) {
        self.running = false;
    }

    /// Whether something waits, and was not told otherwise since.
    pub(crate) fn is_running(&self) -> bool {
        self.running
    }

    /// Ready when something has waited for `limit` since it last moved.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, limit: Duration) -> Poll<()> {
        let due = || Instant::now() + limit;
        match &mut self.sleep {
            None => self.sleep = Some(Box::pin(sleep_until(due()))),
            Some(sleep) if !self.running => sleep.as_mut().reset(due()),
            Some(_) => {}
        }
        self.running = true;
        self.sleep
            .as_mut()
            .map_or(Poll::Pending, |sleep| sleep.as_mut().poll(cx))
    }
}
