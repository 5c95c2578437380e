//! The incremental state machine: [`Change`]s in, [`Output`]s out.
//!
//! [`Compiler::apply`] only notes a change and marks what it touches, found through indexes.
//! [`Compiler::compile`] then compiles each touched thing once, from all that is known of it, and
//! puts out what really became different. The order of changes does not matter to the result,
//! except that virtual IPs, once assigned, stay.

mod affinity;
mod apply;
mod attached;
mod catalogue;
mod change;
mod cluster_ips;
mod facts;
mod local;
mod made;
mod merge;
mod output;
pub(crate) mod peers;
mod policies;
mod routes;
mod service;
mod serving;
mod status;
#[cfg(test)]
mod tests;
mod traffic;
mod vips;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::{Ipv4Net, Ipv6Net};
use portolan_model::declared::{Declared, DeclaredServiceKind, ExportTo, ResourceKey};
use portolan_model::sharing::CatalogueEntry;
use portolan_model::snapshot::{Gateway, Inbound, LinkState, Mesh, Peer, Snapshot, Trust};
use portolan_model::{ClusterIdentity, ClusterName, Problem, ServiceKey, Severity, WorkloadKey};
use serde_json::Value;

use catalogue::Catalogues;
use cluster_ips::ClusterIps;
use facts::{Facts, peer_resource, workload_resource};
use made::Made;
use peers::Peers;
use service::{Sources, problem};
use vips::VipTable;

pub use change::{Change, RefusedEntry};
pub use output::{CatalogueDelta, Delta, ExportChange, Output};

/// How many refused catalogue entries a peer's problems name one by one.
const REFUSALS_NAMED: usize = 10;

/// Where virtual IPs come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VipPools {
    /// The pool that allocation goes by.
    pub v4: Ipv4Net,
    /// If present, each virtual IP has a twin here: the pool's base plus the low 32 bits.
    pub v6: Option<Ipv6Net>,
}

impl VipPools {
    /// Whether an address is one of the pools' own.
    #[must_use]
    pub fn own(&self, ip: IpAddr) -> bool {
        match ip {
            IpAddr::V4(ip) => self.v4.contains(&ip),
            IpAddr::V6(ip) => self.v6.is_some_and(|pool| pool.contains(&ip)),
        }
    }
}

/// All declarations and facts of one cluster, and the snapshot they make.
#[derive(Debug)]
pub struct Compiler {
    identity: ClusterIdentity,
    facts: Facts,
    peers: Peers,
    catalogues: Catalogues,
    cluster_ips: ClusterIps,
    vips: VipTable,
    surroundings: Surroundings,
    /// Problems of documents whose last good version stays in force.
    broken: BTreeMap<ResourceKey, Vec<Problem>>,
    /// Problems that compiling found.
    found: BTreeMap<ResourceKey, Vec<Problem>>,
    /// Services that lack a virtual IP because the pool is exhausted.
    starved: BTreeSet<ServiceKey>,
    touched: Touched,
    made: Made,
}

/// Facts that make the mesh and trust resources.
#[derive(Debug, Default)]
struct Surroundings {
    gateways: Vec<Gateway>,
    links: BTreeMap<ClusterName, LinkState>,
    control: Vec<SocketAddr>,
    trust: Option<Trust>,
}

/// What the changes since the last compilation touched.
#[derive(Debug, Default)]
struct Touched {
    services: BTreeSet<ServiceKey>,
    /// Workloads whose inbound resource may be another.
    inbound: BTreeSet<WorkloadKey>,
    /// Workloads whose status may be another.
    workloads: BTreeSet<WorkloadKey>,
    peers: BTreeSet<ClusterName>,
    /// Routes and policies whose status may be another.
    attached: BTreeSet<ResourceKey>,
    problems: BTreeSet<ResourceKey>,
}

impl Compiler {
    /// A compiler that knows nothing but who it compiles for.
    #[must_use]
    pub fn new(identity: ClusterIdentity, pools: VipPools) -> Self {
        Self {
            identity,
            facts: Facts::default(),
            peers: Peers::default(),
            catalogues: Catalogues::default(),
            cluster_ips: ClusterIps::new(pools),
            vips: VipTable::new(pools),
            surroundings: Surroundings::default(),
            broken: BTreeMap::new(),
            found: BTreeMap::new(),
            starved: BTreeSet::new(),
            touched: Touched::default(),
            made: Made::default(),
        }
    }

