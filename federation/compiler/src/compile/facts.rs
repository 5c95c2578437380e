//! What is declared and who is alive, with the indexes that say whom a change touches.

use std::collections::{BTreeMap, BTreeSet};

use portolan_model::declared::{
    Declared, DeclaredServiceKind, DeclaredSpec, ExportSpec, PeerSpec, ResourceKey, ResourceKind,
    ServiceSpec, WorkloadSpec,
};
use portolan_model::route::RouteSpec;
use portolan_model::{ClusterName, Namespace, ServiceKey, WorkloadKey};

/// The most workloads whose liveness is remembered; reports beyond it are dropped, and those
/// workloads count as if nobody had said anything.
const LIVENESS_MAX: usize = 200_000;

/// What a resource is about, its name parsed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Subject {
    Service(ServiceKey),
    Export(ServiceKey),
    Workload(WorkloadKey),
    Peer(ClusterName),
    /// A route or policy: it is about the services that it names.
    Attached,
}

/// A label of a namespace: namespace, key, value.
type Label = (Namespace, String, String);

#[derive(Debug, Default)]
pub(super) struct Facts {
    declared: BTreeMap<ResourceKey, Declared>,
    liveness: BTreeMap<WorkloadKey, bool>,
    /// Services by the first label of their selector.
    by_selector: BTreeMap<Label, BTreeSet<ServiceKey>>,
    /// Workloads by each of their labels.
    by_label: BTreeMap<Label, BTreeSet<WorkloadKey>>,
    /// Routes and policies by each service that they are attached to.
    by_target: BTreeMap<ServiceKey, BTreeSet<ResourceKey>>,
    /// Routes by each service that is a backend of theirs.
    by_backend: BTreeMap<ServiceKey, BTreeSet<ResourceKey>>,
}

impl Subject {
    /// `None` when the names are malformed or the kind is never declared.
    pub(super) fn of(key: &ResourceKey) -> Option<Self> {
        match key.kind {
            ResourceKind::Service => key.service().ok().map(Self::Service),
            ResourceKind::ServiceExport => key.service().ok().map(Self::Export),
            ResourceKind::ServiceImport => None,
            ResourceKind::Workload => Some(Self::Workload(WorkloadKey::new(
                key.namespace.clone()?,
                key.name.parse().ok()?,
            ))),
            ResourceKind::Peer => key.name.parse().ok().map(Self::Peer),
            ResourceKind::HttpRoute
            | ResourceKind::GrpcRoute
            | ResourceKind::TlsRoute
            | ResourceKind::TcpRoute
            | ResourceKind::ReferenceGrant
            | ResourceKind::TrafficPolicy
            | ResourceKind::RateLimitPolicy
            | ResourceKind::FaultPolicy => Some(Self::Attached),
        }
    }

    /// Whether a declaration about this subject may say `spec`.
    pub(super) fn admits(&self, spec: &DeclaredSpec) -> bool {
        matches!(
            (self, spec),
            (Self::Service(_), DeclaredSpec::Service(_))
                | (Self::Export(_), DeclaredSpec::Export(_))
                | (Self::Workload(_), DeclaredSpec::Workload(_))
                | (Self::Peer(_), DeclaredSpec::Peer(_))
                | (
                    Self::Attached,
                    DeclaredSpec::Route(_)
                        | DeclaredSpec::Grant
                        | DeclaredSpec::Traffic(_)
                        | DeclaredSpec::RateLimit(_)
                        | DeclaredSpec::Fault(_)
                )
        )
    }
}

pub(super) fn service_resource(key: &ServiceKey) -> ResourceKey {
    ResourceKey::namespaced(
        ResourceKind::Service,
        key.namespace.clone(),
        key.name.as_str(),
    )
}

pub(super) fn export_resource(key: &ServiceKey) -> ResourceKey {
    ResourceKey::namespaced(
        ResourceKind::ServiceExport,
        key.namespace.clone(),
        key.name.as_str(),
    )
}

pub(super) fn import_resource(key: &ServiceKey) -> ResourceKey {
    ResourceKey::namespaced(
        ResourceKind::ServiceImport,
        key.namespace.clone(),
        key.name.as_str(),
    )
}

pub(super) fn workload_resource(key: &WorkloadKey) -> ResourceKey {
    ResourceKey::namespaced(
        ResourceKind::Workload,
        key.namespace.clone(),
        key.name.as_str(),
    )
}

pub(super) fn peer_resource(name: &ClusterName) -> ResourceKey {
    ResourceKey::cluster_wide(ResourceKind::Peer, name.as_str())
}

impl Facts {
    pub(super) fn declared(&self) -> &BTreeMap<ResourceKey, Declared> {
        &self.declared
    }

    /// Stores a declaration and keeps the indexes true. The earlier version must be removed first.
    pub(super) fn insert(&mut self, declared: Declared) {
        match (Subject::of(&declared.key), &declared.spec) {
            (Some(Subject::Service(key)), DeclaredSpec::Service(spec)) => {
                if let Some(label) = anchor(&key.namespace, spec) {
                    self.by_selector.entry(label).or_default().insert(key);
                }
            }
            (Some(Subject::Workload(key)), DeclaredSpec::Workload(_)) => {
                for label in labels(&key.namespace, &declared.labels) {
                    self.by_label.entry(label).or_default().insert(key.clone());
                }
            }
            _ => {}
        }
        for service in declared.spec.targets() {
            let attached = self.by_target.entry(service).or_default();
            attached.insert(declared.key.clone());
        }
        for service in declared
            .spec
            .route()
            .into_iter()
            .flat_map(RouteSpec::backends)
        {
            let routes = self.by_backend.entry(service.clone()).or_default();
            routes.insert(declared.key.clone());
        }
        self.declared.insert(declared.key.clone(), declared);
    }

