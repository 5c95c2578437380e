//! Where a rule sends what it is for.

use portolan_model::ServiceKey;
use portolan_model::ServiceName;
use portolan_model::route::{Backend, BackendRef, BackendTarget, Filter, Match};
use portolan_model::snapshot::Scope;
use serde_json::Value;

use super::super::super::path::field;
use super::super::{port_number, text};
use super::Reader;
use super::matches::listed;

/// A backend's weight where it says nothing.
const DEFAULT_WEIGHT: u32 = 1;

impl Reader<'_> {
    pub(super) fn backends(&mut self, rule: &Value, path: &str, matches: &[Match]) -> Vec<Backend> {
        let mut backends = Vec::new();
        for (path, value) in listed(rule, path, "backendRefs") {
            let filters = self.filters(value, &path, matches);
            let weight = value.get("weight").and_then(Value::as_u64);
            if let Some(to) = self.backend_ref(value, &path) {
                backends.push(Backend {
                    to,
                    weight: weight
                        .and_then(|weight| u32::try_from(weight).ok())
                        .unwrap_or(DEFAULT_WEIGHT),
                    filters,
                });
            }
        }
        backends
    }

    /// Reads a reference to a service's port. One to something else is kept as invalid: its share of the
    /// requests gets an error.
    pub(super) fn backend_ref(&mut self, value: &Value, path: &str) -> Option<BackendRef> {
        let kind = text(value, "kind").unwrap_or("Service");
        let default_group = if kind == "ServiceImport" {
            "multicluster.x-k8s.io"
        } else {
            ""
        };
        let group = text(value, "group").unwrap_or(default_group);
        let scope = match (group, kind) {
            ("", "Service") => Scope::Cluster,
            ("multicluster.x-k8s.io", "ServiceImport") => Scope::Set,
            (group, kind) => {
                let why = format!("`{kind}` of the group `{group}` is no backend");
                self.findings.warning(
                    field(path, "kind"),
                    format!("{why}: what goes there gets the status 500"),
                    "name a `Service` (group `\"\"`) or a `ServiceImport` (group `multicluster.x-k8s.io`)",
                );
                return Some(BackendRef::Invalid(why));
            }
        };
        let namespace = match text(value, "namespace") {
            Some(name) => self.findings.name(name, &field(path, "namespace"))?,
            None => self.namespace.clone(),
        };
        let name: ServiceName = self
            .findings
            .name(text(value, "name")?, &field(path, "name"))?;
        let Some(port) = value.get("port") else {
            let message = format!("a backend that is a {kind} needs a port");
            self.error(path, message, "add `port`");
            return None;
        };
        Some(BackendRef::Service(BackendTarget {
            service: ServiceKey::new(namespace, name),
            scope,
            port: port_number(port)?,
        }))
    }

    /// What answers by itself leaves nothing for backends.
    pub(super) fn terminating(&mut self, filters: &[Filter], backends: &[Backend], path: &str) {
        let redirects = filters.iter().any(|it| matches!(it, Filter::Redirect(_)));
        if redirects && !backends.is_empty() {
            let remedy = "leave `backendRefs` out, or the redirection";
            self.error(
                field(path, "backendRefs"),
                "a rule that redirects sends nothing to backends",
                remedy,
            );
        }
    }
}
