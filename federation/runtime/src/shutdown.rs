//! Stopping: one signal that every part of a process waits for.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::start::StartError;

/// The exit code of a process that was told twice to stop.
const IMPATIENT_EXIT: i32 = 130;

/// Whether the process should stop. Clones share one state, which never goes back.
#[derive(Debug, Clone, Default)]
pub struct Shutdown(CancellationToken);

impl Shutdown {
    /// A shutdown that nobody has asked for yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A shutdown that SIGTERM and SIGINT trigger. The second such signal ends the process at once.
    ///
    /// # Errors
    /// When the process may not start a thread or handle signals.
    pub fn on_signals() -> Result<Self, StartError> {
        let shutdown = Self::new();
        let fail = |source| StartError::io("handle", "signals", source);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(fail)?;
        let guard = runtime.enter();
        let mut terminate = signal(SignalKind::terminate()).map_err(fail)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(fail)?;
        drop(guard);
        let triggered = shutdown.clone();
        let wait = async move {
            loop {
                let name = tokio::select! {
                    _ = terminate.recv() => "SIGTERM",
                    _ = interrupt.recv() => "SIGINT",
                };
                if triggered.is_triggered() {
                    tracing::warn!(signal = name, "told again to stop: ending at once");
                    std::process::exit(IMPATIENT_EXIT);
                }
                tracing::info!(signal = name, "stopping");
                triggered.trigger();
            }
        };
        std::thread::Builder::new()
            .name("signals".to_owned())
            .spawn(move || runtime.block_on(wait))
            .map_err(fail)?;
        Ok(shutdown)
    }

    /// Asks everybody to stop.
    pub fn trigger(&self) {
        self.0.cancel();
    }

    /// Whether somebody asked.
    #[must_use]
    pub fn is_triggered(&self) -> bool {
        self.0.is_cancelled()
    }

    /// Waits until somebody asks. May be dropped and called again.
    pub async fn triggered(&self) {
        self.0.cancelled().await;
    }

    /// A shutdown that follows this one and can also be triggered alone.
    #[must_use]
    pub fn child(&self) -> Self {
        Self(self.0.child_token())
    }

    /// Runs `work` until it is done (`Some`) or somebody asks to stop (`None`: it was dropped).
    pub async fn unless_triggered<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        self.0.run_until_cancelled(work).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_child_follows_its_parent_and_not_the_other_way() {
        let parent = Shutdown::new();
        let child = parent.child();
        child.trigger();
        assert!(child.is_triggered() && !parent.is_triggered());
        let other = parent.child();
        parent.trigger();
        other.triggered().await;
        assert_eq!(
            other.unless_triggered(std::future::pending::<()>()).await,
            None
        );
    }
}
