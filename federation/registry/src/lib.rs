//! Where declarations are kept.
//!
//! A [`Store`] is a small versioned map from keys to bytes: read, list by prefix, change several
//! keys at once under preconditions, and watch what changes. Three backends keep it, chosen by
//! [`RegistryConfig`]: a file of our own (`embedded`), an etcd cluster (`etcd`, behind the cargo
//! feature of that name) and nothing but memory (`memory`, for tests and trials). One battery of
//! tests, `tests/contract`, holds all of them to the same behaviour.
//!
//! The registry knows nothing of what it keeps: no document is parsed here.

pub mod config;
pub mod error;
pub mod limits;
pub mod store;

mod embedded;
#[cfg(feature = "etcd")]
mod etcd;
mod live;
mod memory;
mod state;

use std::sync::Arc;

pub use config::{EtcdConfig, RegistryConfig};
pub use error::StoreError;
pub use limits::Limits;
pub use store::{
    Entry, Event, Listing, Precondition, Revision, Store, StoreFuture, WatchStream, Write,
};

/// Opens the store that the configuration names, creating it when it does not exist yet.
///
/// # Errors
/// Says what is wrong with the place and what helps: see [`StoreError`].
pub async fn open(config: &RegistryConfig) -> Result<Arc<dyn Store>, StoreError> {
    match config {
        RegistryConfig::Embedded { path } => {
            Ok(Arc::new(embedded::EmbeddedStore::open(path).await?))
        }
        // An etcd client's connecting is too large for a stack frame.
        RegistryConfig::Etcd(etcd) => Box::pin(open_etcd(etcd)).await,
        RegistryConfig::Memory {} => Ok(Arc::new(memory::MemoryStore::new())),
    }
}

#[cfg(feature = "etcd")]
async fn open_etcd(config: &EtcdConfig) -> Result<Arc<dyn Store>, StoreError> {
    Ok(Arc::new(etcd::EtcdStore::open(config).await?))
}

#[cfg(not(feature = "etcd"))]
async fn open_etcd(_config: &EtcdConfig) -> Result<Arc<dyn Store>, StoreError> {
    Err(StoreError::NoEtcd)
}
