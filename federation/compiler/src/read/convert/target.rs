//! `targetRefs`: what a policy is attached to.

use std::collections::BTreeSet;

use portolan_model::declared::{Face, ResourceKey, TargetRef};
use portolan_model::{PortName, ServiceKey, ServiceName};
use serde_json::Value;

use super::super::finding::Findings;
use super::super::path::{field, item};
use super::text;

/// The kinds that policies attach to.
const KINDS: &str = "attach it to `kind: Service` (group `\"\"`) or `kind: ServiceImport` (group `multicluster.x-k8s.io`)";

/// Reads `spec.targetRefs`, which name services of the policy's own namespace.
pub(super) fn read(
    key: Option<&ResourceKey>,
    spec: &Value,
    findings: &mut Findings,
) -> Option<Vec<TargetRef>> {
    let namespace = key?.namespace.clone()?;
    let listed = spec.get("targetRefs").and_then(Value::as_array)?;
    if listed.is_empty() {
        findings.error("spec.targetRefs", "it is attached to nothing", KINDS);
    }
    let mut seen = BTreeSet::new();
    let mut targets = Vec::new();
    for (index, target) in listed.iter().enumerate() {
        let path = item("spec.targetRefs", index);
        let kind = text(target, "kind").unwrap_or("Service");
        let face = match (text(target, "group").unwrap_or(""), kind) {
            ("", "Service") => Face::Cluster,
            ("multicluster.x-k8s.io", "ServiceImport") => Face::Set,
            (group, kind) => {
                let message =
                    format!("a policy cannot be attached to `{kind}` of the group `{group}`");
                findings.error(field(&path, "kind"), message, KINDS);
                continue;
            }
        };
        let Some(name) = text(target, "name")
            .and_then(|name| findings.name::<ServiceName>(name, &field(&path, "name")))
        else {
            continue;
        };
        let port = text(target, "sectionName")
            .map(|name| findings.name::<PortName>(name, &field(&path, "sectionName")));
        let target = TargetRef {
            face,
            service: ServiceKey::new(namespace.clone(), name),
            port: port.flatten(),
        };
        if seen.insert(target.clone()) {
            targets.push(target);
        } else {
            findings.warning(path, "it is listed twice", "list it once");
        }
    }
    Some(targets)
}
