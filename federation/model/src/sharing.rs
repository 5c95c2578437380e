//! What a cluster tells its peers of its exported services: summaries, whose size does not grow
//! with the number of endpoints' addresses.

use serde::{Deserialize, Serialize};

use crate::cluster::Locality;
use crate::identity::SpiffeId;
use crate::names::{HostName, ServiceKey};
use crate::service::{Port, ServiceKind, SessionAffinity};

/// The most entries that a peer's catalogue may hold; the rest is refused.
pub const CATALOGUE_ENTRIES_MAX: usize = 50_000;
/// The most ports in one entry.
pub const ENTRY_PORTS_MAX: usize = 100;
/// The most localities in one entry.
pub const ENTRY_LOCALITIES_MAX: usize = 64;
/// The most identities in one entry.
pub const ENTRY_IDENTITIES_MAX: usize = 32;
/// The most host names in one entry.
pub const ENTRY_HOSTS_MAX: usize = 1_000;

/// One exported service, as its own cluster describes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CatalogueEntry {
    /// The service.
    pub key: ServiceKey,
    /// Virtual or headless.
    pub kind: ServiceKind,
    /// Its ports.
    pub ports: Vec<Port>,
    /// Its endpoints, counted by place.
    pub localities: Vec<LocalityHealth>,
    /// The identities that its endpoints present; each in the exporting cluster's own trust domain.
    pub identities: Vec<SpiffeId>,
    /// When the export was declared, in milliseconds since the Unix epoch (MCS precedence).
    pub exported_ms: u64,
    /// The ready endpoints' host names, of a headless service only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<HostName>,
    /// Its session affinity. Headless services have none.
    #[serde(default, skip_serializing_if = "SessionAffinity::is_none")]
    pub affinity: SessionAffinity,
}

/// How many endpoints of a service are in one place, and how many of them are ready.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct LocalityHealth {
    /// The place.
    pub locality: Locality,
    /// Ready endpoints.
    pub ready: u32,
    /// All endpoints.
    pub total: u32,
}

impl LocalityHealth {
    /// Ready endpoints in all of `places`.
    #[must_use]
    pub fn ready_in(places: &[Self]) -> u32 {
        places
            .iter()
            .fold(0, |sum, place| sum.saturating_add(place.ready))
    }

    /// All endpoints in all of `places`.
    #[must_use]
    pub fn total_in(places: &[Self]) -> u32 {
        places
            .iter()
            .fold(0, |sum, place| sum.saturating_add(place.total))
    }
}

impl CatalogueEntry {
    /// Ready endpoints in all places.
    #[must_use]
    pub fn ready(&self) -> u32 {
        LocalityHealth::ready_in(&self.localities)
    }

    /// All endpoints in all places.
    #[must_use]
    pub fn total(&self) -> u32 {
        LocalityHealth::total_in(&self.localities)
    }
}
