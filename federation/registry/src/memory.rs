//! A store that keeps nothing beyond the process's life.

use std::sync::Mutex;

use crate::limits::{self, Limits};
use crate::live::Live;
use crate::state::State;
use crate::store::{Entry, Listing, Revision, Store, StoreFuture, WatchStream, Write};

/// See the module.
#[derive(Debug)]
pub(crate) struct MemoryStore {
    live: Live,
    /// One writer at a time, so that a plan is applied to the state it was made for.
    writer: Mutex<()>,
}

impl MemoryStore {
    pub(crate) fn new() -> Self {
        Self {
            live: Live::new(State::new(crate::state::random_id())),
            writer: Mutex::new(()),
        }
    }

    fn commit_now(&self, writes: &[Write]) -> Result<Revision, crate::StoreError> {
        limits::LOCAL.check(writes)?;
        let _one_writer = crate::live::locked(&self.writer);
        match self.live.plan(writes)? {
            Some(change) => Ok(self.live.apply(change)),
            None => Ok(self.live.revision()),
        }
    }
}

impl Store for MemoryStore {
    fn id(&self) -> &str {
        self.live.id()
    }

    fn limits(&self) -> Limits {
        limits::LOCAL
    }

    fn describe(&self) -> String {
        "memory (nothing is kept)".to_owned()
    }

    fn get<'a>(&'a self, key: &'a str) -> StoreFuture<'a, Option<Entry>> {
        Box::pin(async move { Ok(self.live.get(key)) })
    }

    fn list<'a>(&'a self, prefix: &'a str) -> StoreFuture<'a, Listing> {
        Box::pin(async move { Ok(self.live.list(prefix)) })
    }

    fn commit(&self, writes: Vec<Write>) -> StoreFuture<'_, Revision> {
        Box::pin(async move { self.commit_now(&writes) })
    }

    fn watch<'a>(&'a self, prefix: &'a str, after: Revision) -> StoreFuture<'a, WatchStream> {
        Box::pin(async move { self.live.watch(prefix, after) })
    }
}
