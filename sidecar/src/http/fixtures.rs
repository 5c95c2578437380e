//! What tests of this room share.

use tokio::runtime::LocalOptions;

/// Runs a test whose tasks stay on its thread. Whoever runs tests ends one that hangs: a time limit here would pass with
/// the time that a test lets pass.
pub(super) fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build_local(LocalOptions::default());
    runtime.unwrap().block_on(test);
}
