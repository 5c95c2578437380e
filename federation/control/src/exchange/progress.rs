//! How the exchange with each peer stands, for `status` and metrics.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use portolan_model::ClusterName;

/// Whether a peer's catalogue is up to date.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Freshness {
    /// Nothing was ever heard.
    #[default]
    Never,
    /// What was last heard is kept; the peer is away.
    Stale,
    /// The peer is there.
    Live,
}

impl Freshness {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Never => "never",
            Self::Stale => "stale",
            Self::Live => "live",
        }
    }
}

/// How the exchange with one peer stands.
#[derive(Debug, Clone, Default)]
pub(crate) struct Standing {
    pub(crate) freshness: Freshness,
    pub(crate) version: u64,
    pub(crate) entries: usize,
    /// Why it is not live, or what was refused.
    pub(crate) detail: String,
}

/// The standings of all peers. Clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Progress(Arc<Mutex<BTreeMap<ClusterName, Standing>>>);

impl Progress {
    pub(crate) fn of(&self, peer: &ClusterName) -> Standing {
        let standings = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        standings.get(peer).cloned().unwrap_or_default()
    }

    pub(crate) fn set(&self, peer: &ClusterName, standing: Standing) {
        let mut standings = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        standings.insert(peer.clone(), standing);
    }

    pub(crate) fn forget(&self, peer: &ClusterName) {
        let mut standings = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        standings.remove(peer);
    }
}
