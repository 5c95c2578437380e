//! Follows the registry and feeds what changes there to the reconcile loop.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use portolan_registry::{Revision, Store, StoreError};
use portolan_runtime::Shutdown;
use tokio::sync::mpsc;

use crate::metrics::ControlMetrics;
use crate::reconcile::Event;

/// How long until a broken watch is begun again, at first and at most.
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(2);

/// A follower of the registry's changes.
pub(crate) struct Follower {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) events: mpsc::Sender<Event>,
    pub(crate) metrics: ControlMetrics,
    /// Everything up to here was sent.
    pub(crate) revision: Revision,
}

/// The loop is gone.
struct LoopGone;

impl Follower {
    /// Feeds the loop until shutdown.
    pub(crate) async fn run(mut self, shutdown: Shutdown) {
        tokio::select! {
            () = shutdown.triggered() => {}
            () = self.follow_forever() => {}
        }
    }

    async fn follow_forever(&mut self) {
        let mut wait = RETRY_MIN;
        loop {
            let before = self.revision;
            let error = match self.follow().await {
                Ok(LoopGone) => return,
                Err(error) => error,
            };
            if self.revision != before {
                wait = RETRY_MIN;
            }
            let error = if matches!(error, StoreError::Compacted { .. }) {
                match self.relist().await {
                    Ok(Some(LoopGone)) => return,
                    Ok(None) => {
                        // A registry that forgets faster than it lists must not be listed without a break.
                        tokio::time::sleep(RETRY_MIN).await;
                        continue;
                    }
                    Err(error) => error,
                }
            } else {
                error
            };
            self.metrics.registry_failed("watch");
            tracing::warn!(
                error = &error as &dyn Error,
                "the registry cannot be watched; trying again"
            );
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(RETRY_MAX);
        }
    }

    async fn relist(&mut self) -> Result<Option<LoopGone>, StoreError> {
        let listing = self.store.list("").await?;
        self.revision = listing.revision;
        let sent = self.events.send(Event::Relisted(listing)).await;
        Ok(sent.is_err().then_some(LoopGone))
    }

    /// Follows one watch to its error.
    async fn follow(&mut self) -> Result<LoopGone, StoreError> {
        let mut stream = self.store.watch("", self.revision).await?;
        let mut latest = self.revision;
        while let Some(event) = stream.next().await {
            let event = event?;
            // Events of one commit share a revision: a commit is done when the next one begins.
            // The loop ignores what it has seen already.
            if event.revision() > latest {
                self.revision = latest;
                latest = event.revision();
            }
            if self.events.send(Event::Stored(event)).await.is_err() {
                return Ok(LoopGone);
            }
        }
        Err(StoreError::Compacted {
            after: self.revision,
            oldest: self.revision,
        })
    }
}