    /// Recompiles what the changes since the last call touched, and no more.
    pub fn compile(&mut self) -> Output {
        let mut out = Output::default();
        let mut touched = std::mem::take(&mut self.touched);
        for key in &touched.services {
            let attached = self.facts.attached(key).map(|declared| &declared.key);
            let mentioning = attached.chain(self.facts.routes_to(key));
            touched.attached.extend(mentioning.cloned());
        }
        let freed = self.compile_services(&touched.services, &mut out);
        if freed && !self.starved.is_empty() {
            let starved = std::mem::take(&mut self.starved);
            self.compile_services(&starved, &mut out);
        }
        for key in &touched.inbound {
            self.compile_inbound(key, &mut out);
        }
        for key in touched.workloads.union(&touched.inbound) {
            self.compile_workload_status(key, &mut out);
        }
        for name in &touched.peers {
            self.compile_peer_status(name, &mut out);
        }
        for key in &touched.attached {
            self.compile_attached(key, &mut out);
        }
        let mesh = self.mesh();
        self.made.mesh(mesh, &mut out);
        if let Some(trust) = &self.surroundings.trust {
            self.made.trust(trust, &mut out);
        }
        let mut unsettled = touched.problems;
        unsettled.append(&mut self.touched.problems);
        for key in unsettled {
            let mut problems = self.broken.get(&key).cloned().unwrap_or_default();
            problems.extend(self.found.get(&key).into_iter().flatten().cloned());
            for problem in &mut problems {
                problem.resource.get_or_insert_with(|| key.to_string());
            }
            self.made.problems(&key, problems, &mut out);
        }
        (out.vips_assigned, out.vips_released) = self.vips.drain();
        if !out.delta.is_empty() {
            self.made.snapshot.generation += 1;
        }
        out.delta.generation = self.made.snapshot.generation;
        out
    }

    /// The snapshot as of the last [`Compiler::compile`].
    #[must_use]
    pub fn snapshot(&self) -> &Snapshot {
        &self.made.snapshot
    }

    /// Everything declared and good, by key.
    #[must_use]
    pub fn declared(&self) -> &BTreeMap<ResourceKey, Declared> {
        self.facts.declared()
    }

    /// All that `peer` may know of this cluster's exports.
    #[must_use]
    pub fn catalogue_for(&self, peer: &ClusterName) -> Vec<Arc<CatalogueEntry>> {
        self.made.exports_for(peer)
    }

    /// Whether something of what `peer` offers is refused now.
    #[must_use]
    pub fn refuses_of(&self, peer: &ClusterName) -> bool {
        self.catalogues.refusals(peer).next().is_some()
    }

    /// The generated `ServiceImport` documents.
    #[must_use]
    pub fn imports(&self) -> &BTreeMap<ServiceKey, Value> {
        &self.made.imports
    }

    /// The `status` of a resource, where there is something to say.
    #[must_use]
    pub fn status(&self, key: &ResourceKey) -> Option<&Value> {
        self.made.statuses.get(key)
    }

    /// All present problems by resource.
    #[must_use]
    pub fn problems(&self) -> &BTreeMap<ResourceKey, Vec<Problem>> {
        &self.made.problems
    }

    /// Compiles services; returns whether virtual IPs became free.
    fn compile_services(&mut self, keys: &BTreeSet<ServiceKey>, out: &mut Output) -> bool {
        let sources = Sources {
            identity: &self.identity,
            facts: &self.facts,
            peers: &self.peers,
            catalogues: &self.catalogues,
            cluster_ips: &self.cluster_ips,
        };
        let mut freed = false;
        for key in keys {
            let compiled = service::compile(sources, &mut self.vips, key);
            out.recompiled += 1;
            freed |= compiled.freed;
            if compiled.starved {
                self.starved.insert(key.clone());
            } else {
                self.starved.remove(key);
            }
            self.made.service(key, compiled.service, out);
            self.made.import(key, compiled.import, out);
            self.made.export(key, compiled.export, out);
            for (resource, status) in compiled.statuses {
                self.made.status(&resource, status, out);
            }
            for (resource, problems) in compiled.problems {
                note(
                    &mut self.found,
                    &mut self.touched.problems,
                    resource,
                    problems,
                );
            }
        }
        freed
    }

