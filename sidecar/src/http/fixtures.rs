//! What tests of this room share.

use hyper::rt::Executor;
use tokio::runtime::LocalOptions;
use tokio::task::spawn_local;

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
