//! The incremental state machine: [`Change`]s in, [`Output`]s out.

mod change;
mod output;

use std::collections::BTreeMap;
use std::sync::Arc;

use ipnet::{Ipv4Net, Ipv6Net};
use portolan_model::declared::{Declared, ResourceKey};
use portolan_model::sharing::CatalogueEntry;
use portolan_model::snapshot::Snapshot;
use portolan_model::{ClusterIdentity, ClusterName, Problem, ServiceKey};
use serde_json::Value;

pub use change::{Change, RefusedEntry};
pub use output::{CatalogueDelta, Delta, ExportChange, Output};

/// Where virtual IPs come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VipPools {
    /// The pool that allocation goes by.
    pub v4: Ipv4Net,
    /// If present, each virtual IP has a twin here: the pool's base plus the low 32 bits.
    pub v6: Option<Ipv6Net>,
}

/// All declarations and facts of one cluster, and the snapshot they make.
#[derive(Debug)]
pub struct Compiler {
    declared: BTreeMap<ResourceKey, Declared>,
    snapshot: Snapshot,
    imports: BTreeMap<ServiceKey, Value>,
    problems: BTreeMap<ResourceKey, Vec<Problem>>,
}

impl Compiler {
    /// A compiler that knows nothing but who it compiles for.
    #[must_use]
    pub fn new(_identity: ClusterIdentity, _pools: VipPools) -> Self {
        Self {
            declared: BTreeMap::new(),
            snapshot: Snapshot::default(),
            imports: BTreeMap::new(),
            problems: BTreeMap::new(),
        }
    }

    /// Takes one change in. Returns what of a peer's catalogue was refused, and why.
    pub fn apply(&mut self, _change: Change) -> Vec<RefusedEntry> {
        Vec::new()
    }

    /// Recompiles what the changes since the last call touched, and no more.
    pub fn compile(&mut self) -> Output {
        Output::default()
    }

    /// The snapshot as of the last [`Compiler::compile`].
    #[must_use]
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// Everything declared and good, by key.
    #[must_use]
    pub fn declared(&self) -> &BTreeMap<ResourceKey, Declared> {
        &self.declared
    }

    /// All that `peer` may know of this cluster's exports.
    #[must_use]
    pub fn catalogue_for(&self, _peer: &ClusterName) -> Vec<Arc<CatalogueEntry>> {
        Vec::new()
    }

    /// The generated `ServiceImport` documents.
    #[must_use]
    pub fn imports(&self) -> &BTreeMap<ServiceKey, Value> {
        &self.imports
    }

    /// The `status` of a resource, where there is something to say.
    #[must_use]
    pub fn status(&self, _key: &ResourceKey) -> Option<&Value> {
        None
    }

    /// All present problems by resource.
    #[must_use]
    pub fn problems(&self) -> &BTreeMap<ResourceKey, Vec<Problem>> {
        &self.problems
    }
}
