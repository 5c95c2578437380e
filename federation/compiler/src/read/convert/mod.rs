//! Documents → declarations. Values of a wrong type are passed over in silence here: the schema
//! has complained of them, and the rest can still be judged.

mod duration;
mod export;
mod fault;
mod labels;
mod limit;
mod matching;
mod peer;
mod route;
mod service;
mod target;
mod traffic;
mod workload;

use std::collections::BTreeMap;

use portolan_model::declared::{Declared, DeclaredSpec, ResourceKey, ResourceKind};
use portolan_model::{ClusterName, Namespace, ServiceName, WorkloadName};
use serde_json::Value;

use super::finding::Findings;
use super::path::field;

/// Annotations and labels with this prefix are Portolan's own.
const OWN_PREFIX: &str = "portolan.dev/";
/// The annotation of a ServiceExport that names the peers to export to.
const EXPORT_TO: &str = "portolan.dev/export-to";
/// The annotation with which a control plane notes the file that it read a declaration from.
const SOURCE: &str = "portolan.dev/source";

/// Where a document comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// Somebody wants it stored: every mistake is an error.
    Applied,
    /// It is stored already: what can be understood of it counts.
    Stored,
}

/// Reads a document whose server-set metadata is gone and whose namespace is filled in. The result
/// counts only if no error was found, by the schema or here.
pub(super) fn declared(
    kind: ResourceKind,
    document: &Value,
    created_ms: u64,
    source: Source,
    findings: &mut Findings,
) -> Option<Declared> {
    let metadata = &document["metadata"];
    let key = key(kind, metadata, findings);
    let labels = labels::read(metadata, "metadata.labels", "labels", findings);
    own_annotations(kind, metadata, findings);
    let spec = &document["spec"];
    let spec = match kind {
        ResourceKind::Service => service::read(spec, findings).map(DeclaredSpec::Service),
        ResourceKind::ServiceExport => {
            export::read(metadata, spec, findings).map(DeclaredSpec::Export)
        }
        ResourceKind::ServiceImport => None,
        ResourceKind::Workload => {
            workload::read(metadata, spec, findings).map(DeclaredSpec::Workload)
        }
        ResourceKind::Peer => peer::read(spec, findings).map(DeclaredSpec::Peer),
        ResourceKind::HttpRoute
        | ResourceKind::GrpcRoute
        | ResourceKind::TlsRoute
        | ResourceKind::TcpRoute => {
            route::read(kind, key.as_ref(), spec, source, findings).map(DeclaredSpec::Route)
        }
        ResourceKind::ReferenceGrant => {
            findings.warning(
                "kind",
                "routes of a mesh may name backends in every namespace: a ReferenceGrant has no effect here",
                "leave it out, if nobody else reads it",
            );
            Some(DeclaredSpec::Grant)
        }
        ResourceKind::TrafficPolicy => traffic::read(key.as_ref(), spec, findings)
            .map(Box::new)
            .map(DeclaredSpec::Traffic),
        ResourceKind::RateLimitPolicy => {
            limit::read(key.as_ref(), spec, findings).map(DeclaredSpec::RateLimit)
        }
        ResourceKind::FaultPolicy => {
            fault::read(key.as_ref(), created_ms, spec, findings).map(DeclaredSpec::Fault)
        }
    };
    Some(Declared {
        key: key?,
        created_ms,
        labels,
        spec: spec?,
    })
}

fn key(kind: ResourceKind, metadata: &Value, findings: &mut Findings) -> Option<ResourceKey> {
    let path = "metadata.name";
    let Some(name) = text(metadata, "name") else {
        if metadata.get("name").is_none() && metadata.is_object() {
            let remedy = if metadata.get("generateName").is_some() {
                "give it a `name`: names are not generated"
            } else {
                "add `name`"
            };
            findings.error(path, "the resource has no name", remedy);
        }
        return None;
    };
    let valid = match kind {
        ResourceKind::Service | ResourceKind::ServiceExport | ResourceKind::ServiceImport => {
            findings.name::<ServiceName>(name, path).is_some()
        }
        ResourceKind::Workload => findings.name::<WorkloadName>(name, path).is_some(),
        ResourceKind::Peer => findings.name::<ClusterName>(name, path).is_some(),
        ResourceKind::HttpRoute
        | ResourceKind::GrpcRoute
        | ResourceKind::TlsRoute
        | ResourceKind::TcpRoute
        | ResourceKind::ReferenceGrant
        | ResourceKind::TrafficPolicy
        | ResourceKind::RateLimitPolicy
        | ResourceKind::FaultPolicy => findings.name::<WorkloadName>(name, path).is_some(),
    };
    let namespace = metadata.get("namespace").and_then(Value::as_str);
    let path = "metadata.namespace";
    if !kind.namespaced() {
        if namespace.is_some() {
            let message = format!("a {kind} belongs to the whole cluster and has no namespace");
            findings.error(path, message, "leave the namespace out");
            return None;
        }
        return valid.then(|| ResourceKey::cluster_wide(kind, name));
    }
    let namespace: Namespace = findings.name(namespace?, path)?;
    valid.then(|| ResourceKey::namespaced(kind, namespace, name))
}

/// Warns of annotations that look like ours and are none.
fn own_annotations(kind: ResourceKind, metadata: &Value, findings: &mut Findings) {
    let annotations = metadata.get("annotations").and_then(Value::as_object);
    for name in annotations.into_iter().flat_map(|map| map.keys()) {
        if !name.starts_with(OWN_PREFIX) || name == SOURCE {
            continue;
        }
        let path = field("metadata.annotations", name);
        if name != EXPORT_TO {
            let message = format!("the annotation `{name}` is not known and has no effect");
            findings.warning(path, message, format!("the only one is `{EXPORT_TO}`"));
        } else if kind != ResourceKind::ServiceExport {
            let message = format!("the annotation `{name}` has no effect on a {kind}");
            findings.warning(path, message, "put it on the ServiceExport");
        }
    }
}

/// Whether a list or map is missing or empty; what is neither, the schema has complained of.
fn is_empty(value: Option<&Value>) -> bool {
    match value {
        None | Some(Value::Null) => true,
        Some(Value::Array(items)) => items.is_empty(),
        Some(Value::Object(fields)) => fields.is_empty(),
        Some(Value::Bool(_) | Value::Number(_) | Value::String(_)) => false,
    }
}

/// The text of a field.
fn text<'a>(value: &'a Value, name: &str) -> Option<&'a str> {
    value.get(name).and_then(Value::as_str)
}

/// A port number; what is out of range the schema has said.
fn port_number(value: &Value) -> Option<u16> {
    value
        .as_u64()
        .and_then(|number| u16::try_from(number).ok())
        .filter(|number| *number != 0)
}

/// The fields of a map of texts.
fn texts(value: Option<&Value>) -> BTreeMap<String, String> {
    value
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())))
        .collect()
}

#[cfg(test)]
mod tests;
