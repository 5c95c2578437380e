//! The contract that every backend keeps.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::{Stream, StreamExt};

use crate::error::StoreError;
use crate::limits::Limits;

/// A number that grows with every change of a store, over restarts too. Revisions need not be consecutive.
pub type Revision = u64;

/// What a store's methods return: a future, so that the trait stays object-safe.
pub type StoreFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// One key with its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// The value, opaque to the store.
    pub value: Bytes,
    /// The revision of the last change of this key.
    pub version: Revision,
}

/// Everything under a prefix at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    /// The entries in key order.
    pub entries: Vec<Entry>,
    /// The moment: a watch that begins after it misses nothing and repeats nothing.
    pub revision: Revision,
}

/// What must hold for a write to happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precondition {
    /// Nothing.
    None,
    /// The key must not exist.
    DoesNotExist,
    /// The key's last change must be this revision.
    Version(Revision),
}

/// One change of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    /// Stores a value.
    Put {
        /// Where.
        key: String,
        /// What.
        value: Bytes,
        /// Under which condition.
        precondition: Precondition,
    },
    /// Removes a key; removing what is not there changes nothing.
    Delete {
        /// Which.
        key: String,
        /// Under which condition.
        precondition: Precondition,
    },
}

impl Write {
    /// Stores a value.
    pub fn put(
        key: impl Into<String>,
        value: impl Into<Bytes>,
        precondition: Precondition,
    ) -> Self {
        Self::Put {
            key: key.into(),
            value: value.into(),
            precondition,
        }
    }

    /// Removes a key.
    pub fn delete(key: impl Into<String>, precondition: Precondition) -> Self {
        Self::Delete {
            key: key.into(),
            precondition,
        }
    }

    /// The key that it changes.
    #[must_use]
    pub fn key(&self) -> &str {
        match self {
            Self::Put { key, .. } | Self::Delete { key, .. } => key,
        }
    }

    /// The value that it stores.
    #[must_use]
    pub fn value(&self) -> Option<&Bytes> {
        match self {
            Self::Put { value, .. } => Some(value),
            Self::Delete { .. } => None,
        }
    }

    /// The condition that it sets.
    #[must_use]
    pub fn precondition(&self) -> Precondition {
        match self {
            Self::Put { precondition, .. } | Self::Delete { precondition, .. } => *precondition,
        }
    }
}

/// Something that happened to one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A value was stored.
    Put(Entry),
    /// The key was removed.
    Deleted {
        /// Which.
        key: String,
        /// When.
        revision: Revision,
    },
}

impl Event {
    /// The key that changed.
    #[must_use]
    pub fn key(&self) -> &str {
        match self {
            Self::Put(entry) => &entry.key,
            Self::Deleted { key, .. } => key,
        }
    }

    /// When it changed.
    #[must_use]
    pub fn revision(&self) -> Revision {
        match self {
            Self::Put(entry) => entry.version,
            Self::Deleted { revision, .. } => *revision,
        }
    }
}

/// A versioned map from keys to bytes.
pub trait Store: Send + Sync + fmt::Debug {
    /// The registry's identity: random, made once when the store was created, and kept in it. Two
    /// stores never share one, so revisions can be compared exactly when the identities are equal.
    fn id(&self) -> &str;

    /// How large an atomic batch may be here.
    fn limits(&self) -> Limits;

    /// One line for logs: the kind and the place.
    fn describe(&self) -> String;

    /// The entry at `key`.
    fn get<'a>(&'a self, key: &'a str) -> StoreFuture<'a, Option<Entry>>;

    /// All entries whose keys begin with `prefix`; the empty prefix means all.
    fn list<'a>(&'a self, prefix: &'a str) -> StoreFuture<'a, Listing>;

    /// Applies all writes or none, durably. Each key may appear once. Returns the store's revision
    /// afterwards, which is the `version` of every key that was put; a batch that changes nothing
    /// does not advance it.
    ///
    /// Fails with [`StoreError::Conflict`] when a precondition does not hold.
    fn commit(&self, writes: Vec<Write>) -> StoreFuture<'_, Revision>;

    /// Everything that happens under `prefix` after the revision `after`, in order, each event once.
    ///
    /// Begins with [`StoreError::Compacted`] when the store no longer remembers what came after
    /// `after`, or never got that far: list again, then watch from there. A watcher that reads too
    /// slowly costs no memory; it ends with the same error when history has moved past it.
    fn watch<'a>(&'a self, prefix: &'a str, after: Revision) -> StoreFuture<'a, WatchStream>;
}

/// A running watch. Dropping it ends it. After an error it yields nothing more.
pub struct WatchStream {
    events: Pin<Box<dyn Stream<Item = Result<Event, StoreError>> + Send>>,
}

impl WatchStream {
    pub(crate) fn new(
        events: impl Stream<Item = Result<Event, StoreError>> + Send + 'static,
    ) -> Self {
        Self {
            events: Box::pin(events),
        }
    }

    /// The next event. Dropping this future loses nothing. `None` only after an error.
    pub async fn next(&mut self) -> Option<Result<Event, StoreError>> {
        self.events.next().await
    }
}

impl Stream for WatchStream {
    type Item = Result<Event, StoreError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.events.as_mut().poll_next(cx)
    }
}

impl fmt::Debug for WatchStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WatchStream")
    }
}
