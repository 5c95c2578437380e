//! Judges declarations that are valid in themselves against everything else that is declared.

mod attached;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use portolan_model::declared::{
    Declared, DeclaredServiceKind, DeclaredSpec, ExportSpec, ExportTo, PeerSpec, ResourceKey,
    ResourceKind, ServiceSpec, TargetPort, WorkloadSpec,
};
use portolan_model::{ClusterIdentity, ClusterName, Namespace, PortName, Problem, Severity};

use crate::compile::peers::{own_name_or_domain, shared_domain};
use crate::near::nearest;
use crate::read::path::{field, item};

/// The annotation in which exports name peers.
const EXPORT_TO_PATH: &str = "metadata.annotations[\"portolan.dev/export-to\"]";

/// Judges the declarations of a batch as if they were stored beside (and over) what is `stored`
/// already. Errors must keep the batch from being stored; warnings are told and no more. Deleting
/// what others refer to is always allowed: their status tells.
#[must_use]
pub fn check(
    identity: &ClusterIdentity,
    batch: &[Declared],
    stored: &BTreeMap<ResourceKey, Declared>,
) -> Vec<Problem> {
    let world = World {
        batch: batch.iter().map(|one| (one.key.clone(), one)).collect(),
        stored,
    };
    let inbound = world.inbound_addresses(batch);
    let mut problems = Vec::new();
    for declared in batch {
        let found = match &declared.spec {
            DeclaredSpec::Service(spec) => service(&world, declared, spec),
            DeclaredSpec::Export(spec) => export(identity, &world, declared, spec),
            DeclaredSpec::Workload(spec) => workload(&inbound, declared, spec),
            DeclaredSpec::Peer(spec) => peer(identity, &world, declared, spec),
            DeclaredSpec::Grant => Vec::new(),
            DeclaredSpec::Route(_)
            | DeclaredSpec::Traffic(_)
            | DeclaredSpec::RateLimit(_)
            | DeclaredSpec::Fault(_) => attached::check(&world, declared),
        };
        let resource = declared.key.to_string();
        problems.extend(found.into_iter().map(|problem| Problem {
            resource: Some(resource.clone()),
            ..problem
        }));
    }
    problems
}

/// What would be declared if the batch were stored.
struct World<'a> {
    batch: BTreeMap<ResourceKey, &'a Declared>,
    stored: &'a BTreeMap<ResourceKey, Declared>,
}

impl<'a> World<'a> {
    fn get(&self, key: &ResourceKey) -> Option<&'a Declared> {
        let batched = self.batch.get(key).copied();
        batched.or_else(|| self.stored.get(key))
    }

    /// All of a kind, in one namespace or, with none, in all.
    fn all(
        &self,
        kind: ResourceKind,
        namespace: Option<&Namespace>,
    ) -> impl Iterator<Item = &'a Declared> {
        let from = ResourceKey {
            kind,
            namespace: namespace.cloned(),
            name: String::new(),
        };
        let wanted = move |key: &ResourceKey| {
            key.kind == kind
                && namespace.is_none_or(|wanted| key.namespace.as_ref() == Some(wanted))
        };
        let stored = self
            .stored
            .range(from.clone()..)
            .take_while(move |(key, _)| wanted(key))
            .filter(|(key, _)| !self.batch.contains_key(key))
            .map(|(_, declared)| declared);
        let batched = self
            .batch
            .range(from..)
            .take_while(move |(key, _)| wanted(key))
            .map(|(_, declared)| *declared)
            .collect::<Vec<_>>();
        stored.chain(batched)
    }

    /// Who accepts mutual TLS where; empty if the batch has no workload.
    fn inbound_addresses(
        &self,
        batch: &[Declared],
    ) -> BTreeMap<SocketAddr, BTreeSet<&'a ResourceKey>> {
        let mut addresses: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
        let concerned = batch
            .iter()
            .any(|declared| matches!(declared.spec, DeclaredSpec::Workload(_)));
        let workloads = concerned.then(|| self.all(ResourceKind::Workload, None));
        for declared in workloads.into_iter().flatten() {
            if let DeclaredSpec::Workload(spec) = &declared.spec {
                let owners = addresses.entry(inbound_address(spec)).or_default();
                owners.insert(&declared.key);
            }
        }
        addresses
    }
}

fn inbound_address(spec: &WorkloadSpec) -> SocketAddr {
    SocketAddr::new(spec.address, spec.inbound_port)
}

fn service(world: &World<'_>, declared: &Declared, spec: &ServiceSpec) -> Vec<Problem> {
    if spec.selector.is_empty() {
        return Vec::new();
    }
    let workloads: Vec<&WorkloadSpec> = world
        .all(ResourceKind::Workload, declared.key.namespace.as_ref())
        .filter(|workload| {
            let mut wanted = spec.selector.iter();
            wanted.all(|(name, value)| workload.labels.get(name) == Some(value))
        })
        .filter_map(|workload| workload.spec.workload())
        .collect();
    if workloads.is_empty() {
        return Vec::new();
    }
    let offered: BTreeSet<&str> = workloads
        .iter()
        .flat_map(|workload| workload.ports.keys())
        .map(PortName::as_str)
        .collect();
    spec.ports
        .iter()
        .enumerate()
        .filter_map(|(index, port)| match &port.target {
            TargetPort::Name(name) if !offered.contains(name.as_str()) => Some((index, name)),
            TargetPort::Name(_) | TargetPort::Number(_) => None,
        })
        .map(|(index, name)| {
            let remedy = match nearest(name.as_str(), offered.iter().copied()) {
                Some(near) => format!("did you mean `{near}`?"),
                None if offered.is_empty() => "their ports have no names: give a number".to_owned(),
                None => format!("their ports: {}", listed(offered.iter().copied())),
            };
            problem(
                Severity::Warning,
                field(&item("spec.ports", index), "targetPort"),
                format!(
                    "none of the {} workloads that it selects has a port `{name}`",
                    workloads.len()
                ),
                remedy,
            )
        })
        .collect()
}

