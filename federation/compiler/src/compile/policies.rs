//! Which `TrafficPolicy` counts where: on one target the oldest, of the same age the first by name.

use portolan_model::declared::{Declared, Face, ResourceKind, TargetRef};
use portolan_model::snapshot::Snapshot;
use portolan_model::traffic::{
    AdaptiveConcurrency, Frontend, HealthCheck, TrafficPolicy, TrafficPolicySpec,
};
use portolan_model::{Port, PortName, Problem, ServiceKey, Severity};
use serde_json::Value;

use super::facts::Facts;
use super::service::problem;
use super::status::condition;
use crate::read::path::item;

/// Puts the policies of one face of a service where they belong.
pub(super) fn attach(
    facts: &Facts,
    key: &ServiceKey,
    face: Face,
    ports: &[Port],
    frontend: &mut Frontend,
) {
    frontend.policy = winner(facts, &target(key, face, None)).map(|(_, it)| it.policy.clone());
    for port in ports {
        let name = port.name.clone();
        let won = name.and_then(|name| winner(facts, &target(key, face, Some(name))));
        if let Some((_, spec)) = won {
            frontend
                .port_policies
                .insert(port.number, spec.policy.clone());
        }
    }
}

/// The health checks of a service's apps: those of the policies for the Service, its ports' own first.
pub(super) fn health_checks(facts: &Facts, key: &ServiceKey) -> Vec<HealthCheck> {
    let mut checks = Vec::new();
    for (port, policy) in for_apps(facts, key) {
        checks.extend(policy.health_checks.iter().map(|check| HealthCheck {
            port: check.port.or(port),
            ..check.clone()
        }));
    }
    checks
}

/// How much its apps are given at a time, by port; 0 stands for all.
pub(super) fn admission(facts: &Facts, key: &ServiceKey) -> Vec<(u16, AdaptiveConcurrency)> {
    for_apps(facts, key)
        .into_iter()
        .filter_map(|(port, policy)| Some((port.unwrap_or(0), policy.admission?)))
        .collect()
}

/// The policies that count beside a service's apps, whatever name they are called by: those for the Service.
/// Its ports' own come first.
fn for_apps<'a>(facts: &'a Facts, key: &ServiceKey) -> Vec<(Option<u16>, &'a TrafficPolicy)> {
    let ports = facts.service(key).into_iter().flat_map(|spec| &spec.ports);
    let of_ports = ports.filter_map(|port| {
        let target = target(key, Face::Cluster, Some(port.name.clone()?));
        Some((Some(port.number), winner(facts, &target)?))
    });
    let shared = winner(facts, &target(key, Face::Cluster, None));
    of_ports
        .chain(shared.map(|won| (None, won)))
        .map(|(port, (_, spec))| (port, &spec.policy))
        .collect()
}

/// Whether a policy counts, and what is wrong with it beside everything else.
pub(super) fn judge(
    facts: &Facts,
    snapshot: &Snapshot,
    declared: &Declared,
    spec: &TrafficPolicySpec,
) -> (Value, Vec<Problem>) {
    let mut lost = Vec::new();
    let mut missing = Vec::new();
    for target in &spec.targets {
        let won = winner(facts, target).filter(|(winner, _)| winner.key != declared.key);
        if let Some((winner, _)) = won {
            lost.push((target, winner));
        }
        match snapshot.services.get(&target.service) {
            None => missing.push(format!("there is no service {}", target.service)),
            Some(service) => {
                let port = target.port.as_ref();
                if let Some(port) = port.filter(|port| service.port_named(port).is_none()) {
                    missing.push(format!("{} has no port `{port}`", target.service));
                }
            }
        }
    }
    let accepted = if let Some((target, winner)) = lost.first() {
        let message = format!(
            "{} is older and attached to the same {}",
            name(winner),
            shown(target)
        );
        condition("Accepted", "False", "Conflicted", &message)
    } else if let Some(why) = missing.first() {
        condition("Accepted", "False", "TargetNotFound", why)
    } else {
        condition("Accepted", "True", "Accepted", "it is in force")
    };
    let problems = lost.iter().map(|(target, winner)| {
        let at = spec
            .targets
            .iter()
            .position(|it| it == *target)
            .unwrap_or(0);
        problem(
            Severity::Warning,
            &item("spec.targetRefs", at),
            format!(
                "it has no effect on {}: {} is older and attached to it as well",
                shown(target),
                name(winner)
            ),
            "merge the two policies into one",
        )
    });
    (
        serde_json::json!({ "conditions": [accepted] }),
        problems.collect(),
    )
}

/// The policy that counts on exactly this target.
fn winner<'a>(
    facts: &'a Facts,
    target: &TargetRef,
) -> Option<(&'a Declared, &'a TrafficPolicySpec)> {
    facts
        .attached(&target.service)
        .filter(|declared| declared.key.kind == ResourceKind::TrafficPolicy)
        .filter_map(|declared| Some((declared, declared.spec.traffic()?)))
        .filter(|(_, spec)| spec.targets.contains(target))
        .min_by_key(|(declared, _)| (declared.created_ms, &declared.key))
}

fn target(service: &ServiceKey, face: Face, port: Option<PortName>) -> TargetRef {
    TargetRef {
        face,
        service: service.clone(),
        port,
    }
}

fn name(declared: &Declared) -> String {
    match &declared.key.namespace {
        Some(namespace) => format!("TrafficPolicy {namespace}/{}", declared.key.name),
        None => format!("TrafficPolicy {}", declared.key.name),
    }
}

fn shown(target: &TargetRef) -> String {
    let kind = match target.face {
        Face::Cluster => "Service",
        Face::Set => "ServiceImport",
    };
    match &target.port {
        Some(port) => format!("{kind} {} port `{port}`", target.service),
        None => format!("{kind} {}", target.service),
    }
}
