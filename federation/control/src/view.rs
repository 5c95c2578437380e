//! What the control plane knows at one moment, as everybody but the reconcile loop sees it: one
//! immutable value, replaced whole.

use std::collections::BTreeMap;
use std::sync::Arc;

use portolan_api::resource::Encoded;
use portolan_api::{INBOUND, MESH, SERVICE, TRUST};
use portolan_compiler::Delta;
use portolan_model::declared::{ResourceKey, ResourceKind};
use portolan_model::sharing::CatalogueEntry;
use portolan_model::snapshot::Snapshot;
use portolan_model::{ClusterName, Problem, ServiceAccount, ServiceKey, WorkloadKey};
use serde_json::Value;
use tokio::sync::watch;

use crate::documents::Stored;
use crate::table::Table;

/// How everybody learns of a new view. Receivers see the latest one only.
pub(crate) type Views = watch::Receiver<Arc<View>>;

/// Resources of one type, by name.
pub(crate) type ResourceTable = Table<Arc<str>, Arc<Encoded>>;

/// What one peer may know.
pub(crate) type CatalogueTable = Table<ServiceKey, Arc<CatalogueEntry>>;

/// See the module's description.
#[derive(Debug, Clone)]
pub(crate) struct View {
    /// Its number: the control plane's start in the high half, a counter in the low half.
    pub(crate) generation: u64,
    /// The registry's name.
    pub(crate) registry_id: Arc<str>,
    /// The compiled snapshot.
    pub(crate) snapshot: Arc<Snapshot>,
    /// The same as discovery resources.
    pub(crate) resources: Resources,
    /// What peers may know, by peer.
    pub(crate) catalogues: BTreeMap<ClusterName, Arc<CatalogueTable>>,
    /// What was refused of peers' catalogues, a sentence by peer.
    pub(crate) refused: BTreeMap<ClusterName, String>,
    /// What the registry holds.
    pub(crate) documents: Arc<BTreeMap<ResourceKey, Arc<Stored>>>,
    /// Statuses, where there is something to say.
    pub(crate) statuses: Arc<BTreeMap<ResourceKey, Arc<Value>>>,
    /// Generated `ServiceImport` documents.
    pub(crate) imports: Arc<BTreeMap<ServiceKey, Arc<Value>>>,
    /// What is wrong with stored declarations.
    pub(crate) problems: Arc<BTreeMap<ResourceKey, Vec<Problem>>>,
}

impl View {
    /// The view of a control plane that knows nothing yet.
    pub(crate) fn empty(registry_id: Arc<str>, generation: u64) -> Self {
        Self {
            generation,
            registry_id,
            snapshot: Arc::new(Snapshot::default()),
            resources: Resources::new(),
            catalogues: BTreeMap::new(),
            refused: BTreeMap::new(),
            documents: Arc::default(),
            statuses: Arc::default(),
            imports: Arc::default(),
            problems: Arc::default(),
        }
    }

    /// The snapshot's name: `<registry id>/<generation>`.
    pub(crate) fn system_version(&self) -> String {
        format!("{}/{}", self.registry_id, self.generation)
    }

    /// The service account that a declared workload runs as.
    pub(crate) fn account_of(&self, workload: &WorkloadKey) -> Option<&ServiceAccount> {
        let key = workload_resource(workload);
        let declared = self.documents.get(&key)?.declared.as_ref()?;
        Some(&declared.spec.workload()?.service_account)
    }
}

/// The key of a workload's declaration.
pub(crate) fn workload_resource(workload: &WorkloadKey) -> ResourceKey {
    ResourceKey::namespaced(
        ResourceKind::Workload,
        workload.namespace.clone(),
        workload.name.as_str(),
    )
}

/// The types of resource that proxies subscribe to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ResourceType {
    Mesh,
    Trust,
    Service,
    Inbound,
}

impl ResourceType {
    pub(crate) const ALL: [Self; 4] = [Self::Mesh, Self::Trust, Self::Service, Self::Inbound];

    pub(crate) fn type_url(self) -> &'static str {
        match self {
            Self::Mesh => MESH,
            Self::Trust => TRUST,
            Self::Service => SERVICE,
            Self::Inbound => INBOUND,
        }
    }

    pub(crate) fn parse(type_url: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.type_url() == type_url)
    }
}

/// All discovery resources.
#[derive(Debug, Clone)]
pub(crate) struct Resources {
    mesh: Arc<ResourceTable>,
    trust: Arc<ResourceTable>,
    services: Arc<ResourceTable>,
    inbound: Arc<ResourceTable>,
}

impl Resources {
    fn new() -> Self {
        Self {
            mesh: Arc::new(Table::begun_at(0)),
            trust: Arc::new(Table::begun_at(0)),
            services: Arc::new(Table::begun_at(0)),
            inbound: Arc::new(Table::begun_at(0)),
        }
    }

    pub(crate) fn of(&self, kind: ResourceType) -> &ResourceTable {
        match kind {
            ResourceType::Mesh => &self.mesh,
            ResourceType::Trust => &self.trust,
            ResourceType::Service => &self.services,
            ResourceType::Inbound => &self.inbound,
        }
    }

    /// Takes in what changed in the snapshot.
    pub(crate) fn update(&mut self, version: u64, delta: Delta) {
        use portolan_api::resource::ResourceBody;
        if let Some(mesh) = delta.mesh {
            put(&mut self.mesh, version, &ResourceBody::Mesh(mesh));
        }
        if let Some(trust) = delta.trust {
            put(&mut self.trust, version, &ResourceBody::Trust(trust));
        }
        for (key, service) in delta.services {
            match service {
                Some(service) => put(&mut self.services, version, &ResourceBody::Service(service)),
                None => remove(&mut self.services, version, &key.to_string()),
            }
        }
        for (key, inbound) in delta.inbound {
            match inbound {
                Some(inbound) => put(&mut self.inbound, version, &ResourceBody::Inbound(inbound)),
                None => remove(&mut self.inbound, version, &key.to_string()),
            }
        }
    }
}

fn put(table: &mut Arc<ResourceTable>, version: u64, body: &portolan_api::resource::ResourceBody) {
    let encoded = body.encode();
    let name: Arc<str> = encoded.name.as_str().into();
    Arc::make_mut(table).put(version, name, Arc::new(encoded));
}

fn remove(table: &mut Arc<ResourceTable>, version: u64, name: &str) {
    Arc::make_mut(table).remove(version, &Arc::from(name));
}
