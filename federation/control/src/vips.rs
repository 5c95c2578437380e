//! Virtual IPs in the registry, so that a restart gives the same ones again.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use portolan_compiler::Output;
use portolan_registry::{Entry, Precondition, Store, StoreError, Write};
use serde_json::json;
use tokio::time::Instant;

use crate::keys;
use crate::metrics::ControlMetrics;

/// How long the loop waits for the registry to keep new virtual IPs before it publishes anyway.
const PATIENCE: Duration = Duration::from_millis(250);
/// How long until virtual IPs that could not be kept are tried again. Until then no turn waits for them.
const RETRY: Duration = Duration::from_secs(5);

/// What the registry does not hold yet. A registry that cannot write now does not stop the mesh:
/// they are tried again later.
pub(crate) struct VipKeeper {
    store: Arc<dyn Store>,
    metrics: ControlMetrics,
    /// `None`: to be removed.
    unsaved: BTreeMap<String, Option<Vec<IpAddr>>>,
    /// When the registry is asked again, after it failed.
    retry_at: Option<Instant>,
}

impl VipKeeper {
    pub(crate) fn new(store: Arc<dyn Store>, metrics: ControlMetrics) -> Self {
        Self {
            store,
            metrics,
            unsaved: BTreeMap::new(),
            retry_at: None,
        }
    }

    /// When [`VipKeeper::persist`] next has something to do.
    pub(crate) fn next_try(&self) -> Option<Instant> {
        self.retry_at.filter(|_| !self.unsaved.is_empty())
    }

    pub(crate) fn note(&mut self, output: &Output) {
        for (key, ips) in &output.vips_assigned {
            self.unsaved.insert(key.clone(), Some(ips.clone()));
        }
        for key in &output.vips_released {
            self.unsaved.insert(key.clone(), None);
        }
    }

    /// Keeps what was noted, if the registry does it soon and did not fail just now.
    pub(crate) async fn persist(&mut self) {
        if self.retry_at.is_some_and(|at| Instant::now() < at) {
            return;
        }
        while !self.unsaved.is_empty() {
            let most = self.store.limits().batch_writes_max;
            let keys: Vec<String> = self.unsaved.keys().take(most).cloned().collect();
            let writes = keys.iter().map(|key| self.write(key)).collect();
            let commit = tokio::time::timeout(PATIENCE, self.store.commit(writes)).await;
            match commit {
                Ok(Ok(_)) => {
                    self.retry_at = None;
                    for key in &keys {
                        self.unsaved.remove(key);
                    }
                }
                Ok(Err(error)) => return self.failed(Some(&error)),
                Err(_elapsed) => return self.failed(None),
            }
        }
    }

    fn write(&self, key: &str) -> Write {
        match self.unsaved.get(key) {
            Some(Some(ips)) => Write::put(
                keys::vip(key),
                json!(ips).to_string().into_bytes(),
                Precondition::None,
            ),
            Some(None) | None => Write::delete(keys::vip(key), Precondition::None),
        }
    }

    fn failed(&mut self, error: Option<&StoreError>) {
        self.retry_at = Some(Instant::now() + RETRY);
        self.metrics.registry_failed("commit");
        let error: Option<&dyn std::error::Error> = error.map(|error| error as _);
        tracing::warn!(
            error,
            waiting = self.unsaved.len(),
            "cannot keep virtual IPs in the registry; trying again in a while"
        );
    }
}

/// The virtual IPs that an earlier life kept.
pub(crate) fn restored(entries: &[Entry]) -> BTreeMap<String, Vec<IpAddr>> {
    entries
        .iter()
        .filter_map(|entry| {
            let key = entry.key.strip_prefix(keys::VIPS)?;
            Some((key.to_owned(), serde_json::from_slice(&entry.value).ok()?))
        })
        .collect()
}