fn export(
    identity: &ClusterIdentity,
    world: &World<'_>,
    declared: &Declared,
    spec: &ExportSpec,
) -> Vec<Problem> {
    let mut problems = Vec::new();
    let service = ResourceKey {
        kind: ResourceKind::Service,
        ..declared.key.clone()
    };
    match world.get(&service).map(|service| service.spec.service()) {
        None => problems.push(dangling(world, &service)),
        Some(Some(ServiceSpec {
            kind: DeclaredServiceKind::ExternalName(_),
            ..
        })) => problems.push(problem(
            Severity::Warning,
            "metadata.name".to_owned(),
            format!("{service} is an ExternalName, which cannot be exported"),
            "export a service that has workloads".to_owned(),
        )),
        Some(_) => {}
    }
    if let ExportTo::Peers(named) = &spec.to {
        let known: BTreeSet<&str> = world
            .all(ResourceKind::Peer, None)
            .map(|peer| peer.key.name.as_str())
            .collect();
        let strangers = named.iter().filter(|name| !known.contains(name.as_str()));
        problems.extend(strangers.map(|name| stranger(identity, name, &known)));
    }
    problems
}

fn dangling(world: &World<'_>, service: &ResourceKey) -> Problem {
    let mut here = world
        .all(ResourceKind::Service, service.namespace.as_ref())
        .map(|one| one.key.name.as_str());
    let elsewhere = || {
        world
            .all(ResourceKind::Service, None)
            .find(|one| one.key.name == service.name)
            .and_then(|one| one.key.namespace.as_ref())
    };
    let remedy = if let Some(near) = nearest(&service.name, &mut here) {
        format!("did you mean `{near}`? An export has the name of its Service")
    } else if let Some(namespace) = elsewhere() {
        format!("there is one in the namespace `{namespace}`: export it there")
    } else {
        "apply the Service first, or together with it".to_owned()
    };
    problem(
        Severity::Error,
        "metadata.name".to_owned(),
        format!("there is no {service} to export"),
        remedy,
    )
}

fn stranger(identity: &ClusterIdentity, name: &ClusterName, known: &BTreeSet<&str>) -> Problem {
    let (message, remedy) = if *name == identity.name {
        (
            format!("`{name}` is this very cluster, which needs no export"),
            "name other clusters".to_owned(),
        )
    } else {
        let remedy = match nearest(name.as_str(), known.iter().copied()) {
            Some(near) => format!("did you mean `{near}`?"),
            None if known.is_empty() => "declare a Peer of that name".to_owned(),
            None => format!(
                "declare a Peer of that name; known peers: {}",
                listed(known.iter().copied())
            ),
        };
        (
            format!("it is exported to `{name}`, which is no known Peer"),
            remedy,
        )
    };
    problem(
        Severity::Warning,
        EXPORT_TO_PATH.to_owned(),
        message,
        remedy,
    )
}

fn workload(
    inbound: &BTreeMap<SocketAddr, BTreeSet<&ResourceKey>>,
    declared: &Declared,
    spec: &WorkloadSpec,
) -> Vec<Problem> {
    let address = inbound_address(spec);
    let mut others = inbound
        .get(&address)
        .into_iter()
        .flatten()
        .filter(|other| ***other != declared.key);
    let other = others.next().map(|other| {
        problem(
            Severity::Warning,
            "spec.inboundPort".to_owned(),
            format!("{other} accepts mutual TLS at {address}, too"),
            "give one of them another `inboundPort` or address".to_owned(),
        )
    });
    other.into_iter().collect()
}

fn peer(
    identity: &ClusterIdentity,
    world: &World<'_>,
    declared: &Declared,
    spec: &PeerSpec,
) -> Vec<Problem> {
    let Ok(name) = declared.key.name.parse::<ClusterName>() else {
        return Vec::new();
    };
    let own = own_name_or_domain(identity, &name, spec);
    let shared = world
        .all(ResourceKind::Peer, None)
        .filter(|other| other.key != declared.key)
        .find(|other| {
            let other = other.spec.peer();
            other.is_some_and(|other| other.trust_domain == spec.trust_domain)
        })
        .and_then(|other| other.key.name.parse().ok())
        .map(|owner| shared_domain(&spec.trust_domain, &owner));
    own.into_iter().chain(shared).collect()
}

fn listed<'a>(words: impl Iterator<Item = &'a str>) -> String {
    words
        .map(|word| format!("`{word}`"))
        .collect::<Vec<_>>()
        .join(", ")
}

fn problem(severity: Severity, path: String, message: String, remedy: String) -> Problem {
    Problem {
        severity,
        resource: None,
        position: None,
        path,
        message,
        remedy,
    }
}
