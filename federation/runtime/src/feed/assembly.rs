//! Resources → snapshot. Pure: it does no I/O and reads no clock.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use portolan_api::discovery::{DeltaDiscoveryResponse, Resource};
use portolan_api::resource::{ResourceBody, TYPE_URLS};
use portolan_api::resources::{LastGood, LastGoodResource};
use portolan_api::{INBOUND, SERVICE};
use portolan_model::names::{ServiceKey, WorkloadKey};
use portolan_model::snapshot::Snapshot;
use portolan_trust::TrustBundle;

use crate::workers::chain;

/// The most resources that a proxy holds; further ones are refused.
pub const RESOURCES_MAX: usize = 100_000;
/// The most faults that one refusal names.
const FAULTS_MAX: usize = 8;

/// Everything received, and the snapshot made of it.
#[derive(Debug, Default)]
pub(super) struct Assembly {
    source: Source,
    held: BTreeMap<&'static str, BTreeMap<String, Held>>,
    snapshot: Arc<Snapshot>,
}

/// Who numbers the generations, and the newest number seen per type.
#[derive(Debug, Default, Clone)]
struct Source {
    registry: String,
    generations: BTreeMap<&'static str, u64>,
}

/// One resource as it was received.
#[derive(Debug, Clone)]
struct Held {
    version: String,
    value: Bytes,
}

/// What a response changed.
#[derive(Debug, Default)]
pub(super) struct Applied {
    /// The new snapshot, if there is one.
    pub(super) snapshot: Option<Arc<Snapshot>>,
    /// New roots, if there are some.
    pub(super) trust: Option<TrustBundle>,
    /// What was refused and why; the previous resources stay.
    pub(super) faults: Vec<String>,
    /// Things worth a line in the log.
    pub(super) notes: Vec<String>,
}

impl Applied {
    fn fault(&mut self, fault: String) {
        if self.faults.len() < FAULTS_MAX {
            self.faults.push(fault);
        }
    }
}

impl Assembly {
    /// The newest snapshot.
    pub(super) fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.snapshot)
    }

    /// Name and version of every resource held of a type.
    pub(super) fn versions(&self, type_url: &str) -> BTreeMap<String, String> {
        let held = self.held.get(type_url).into_iter().flatten();
        held.map(|(name, held)| (name.clone(), held.version.clone()))
            .collect()
    }

    /// Takes what is new and right of a response. Of what is wrong the previous version stays.
    pub(super) fn apply(&mut self, response: DeltaDiscoveryResponse) -> Applied {
        let mut applied = Applied::default();
        let Some(type_url) = known_type(&response.type_url) else {
            applied.fault(format!("type `{}` is unknown", response.type_url));
            return applied;
        };
        let version = response.system_version_info.as_str();
        match self.source.accept(type_url, version) {
            Ok(note) => applied.notes.extend(note),
            Err(Unaccepted::Older(note)) => {
                applied.notes.push(note);
                return applied;
            }
            Err(Unaccepted::Malformed(fault)) => {
                applied.fault(fault);
                return applied;
            }
        }
        let mut next = Snapshot::clone(&self.snapshot);
        next.generation = self.source.newest();
        let mut changed = false;
        for resource in response.resources {
            changed |= self.take(type_url, resource, &mut next, &mut applied);
        }
        for name in response.removed_resources {
            changed |= self.remove(type_url, &name, &mut next, &mut applied);
        }
        if changed || next.generation != self.snapshot.generation {
            if changed && type_url == SERVICE {
                next.index();
            }
            self.snapshot = Arc::new(next);
            applied.snapshot = Some(self.snapshot());
        }
        applied
    }

    /// Everything held, to be written into the last-good file.
    pub(super) fn export(&self) -> LastGood {
        let all = self.held.iter();
        let resources = all.flat_map(|(type_url, held)| {
            held.iter().map(|(name, held)| LastGoodResource {
                type_url: (*type_url).to_owned(),
                name: name.clone(),
                version: held.version.clone(),
                value: held.value.to_vec(),
            })
        });
        LastGood {
            system_version_info: self.source.version_info(),
            resources: resources.collect(),
        }
    }

    /// What a last-good file held. Resources that cannot be read are left out; they will be sent again.
    pub(super) fn import(saved: LastGood) -> (Self, Vec<String>) {
        let mut assembly = Self::default();
        let mut applied = Applied::default();
        let mut next = Snapshot::default();
        for resource in saved.resources {
            let Some(type_url) = known_type(&resource.type_url) else {
                applied.fault(format!("type `{}` is unknown", resource.type_url));
                continue;
            };
            let resource = Resource {
                version: resource.version,
                name: resource.name,
                resource: Some(prost_types::Any {
                    type_url: resource.type_url,
                    value: resource.value,
                }),
            };
            assembly.take(type_url, resource, &mut next, &mut applied);
        }
        for type_url in TYPE_URLS {
            // A version that cannot be read forgets the generation, which is then learnt again.
            drop(assembly.source.accept(type_url, &saved.system_version_info));
        }
        next.generation = assembly.source.newest();
        next.index();
        assembly.snapshot = Arc::new(next);
        (assembly, applied.faults)
    }

    fn take(
        &mut self,
        type_url: &'static str,
        resource: Resource,
        next: &mut Snapshot,
        applied: &mut Applied,
    ) -> bool {
        let name = resource.name;
        let any = resource.resource.unwrap_or_default();
        let is_new = self
            .held
            .get(type_url)
            .is_none_or(|held| !held.contains_key(&name));
        let count: usize = self.held.values().map(BTreeMap::len).sum();
        if is_new && count >= RESOURCES_MAX {
            applied.fault(format!("`{name}`: more than {RESOURCES_MAX} resources"));
            return false;
        }
        if any.type_url != type_url {
            applied.fault(format!("`{name}`: its type is `{}`", any.type_url));
            return false;
        }
        let body = match ResourceBody::decode(type_url, &name, &any.value) {
            Ok(body) => body,
            Err(error) => {
                applied.fault(error.to_string());
                return false;
            }
        };
        if let Err(fault) = place(body, next, applied) {
            applied.fault(fault);
            return false;
        }
        let held = Held {
            version: resource.version,
            value: any.value.into(),
        };
        self.held.entry(type_url).or_default().insert(name, held);
        true
    }

    fn remove(
        &mut self,
        type_url: &'static str,
        name: &str,
        next: &mut Snapshot,
        applied: &mut Applied,
    ) -> bool {
        let removed = match type_url {
            SERVICE => {
                ServiceKey::parse(name).is_ok_and(|key| next.services.remove(&key).is_some())
            }
            INBOUND => {
                WorkloadKey::parse(name).is_ok_and(|key| next.inbound.remove(&key).is_some())
            }
            // Without them a proxy could do nothing at all: nobody removes them on purpose.
            _ => {
                applied.fault(format!("`{name}` cannot be removed"));
                return false;
            }
        };
        if let Some(held) = self.held.get_mut(type_url) {
            held.remove(name);
        }
        removed
    }
}

