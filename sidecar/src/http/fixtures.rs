//! What tests of this room share.

use std::time::Duration;

use hyper::rt::Executor;
use tokio::runtime::LocalOptions;
use tokio::task::{spawn_local, yield_now};
use tokio::time::{advance, pause, resume};

/// Runs hyper's tasks on the test's own thread.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LocalExecutor;

impl<F: Future<Output = ()> + 'static> Executor<F> for LocalExecutor {
    fn execute(&self, future: F) {
        spawn_local(future);
    }
}

/// Runs a test whose tasks stay on its thread. Whoever runs tests ends one that hangs: a time limit here would pass with
/// the time that a test lets pass.
pub(super) fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build_local(LocalOptions::default());
    runtime.unwrap().block_on(test);
}

/// Lets time pass at once, and everybody act on it. Timers may be a millisecond late.
pub(crate) async fn pass(time: Duration) {
    pause();
    advance(time + Duration::from_millis(2)).await;
    resume();
    for _ in 0..20 {
        yield_now().await;
    }
}