    /// Forgets a declaration and gives it back.
    pub(super) fn remove(&mut self, key: &ResourceKey) -> Option<Declared> {
        let declared = self.declared.remove(key)?;
        match (Subject::of(key), &declared.spec) {
            (Some(Subject::Service(key)), DeclaredSpec::Service(spec)) => {
                if let Some(label) = anchor(&key.namespace, spec) {
                    remove_from(&mut self.by_selector, &label, &key);
                }
            }
            (Some(Subject::Workload(key)), DeclaredSpec::Workload(_)) => {
                for label in labels(&key.namespace, &declared.labels) {
                    remove_from(&mut self.by_label, &label, &key);
                }
            }
            _ => {}
        }
        for service in declared.spec.targets() {
            remove_from(&mut self.by_target, &service, key);
        }
        for service in declared
            .spec
            .route()
            .into_iter()
            .flat_map(RouteSpec::backends)
        {
            remove_from(&mut self.by_backend, service, key);
        }
        Some(declared)
    }

    pub(super) fn service(&self, key: &ServiceKey) -> Option<&ServiceSpec> {
        self.declared.get(&service_resource(key))?.spec.service()
    }

    /// The export of a service, and when it was declared.
    pub(super) fn export(&self, key: &ServiceKey) -> Option<(&ExportSpec, u64)> {
        let declared = self.declared.get(&export_resource(key))?;
        Some((declared.spec.export()?, declared.created_ms))
    }

    /// A workload and its labels.
    pub(super) fn workload(
        &self,
        key: &WorkloadKey,
    ) -> Option<(&WorkloadSpec, &BTreeMap<String, String>)> {
        let declared = self.declared.get(&workload_resource(key))?;
        Some((declared.spec.workload()?, &declared.labels))
    }

    /// Every declared peer with the time of its declaration.
    pub(super) fn peers(&self) -> impl Iterator<Item = (ClusterName, &PeerSpec, u64)> {
        self.declared
            .range(ResourceKey::cluster_wide(ResourceKind::Peer, "")..)
            .filter_map(|(key, declared)| {
                let spec = declared.spec.peer()?;
                Some((key.name.parse().ok()?, spec, declared.created_ms))
            })
    }

    /// The workloads that a service selects.
    pub(super) fn workloads_of(
        &self,
        namespace: &Namespace,
        spec: &ServiceSpec,
    ) -> Vec<(&WorkloadKey, &WorkloadSpec)> {
        let smallest = labels(namespace, &spec.selector)
            .map(|label| self.by_label.get(&label))
            .min_by_key(|set| set.map_or(0, BTreeSet::len))
            .flatten();
        smallest
            .into_iter()
            .flatten()
            .filter_map(|key| {
                let (workload, labels) = self.workload(key)?;
                selects(spec, labels).then_some((key, workload))
            })
            .collect()
    }

    /// The services that select a workload with these labels.
    pub(super) fn services_of(
        &self,
        namespace: &Namespace,
        workload_labels: &BTreeMap<String, String>,
    ) -> BTreeSet<ServiceKey> {
        labels(namespace, workload_labels)
            .filter_map(|label| self.by_selector.get(&label))
            .flatten()
            .filter(|key| {
                self.service(key)
                    .is_some_and(|spec| selects(spec, workload_labels))
            })
            .cloned()
            .collect()
    }

    /// The routes and policies that are attached to a service.
    pub(super) fn attached(&self, service: &ServiceKey) -> impl Iterator<Item = &Declared> {
        let keys = self.by_target.get(service).into_iter().flatten();
        keys.filter_map(|key| self.declared.get(key))
    }

    /// The routes that have a service as a backend.
    pub(super) fn routes_to(&self, service: &ServiceKey) -> impl Iterator<Item = &ResourceKey> {
        self.by_backend.get(service).into_iter().flatten()
    }

    /// Remembers what is known of a workload's life. Returns whether that is news.
    pub(super) fn set_liveness(&mut self, workload: WorkloadKey, ready: Option<bool>) -> bool {
        match ready {
            None => self.liveness.remove(&workload).is_some(),
            Some(ready) => {
                let known = self.liveness.contains_key(&workload);
                if !known && self.liveness.len() >= LIVENESS_MAX {
                    return false;
                }
                self.liveness.insert(workload, ready) != Some(ready)
            }
        }
    }

    pub(super) fn liveness(&self, workload: &WorkloadKey) -> Option<bool> {
        self.liveness.get(workload).copied()
    }
}

fn selects(spec: &ServiceSpec, labels: &BTreeMap<String, String>) -> bool {
    !spec.selector.is_empty()
        && spec
            .selector
            .iter()
            .all(|(key, value)| labels.get(key) == Some(value))
}

fn labels<'a>(
    namespace: &'a Namespace,
    pairs: &'a BTreeMap<String, String>,
) -> impl Iterator<Item = Label> + 'a {
    pairs
        .iter()
        .map(|(key, value)| (namespace.clone(), key.clone(), value.clone()))
}

/// The label under which a service is indexed; services without workloads have none.
fn anchor(namespace: &Namespace, spec: &ServiceSpec) -> Option<Label> {
    match spec.kind {
        DeclaredServiceKind::Of(_) => labels(namespace, &spec.selector).next(),
        DeclaredServiceKind::ExternalName(_) => None,
    }
}

fn remove_from<I: Ord, K: Ord>(index: &mut BTreeMap<I, BTreeSet<K>>, at: &I, key: &K) {
    if let Some(set) = index.get_mut(at) {
        set.remove(key);
        if set.is_empty() {
            index.remove(at);
        }
    }
}
