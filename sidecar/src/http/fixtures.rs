//! What tests of this room share.

use std::time::Duration;

use tokio::runtime::LocalOptions;
use tokio::time::timeout;

/// Much longer than any of these tests takes.
const AMPLE: Duration = Duration::from_secs(20);

/// Runs a test whose tasks stay on its thread.
pub(super) fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build_local(LocalOptions::default());
    let ended = runtime
        .unwrap()
        .block_on(async { timeout(AMPLE, test).await });
    ended.expect("the test ends");
}