fn place(body: ResourceBody, next: &mut Snapshot, applied: &mut Applied) -> Result<(), String> {
    match body {
        ResourceBody::Mesh(mesh) => next.mesh = Some(mesh),
        ResourceBody::Trust(trust) => {
            let bundle = TrustBundle::from_der(trust.roots.iter().cloned())
                .map_err(|error| format!("`trust`: {}", chain(&error)))?;
            if bundle.is_empty() {
                return Err("`trust`: it names no root, which would trust nobody".to_owned());
            }
            applied.trust = Some(bundle);
            next.trust = Some(trust);
        }
        ResourceBody::Service(service) => {
            next.services.insert(service.key.clone(), service);
        }
        ResourceBody::Inbound(inbound) => {
            next.inbound.insert(inbound.workload.clone(), inbound);
        }
    }
    Ok(())
}

enum Unaccepted {
    Older(String),
    Malformed(String),
}

impl Source {
    /// Takes note of the generation in `<registry id>/<generation>`, unless it is older than what is
    /// known of this type from the same registry. Says so where the registry is another one.
    fn accept(
        &mut self,
        type_url: &'static str,
        version_info: &str,
    ) -> Result<Option<String>, Unaccepted> {
        let malformed = || Unaccepted::Malformed(format!("`{version_info}` is no generation"));
        let (registry, generation) = version_info.rsplit_once('/').ok_or_else(malformed)?;
        let generation: u64 = generation.parse().map_err(|_| malformed())?;
        let mut note = None;
        if registry != self.registry {
            if !self.registry.is_empty() {
                note = Some(format!(
                    "the control plane has another registry: `{registry}`, before `{}`",
                    self.registry
                ));
            }
            registry.clone_into(&mut self.registry);
            self.generations.clear();
        }
        let newest = self.generations.entry(type_url).or_default();
        if generation < *newest {
            return Err(Unaccepted::Older(format!(
                "generation {generation} is older than {newest} and ignored"
            )));
        }
        *newest = generation;
        Ok(note)
    }

    fn newest(&self) -> u64 {
        self.generations.values().copied().max().unwrap_or_default()
    }

    fn version_info(&self) -> String {
        format!("{}/{}", self.registry, self.newest())
    }
}

fn known_type(type_url: &str) -> Option<&'static str> {
    TYPE_URLS.iter().copied().find(|known| *known == type_url)
}
