//! Timers that requests leave to those after them: to move one on costs a fraction of making one and giving it
//! up, and nearly every request is over long before its time.

use std::cell::RefCell;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::time::{Instant, Sleep, sleep_until};

/// How many wait for the next request.
const TIMERS_MAX: usize = 256;

/// The timers of one worker that nobody uses. One whose time comes wakes whoever used it last, for nothing.
#[derive(Default)]
pub(crate) struct Timers(RefCell<Vec<Pin<Box<Sleep>>>>);

/// Ready at a moment.
pub(crate) struct Timer<'a> {
    timers: &'a Timers,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Timers {
    /// A timer that is ready at `moment`.
    pub(crate) fn until(&self, moment: Instant) -> Timer<'_> {
        let mut sleep = self.0.borrow_mut().pop();
        match &mut sleep {
            Some(sleep) => sleep.as_mut().reset(moment),
            None => sleep = Some(Box::pin(sleep_until(moment))),
        }
        Timer {
            timers: self,
            sleep,
        }
    }
}

impl Future for Timer<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.sleep {
            Some(sleep) => sleep.as_mut().poll(cx),
            None => Poll::Ready(()),
        }
    }
}

impl Drop for Timer<'_> {
    fn drop(&mut self) {
        let mut idle = self.timers.0.borrow_mut();
        if idle.len() < TIMERS_MAX {
            idle.extend(self.sleep.take());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test]
    async fn a_timer_that_was_left_is_ready_when_its_new_time_comes() {
        let timers = Timers::default();
        let hour = Duration::from_secs(3600);
        for (first, second) in [(hour, 20), (Duration::from_millis(1), 20)] {
            let mut left = timers.until(Instant::now() + first);
            let mut cx = Context::from_waker(std::task::Waker::noop());
            let _ = Pin::new(&mut left).poll(&mut cx);
            drop(left);
            assert_eq!(timers.0.borrow().len(), 1);
            let begun = Instant::now();
            let time = Duration::from_millis(second);
            timers.until(begun + time).await;
            assert!(begun.elapsed() >= time);
        }
    }
}
