//! What may happen to a compiler: one closed list.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use portolan_model::declared::{Declared, ResourceKey};
use portolan_model::sharing::CatalogueEntry;
use portolan_model::snapshot::{Gateway, LinkState, Trust};
use portolan_model::{ClusterName, Problem, ServiceKey, WorkloadKey};

/// One fact that is new.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A resource was stored, for the first time or again.
    Declared(Declared),
    /// A resource was removed.
    Deleted(ResourceKey),
    /// A stored document cannot be read. Its last good version stays in force.
    Broken {
        /// Which resource.
        key: ResourceKey,
        /// What is wrong with it.
        problems: Vec<Problem>,
    },
    /// What is known of a workload's life.
    Liveness {
        /// The workload.
        workload: WorkloadKey,
        /// Whether it can serve; `None` when nobody says any more.
        ready: Option<bool>,
    },
    /// This cluster's gateways that are alive.
    Gateways(Vec<Gateway>),
    /// What the gateways say of their links. Peers that are missing are [`LinkState::Unknown`].
    Links(BTreeMap<ClusterName, LinkState>),
    /// Where this cluster's control planes accept peering calls.
    Control(Vec<SocketAddr>),
    /// The roots in force.
    Trust(Trust),
    /// What a peer says of its exports.
    Catalogue {
        /// The peer.
        peer: ClusterName,
        /// Whether `upserts` is all that the peer offers.
        full: bool,
        /// New and changed entries.
        upserts: Vec<CatalogueEntry>,
        /// Entries that are gone.
        removals: Vec<ServiceKey>,
    },
    /// Virtual IPs that an earlier life assigned. Feed it before the first [`super::Compiler::compile`].
    VipAssigned(BTreeMap<String, Vec<IpAddr>>),
}

/// A part of a peer's catalogue that was not accepted. The rest of the catalogue was.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct RefusedEntry {
    /// The peer that said it.
    pub peer: ClusterName,
    /// The service; `None` when the whole message was refused.
    pub service: Option<ServiceKey>,
    /// Why, as a sentence.
    pub reason: String,
}
