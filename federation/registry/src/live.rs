//! The state that readers and watchers share while a store is open.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use futures_util::stream;
use tokio::sync::watch;

use crate::error::StoreError;
use crate::limits::WATCH_BATCH_EVENTS_MAX;
use crate::state::{Change, State};
use crate::store::{Entry, Event, Listing, Revision, WatchStream, Write};

/// A [`State`] that many can read, and whose changes wake watchers. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Live {
    id: Arc<str>,
    state: Arc<RwLock<State>>,
    changed: watch::Sender<Revision>,
}

impl Live {
    pub(crate) fn new(state: State) -> Self {
        Self {
            id: state.id().into(),
            changed: watch::Sender::new(state.revision()),
            state: Arc::new(RwLock::new(state)),
        }
    }

    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    pub(crate) fn revision(&self) -> Revision {
        self.read().revision()
    }

    pub(crate) fn get(&self, key: &str) -> Option<Entry> {
        self.read().get(key)
    }

    pub(crate) fn list(&self, prefix: &str) -> Listing {
        self.read().list(prefix)
    }

    pub(crate) fn plan(&self, writes: &[Write]) -> Result<Option<Change>, StoreError> {
        self.read().plan(writes)
    }

    /// The history's end after `change`, which lets a caller store it before [`Live::apply`].
    pub(crate) fn compacted_by(&self, change: &Change) -> Revision {
        self.read().compacted_by(change)
    }

    /// Makes a planned change visible and wakes watchers. The plan must come from this very state.
    pub(crate) fn apply(&self, change: Change) -> Revision {
        let mut state = self.write();
        state.apply(change);
        let revision = state.revision();
        drop(state);
        self.changed.send_replace(revision);
        revision
    }

    /// Replaces everything, when the file turned out to hold something newer.
    pub(crate) fn replace(&self, state: State) {
        let revision = state.revision();
        *self.write() = state;
        self.changed.send_replace(revision);
    }

    pub(crate) fn watch(&self, prefix: &str, after: Revision) -> Result<WatchStream, StoreError> {
        self.read().events_after("", after, 0)?;
        let watcher = Watcher {
            live: self.clone(),
            changed: self.changed.subscribe(),
            prefix: prefix.to_owned(),
            after,
            ready: VecDeque::new(),
            ended: false,
        };
        Ok(WatchStream::new(stream::unfold(watcher, Watcher::step)))
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Locks, whatever happened to an earlier holder: what our mutexes guard is never left half-changed.
pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One watch: it reads history when it is asked, so a slow reader holds at most one batch.
struct Watcher {
    live: Live,
    changed: watch::Receiver<Revision>,
    prefix: String,
    after: Revision,
    ready: VecDeque<Event>,
    ended: bool,
}

impl Watcher {
    async fn step(mut self) -> Option<(Result<Event, StoreError>, Self)> {
        while !self.ended {
            if let Some(event) = self.ready.pop_front() {
                return Some((Ok(event), self));
            }
            self.changed.mark_unchanged();
            let read =
                self.live
                    .read()
                    .events_after(&self.prefix, self.after, WATCH_BATCH_EVENTS_MAX);
            match read {
                Ok(batch) if batch.events.is_empty() && batch.through == self.after => {
                    // `live` holds the sender, so this cannot fail while we wait.
                    self.ended = self.changed.changed().await.is_err();
                }
                Ok(batch) => {
                    self.ready = batch.events.into();
                    self.after = batch.through;
                }
                Err(error) => {
                    self.ended = true;
                    return Some((Err(error), self));
                }
            }
        }
        None
    }
}
