//! What a compilation changed.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use portolan_model::declared::{ExportTo, ResourceKey};
use portolan_model::sharing::CatalogueEntry;
use portolan_model::snapshot::{Inbound, Mesh, Service, Trust};
use portolan_model::{ClusterName, Problem, ServiceKey, WorkloadKey};
use serde_json::Value;

/// Everything that differs from the output before.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Output {
    /// What proxies must learn.
    pub delta: Delta,
    /// Virtual IPs to persist, by key.
    pub vips_assigned: BTreeMap<String, Vec<IpAddr>>,
    /// Keys whose virtual IPs need no longer be persisted.
    pub vips_released: Vec<String>,
    /// This cluster's own exports that changed; see [`Output::catalogue_delta`].
    pub exports: BTreeMap<ServiceKey, ExportChange>,
    /// Resources whose problems changed, with all their problems now; none: they are solved.
    pub problems: BTreeMap<ResourceKey, Vec<Problem>>,
    /// `status` fields that changed; `None` when there is nothing to say any more. Conditions have
    /// no `lastTransitionTime`: who writes them knows the time.
    pub statuses: BTreeMap<ResourceKey, Option<Value>>,
    /// Generated `ServiceImport` documents that changed; `None` when the import is gone.
    pub imports: BTreeMap<ServiceKey, Option<Value>>,
    /// How many services were compiled again, changed or not.
    pub recompiled: usize,
}

/// What changed in the snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Delta {
    /// The snapshot's generation after the change.
    pub generation: u64,
    /// The mesh resource, if it changed.
    pub mesh: Option<Arc<Mesh>>,
    /// The trust resource, if it changed.
    pub trust: Option<Arc<Trust>>,
    /// Services that changed; `None`: gone.
    pub services: BTreeMap<ServiceKey, Option<Arc<Service>>>,
    /// Inbound resources that changed; `None`: gone.
    pub inbound: BTreeMap<WorkloadKey, Option<Arc<Inbound>>>,
}

impl Delta {
    /// Whether proxies need to learn nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.mesh.is_none()
            && self.trust.is_none()
            && self.services.is_empty()
            && self.inbound.is_empty()
    }
}

/// A change of one of this cluster's own exports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportChange {
    /// Who saw it before.
    pub before: ExportTo,
    /// Who may see it now.
    pub after: ExportTo,
    /// What they see; `None` when it is exported no more.
    pub entry: Option<Arc<CatalogueEntry>>,
}

/// What one peer must be told.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CatalogueDelta {
    /// New and changed entries.
    pub upserts: Vec<Arc<CatalogueEntry>>,
    /// Entries that are gone, or that the peer may no longer see.
    pub removals: Vec<ServiceKey>,
}

impl Output {
    /// The changes of this cluster's catalogue that concern `peer`.
    #[must_use]
    pub fn catalogue_delta(&self, peer: &ClusterName) -> CatalogueDelta {
        let mut delta = CatalogueDelta::default();
        for (key, change) in &self.exports {
            match &change.entry {
                Some(entry) if change.after.allows(peer) => delta.upserts.push(entry.clone()),
                Some(_) | None if change.before.allows(peer) => delta.removals.push(key.clone()),
                Some(_) | None => {}
            }
        }
        delta
    }

    /// Whether nothing changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.delta.is_empty()
            && self.vips_assigned.is_empty()
            && self.vips_released.is_empty()
            && self.exports.is_empty()
            && self.problems.is_empty()
            && self.statuses.is_empty()
            && self.imports.is_empty()
    }
}
