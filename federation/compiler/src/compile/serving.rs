//! Limits and drills: what is declared for the workloads of a service, and what is told to its authors.

use portolan_model::declared::{Declared, TargetRef};
use portolan_model::fault::{Fault, FaultPolicySpec};
use portolan_model::limit::RateLimit;
use portolan_model::{Problem, ServiceKey};
use serde_json::{Value, json};

use super::facts::Facts;
use super::status::condition;

/// Every limit of a service, by port (0: all of them).
pub(super) fn limits(facts: &Facts, key: &ServiceKey) -> Vec<(u16, RateLimit)> {
    let declared = facts.attached(key);
    let specs = declared.filter_map(|declared| declared.spec.rate_limit());
    specs
        .flat_map(|spec| {
            let ports = ports(facts, key, &spec.targets);
            ports
                .into_iter()
                .flat_map(|port| spec.limits.iter().map(move |limit| (port, limit.clone())))
        })
        .collect()
}

/// Every fault of a service, by port (0: all of them): the oldest policy's first.
pub(super) fn faults(facts: &Facts, key: &ServiceKey) -> Vec<(u16, Fault)> {
    let mut declared: Vec<&Declared> = facts
        .attached(key)
        .filter(|declared| declared.spec.fault().is_some())
        .collect();
    declared.sort_by_key(|declared| (declared.created_ms, &declared.key));
    let specs = declared.iter().filter_map(|declared| declared.spec.fault());
    specs
        .flat_map(|spec| {
            let ports = ports(facts, key, &spec.targets);
            ports
                .into_iter()
                .flat_map(|port| spec.faults.iter().map(move |fault| (port, fault.clone())))
        })
        .collect()
}

/// The ports of a service that a policy names; 0 alone where it names the service as a whole.
fn ports(facts: &Facts, key: &ServiceKey, targets: &[TargetRef]) -> Vec<u16> {
    let mine = || targets.iter().filter(|target| &target.service == key);
    if mine().any(|target| target.port.is_none()) {
        return vec![0];
    }
    mine()
        .filter_map(|target| port_number(facts, target))
        .collect()
}

fn port_number(facts: &Facts, target: &TargetRef) -> Option<u16> {
    let spec = facts.service(&target.service)?;
    let port = spec
        .ports
        .iter()
        .find(|port| port.name == target.port && port.name.is_some())?;
    Some(port.number)
}

/// The status of a `RateLimitPolicy`.
pub(super) fn limits_status(facts: &Facts, targets: &[TargetRef]) -> (Value, Vec<Problem>) {
    status(facts, targets, "it is in force")
}

/// The status of a `FaultPolicy`: also when it ends.
pub(super) fn faults_status(facts: &Facts, spec: &FaultPolicySpec) -> (Value, Vec<Problem>) {
    let ends_ms = spec.faults.iter().map(|fault| fault.ends_ms).max();
    let ends = ends_ms
        .and_then(|ms| i64::try_from(ms).ok())
        .and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok())
        .map(|moment| moment.to_string());
    let message = format!("it is in force until {}", ends.as_deref().unwrap_or("-"));
    let (mut status, problems) = status(facts, &spec.targets, &message);
    if let Some(why) = for_requests_alone(facts, spec)
        && let Some(conditions) = status["conditions"].as_array_mut()
    {
        let partial = condition("PartiallyInvalid", "True", "UnsupportedValue", &why);
        conditions.push(partial);
    }
    status["ends"] = json!(ends);
    (status, problems)
}

/// The first fault that nothing can meet where it is declared: a port of opaque bytes carries no requests.
fn for_requests_alone(facts: &Facts, spec: &FaultPolicySpec) -> Option<String> {
    let fault = spec.faults.iter().find(|it| !it.is_for_connections())?;
    spec.targets.iter().find_map(|target| {
        let ports = &facts.service(&target.service)?.ports;
        let mut mine = ports
            .iter()
            .filter(|port| target.port.is_none() || port.name == target.port);
        let first = mine.clone().next()?;
        mine.all(|port| !port.protocol.is_http()).then(|| {
            format!(
                "{}: it has a match, or answers with a status, and {} carries no requests on port {} ({}): give it \
                 no match, and a delay or `reset: true`",
                fault.name, target.service, first.number, first.protocol
            )
        })
    })
}

fn status(facts: &Facts, targets: &[TargetRef], in_force: &str) -> (Value, Vec<Problem>) {
    let missing = targets.iter().find_map(|target| {
        let service = &target.service;
        if facts.service(service).is_none() {
            return Some(format!("this cluster has no Service {service}"));
        }
        let name = target.port.as_ref()?;
        let found = port_number(facts, target);
        found
            .is_none()
            .then(|| format!("{service} has no port named {name}"))
    });
    let accepted = match missing {
        Some(missing) => condition("Accepted", "False", "TargetNotFound", &missing),
        None => condition("Accepted", "True", "Accepted", in_force),
    };
    (json!({ "conditions": [accepted] }), Vec::new())
}