    fn compile_inbound(&mut self, key: &WorkloadKey, out: &mut Output) {
        let inbound = self.facts.workload(key).map(|(spec, labels)| {
            let services = self.facts.services_of(&key.namespace, labels);
            let mut ports: Vec<_> = services
                .iter()
                .filter_map(|service| Some((service, self.facts.service(service)?)))
                .filter(|(_, declared)| matches!(declared.kind, DeclaredServiceKind::Of(_)))
                .flat_map(|(service, declared)| {
                    let export = self.facts.export(service);
                    let exported = export.map_or(ExportTo::Nobody, |(export, _)| export.to.clone());
                    local::inbound_ports(service, declared, spec, &exported).collect::<Vec<_>>()
                })
                .collect();
            ports.sort();
            let rules = services.iter().filter_map(|service| {
                let rules = traffic::inbound_rules(&self.facts, service);
                (!rules.is_empty()).then(|| (service.clone(), rules))
            });
            Inbound {
                workload: key.clone(),
                ports,
                rules: rules.collect(),
            }
        });
        self.made.inbound(key, inbound, out);
    }

    fn compile_workload_status(&mut self, key: &WorkloadKey, out: &mut Output) {
        let status = self.facts.workload(key).map(|(spec, labels)| {
            let services = self.facts.services_of(&key.namespace, labels);
            status::workload(self.facts.liveness(key), spec.leased, services.iter())
        });
        self.made.status(&workload_resource(key), status, out);
    }

    fn compile_attached(&mut self, key: &ResourceKey, out: &mut Output) {
        let declared = self.facts.declared().get(key);
        let judged = declared.map(|declared| {
            attached::judge(&self.facts, &self.made.snapshot, &self.identity, declared)
        });
        let (status, problems) = judged.unzip();
        self.made.status(key, status, out);
        note(
            &mut self.found,
            &mut self.touched.problems,
            key.clone(),
            problems.unwrap_or_default(),
        );
    }

    fn compile_peer_status(&mut self, name: &ClusterName, out: &mut Output) {
        let resource = peer_resource(name);
        let rejected = self.peers.rejected.get(name);
        let declared = rejected.is_some() || self.peers.admitted.contains_key(name);
        let status =
            declared.then(|| status::peer(rejected, self.link(name), self.catalogues.count(name)));
        self.made.status(&resource, status, out);
        let mut problems: Vec<_> = rejected.cloned().into_iter().collect();
        if declared {
            let refusals = self.catalogues.refusals(name).take(REFUSALS_NAMED);
            problems.extend(refusals.map(|(service, reason)| {
                problem(
                    Severity::Warning,
                    "",
                    format!("its offer of {service} was refused: {reason}"),
                    "have the peer's own cluster corrected",
                )
            }));
        }
        note(
            &mut self.found,
            &mut self.touched.problems,
            resource,
            problems,
        );
    }

    fn mesh(&self) -> Mesh {
        Mesh {
            cluster: self.identity.clone(),
            gateways: self.surroundings.gateways.clone(),
            control: self.surroundings.control.clone(),
            peers: self
                .peers
                .admitted
                .iter()
                .map(|(name, spec)| Peer {
                    name: name.clone(),
                    trust_domain: spec.trust_domain.clone(),
                    region: spec.region.clone(),
                    gateways: spec.gateways.clone(),
                    link: self.link(name),
                })
                .collect(),
        }
    }

    fn link(&self, name: &ClusterName) -> LinkState {
        self.surroundings
            .links
            .get(name)
            .copied()
            .unwrap_or_default()
    }
}

/// Keeps what compiling found, and remembers whose problems must be told again.
fn note(
    found: &mut BTreeMap<ResourceKey, Vec<Problem>>,
    unsettled: &mut BTreeSet<ResourceKey>,
    resource: ResourceKey,
    problems: Vec<Problem>,
) {
    let same = match found.get(&resource) {
        Some(known) => *known == problems,
        None => problems.is_empty(),
    };
    if same {
        return;
    }
    if problems.is_empty() {
        found.remove(&resource);
    } else {
        found.insert(resource.clone(), problems);
    }
    unsettled.insert(resource);
}
