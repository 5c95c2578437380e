//! Which resources are meant, and how they look.

use portolan_model::ServiceKey;
use portolan_model::declared::{ResourceKey, ResourceKind};
use serde_json::Value;
use tonic::Status;

use super::namespace_or_default;
use crate::documents::presented;
use crate::view::View;

/// The key of one resource.
pub(super) fn key(kind: ResourceKind, namespace: &str, name: &str) -> Result<ResourceKey, Status> {
    if name.is_empty() {
        return Err(Status::invalid_argument(format!(
            "which {kind}? give its name"
        )));
    }
    if kind.namespaced() {
        let namespace = namespace_or_default(namespace)?;
        Ok(ResourceKey::namespaced(kind, namespace, name))
    } else {
        Ok(ResourceKey::cluster_wide(kind, name))
    }
}

/// The documents of a kind; empty `namespace` and `name` mean all. A name that selects nothing is an error.
pub(super) fn select(
    view: &View,
    kind: ResourceKind,
    namespace: &str,
    name: &str,
) -> Result<Vec<Value>, Status> {
    let wanted = |found_namespace: &str, found_name: &str| {
        (namespace.is_empty() || !kind.namespaced() || namespace == found_namespace)
            && (name.is_empty() || name == found_name)
    };
    let documents: Vec<Value> = if kind == ResourceKind::ServiceImport {
        let wanted = |key: &ServiceKey| wanted(key.namespace.as_str(), key.name.as_str());
        let imports = view.imports.iter();
        imports
            .filter(|(key, _)| wanted(key))
            .map(|(_, document)| Value::clone(document))
            .collect()
    } else {
        let stored = view.documents.iter();
        stored
            .filter(|(key, _)| {
                let namespace = key.namespace.as_ref().map_or("", |found| found.as_str());
                key.kind == kind && wanted(namespace, &key.name)
            })
            .map(|(key, stored)| presented(stored, view.statuses.get(key).map(|status| &**status)))
            .collect()
    };
    if documents.is_empty() && !name.is_empty() {
        let place = if namespace.is_empty() || !kind.namespaced() {
            String::new()
        } else {
            format!(" in namespace `{namespace}`")
        };
        return Err(Status::not_found(format!(
            "there is no {kind} `{name}`{place}"
        )));
    }
    Ok(documents)
}
