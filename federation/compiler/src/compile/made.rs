//! What was made so far. Every change goes through here, so that only real ones are put out.

use std::collections::BTreeMap;
use std::sync::Arc;

use portolan_model::declared::{ExportTo, ResourceKey};
use portolan_model::sharing::CatalogueEntry;
use portolan_model::snapshot::{Inbound, Mesh, Scope, Service, Snapshot, Trust, Vips};
use portolan_model::{ClusterName, Problem, ServiceKey, WorkloadKey};
use serde_json::Value;
use std::net::IpAddr;

use super::output::{ExportChange, Output};

#[derive(Debug, Default)]
pub(super) struct Made {
    pub(super) snapshot: Snapshot,
    pub(super) imports: BTreeMap<ServiceKey, Value>,
    pub(super) statuses: BTreeMap<ResourceKey, Value>,
    pub(super) problems: BTreeMap<ResourceKey, Vec<Problem>>,
    exports: BTreeMap<ServiceKey, (ExportTo, Arc<CatalogueEntry>)>,
}

impl Made {
    pub(super) fn mesh(&mut self, mesh: Mesh, out: &mut Output) {
        if self.snapshot.mesh.as_deref() != Some(&mesh) {
            let mesh = Arc::new(mesh);
            self.snapshot.mesh = Some(mesh.clone());
            out.delta.mesh = Some(mesh);
        }
    }

    pub(super) fn trust(&mut self, trust: &Trust, out: &mut Output) {
        if self.snapshot.trust.as_deref() != Some(trust) {
            let trust = Arc::new(trust.clone());
            self.snapshot.trust = Some(trust.clone());
            out.delta.trust = Some(trust);
        }
    }

    pub(super) fn service(&mut self, key: &ServiceKey, new: Option<Service>, out: &mut Output) {
        let services = &mut self.snapshot.services;
        if services.get(key).map(|service| &**service) == new.as_ref() {
            return;
        }
        let new = new.map(Arc::new);
        let old = match &new {
            Some(service) => services.insert(key.clone(), service.clone()),
            None => services.remove(key),
        };
        let addresses = &mut self.snapshot.addresses;
        for (ip, _) in old.iter().flat_map(|service| scoped(&service.vips)) {
            // Another service may have taken the address over earlier in this compilation.
            if addresses.get(&ip).is_some_and(|(owner, _)| owner == key) {
                addresses.remove(&ip);
            }
        }
        for (ip, scope) in new.iter().flat_map(|service| scoped(&service.vips)) {
            addresses.insert(ip, (key.clone(), scope));
        }
        out.delta.services.insert(key.clone(), new);
    }

    pub(super) fn inbound(&mut self, key: &WorkloadKey, new: Option<Inbound>, out: &mut Output) {
        let inbound = &mut self.snapshot.inbound;
        if inbound.get(key).map(|inbound| &**inbound) == new.as_ref() {
            return;
        }
        let new = new.map(Arc::new);
        match &new {
            Some(new) => inbound.insert(key.clone(), new.clone()),
            None => inbound.remove(key),
        };
        out.delta.inbound.insert(key.clone(), new);
    }

    pub(super) fn export(
        &mut self,
        key: &ServiceKey,
        new: Option<(ExportTo, CatalogueEntry)>,
        out: &mut Output,
    ) {
        let old = self.exports.get(key);
        let same = match (&new, old) {
            (Some((to, entry)), Some((old_to, old_entry))) => to == old_to && *entry == **old_entry,
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        };
        if same {
            return;
        }
        let before = old.map(|(to, _)| to.clone()).unwrap_or_default();
        let (after, entry) = match new {
            Some((to, entry)) => (to, Some(Arc::new(entry))),
            None => (ExportTo::Nobody, None),
        };
        match &entry {
            Some(entry) => self
                .exports
                .insert(key.clone(), (after.clone(), entry.clone())),
            None => self.exports.remove(key),
        };
        let change = ExportChange {
            before,
            after,
            entry,
        };
        out.exports.insert(key.clone(), change);
    }

    pub(super) fn exports_for(&self, peer: &ClusterName) -> Vec<Arc<CatalogueEntry>> {
        self.exports
            .values()
            .filter(|(to, _)| to.allows(peer))
            .map(|(_, entry)| entry.clone())
            .collect()
    }

    pub(super) fn import(&mut self, key: &ServiceKey, new: Option<Value>, out: &mut Output) {
        if replace(&mut self.imports, key, new.clone()) {
            out.imports.insert(key.clone(), new);
        }
    }

    pub(super) fn status(&mut self, key: &ResourceKey, new: Option<Value>, out: &mut Output) {
        if replace(&mut self.statuses, key, new.clone()) {
            out.statuses.insert(key.clone(), new);
        }
    }

    pub(super) fn problems(&mut self, key: &ResourceKey, new: Vec<Problem>, out: &mut Output) {
        let kept = (!new.is_empty()).then(|| new.clone());
        if replace(&mut self.problems, key, kept) {
            out.problems.insert(key.clone(), new);
        }
    }
}

fn replace<K: Ord + Clone, V: PartialEq>(
    map: &mut BTreeMap<K, V>,
    key: &K,
    new: Option<V>,
) -> bool {
    if map.get(key) == new.as_ref() {
        return false;
    }
    match new {
        Some(new) => map.insert(key.clone(), new),
        None => map.remove(key),
    };
    true
}

fn scoped(vips: &Vips) -> impl Iterator<Item = (IpAddr, Scope)> {
    let local = vips.local.iter().map(|ip| (*ip, Scope::Cluster));
    let set = vips.set.iter().map(|ip| (*ip, Scope::Set));
    let pinned = vips
        .pinned
        .iter()
        .flat_map(|(cluster, ips)| ips.iter().map(|ip| (*ip, Scope::Pinned(cluster.clone()))));
    local.chain(set).chain(pinned)
}
