//! `HTTPRoute`, `GRPCRoute`, `TLSRoute`, `TCPRoute`.
//!
//! When a route is applied, every mistake is an error and nothing is stored. A route that is stored
//! already (somebody wrote it past us, or an earlier version took it) loses the rules that are wrong and
//! keeps the others; one with a word that we don't know is rejected as a whole, and its status tells.

mod backends;
mod filters;
mod headers;
mod matches;
mod rule;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use portolan_model::declared::{ResourceKey, ResourceKind};
use portolan_model::route::{
    MATCHES_PER_ROUTE_MAX, Match, ParentRef, Rejection, RouteSpec, Rule, RuleTimeouts,
};
use portolan_model::{Namespace, PortName, ServiceName};
use serde_json::{Value, json};

use super::super::finding::Findings;
use super::super::path::{field, item};
use super::{Source, port_number, text};

/// What reads one rule, and what it found wrong with it.
struct Reader<'a> {
    kind: ResourceKind,
    namespace: &'a Namespace,
    findings: Findings,
    rejected: Option<(Rejection, String)>,
}

pub(super) fn read(
    kind: ResourceKind,
    key: Option<&ResourceKey>,
    spec: &Value,
    source: Source,
    findings: &mut Findings,
) -> Option<RouteSpec> {
    let namespace = key?.namespace.clone()?;
    let names = server_names(kind, spec, findings);
    let mut route = RouteSpec {
        parents: parents(&namespace, spec, findings),
        rules: Vec::new(),
        dropped: Vec::new(),
        rejected: None,
    };
    let everything = [json!({})];
    let listed = match spec.get("rules").and_then(Value::as_array) {
        Some(listed) => listed.as_slice(),
        // The specification's default: one rule, for everything and to nowhere.
        None => &everything,
    };
    let mut seen = BTreeSet::new();
    for (index, value) in listed.iter().enumerate() {
        let mut reader = Reader {
            kind,
            namespace: &namespace,
            findings: Findings::default(),
            rejected: None,
        };
        let path = item("spec.rules", index);
        let rule = reader.rule(value, &path, &names, &mut seen);
        let wrong = reader.findings.first_error();
        if source == Source::Applied {
            findings.0.append(&mut reader.findings.0);
        }
        route.rejected = route.rejected.or(reader.rejected);
        match wrong {
            None => route.rules.push(rule),
            Some(wrong) => route.dropped.push(wrong),
        }
    }
    let matches: usize = route.rules.iter().map(|rule| rule.matches.len()).sum();
    if matches > MATCHES_PER_ROUTE_MAX {
        let message = format!("its rules have {matches} matches together");
        let remedy = format!("give at most {MATCHES_PER_ROUTE_MAX}, or split the route");
        findings.error("spec.rules", message, remedy);
    }
    Some(route)
}

/// The server names of a TLSRoute; host names of other kinds mean nothing for services.
fn server_names(kind: ResourceKind, spec: &Value, findings: &mut Findings) -> Vec<String> {
    let listed = spec.get("hostnames").and_then(Value::as_array);
    let listed: Vec<&str> = listed
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    if kind != ResourceKind::TlsRoute {
        if !listed.is_empty() {
            findings.warning(
                "spec.hostnames",
                "host names don't count for routes of services: a request is known by the address or name that was called",
                "leave them out",
            );
        }
        return Vec::new();
    }
    let mut names = Vec::new();
    for (index, name) in listed.into_iter().enumerate() {
        if is_hostname(name) {
            names.push(name.to_owned());
        } else {
            findings.error(
                item("spec.hostnames", index),
                format!("`{name}` is no host name"),
                "write it as `orders.example.com` or `*.example.com`, in lower case",
            );
        }
    }
    names
}

/// Whether it is a host name in lower case, perhaps with `*.` in front.
fn is_hostname(text: &str) -> bool {
    let name = text.strip_prefix("*.").unwrap_or(text);
    name.parse::<portolan_model::WorkloadName>().is_ok()
        && name.parse::<std::net::IpAddr>().is_err()
}

fn parents(namespace: &Namespace, spec: &Value, findings: &mut Findings) -> Vec<ParentRef> {
    let listed = spec.get("parentRefs").and_then(Value::as_array);
    let mut parents: Vec<ParentRef> = Vec::new();
    for (index, value) in listed.into_iter().flatten().enumerate() {
        let path = item("spec.parentRefs", index);
        let kind = text(value, "kind").unwrap_or("Gateway");
        let default_group = match kind {
            "Service" => "",
            "ServiceImport" => "multicluster.x-k8s.io",
            _ => "gateway.networking.k8s.io",
        };
        let parent = ParentRef {
            group: text(value, "group").unwrap_or(default_group).to_owned(),
            kind: kind.to_owned(),
            namespace: match text(value, "namespace") {
                None => namespace.clone(),
                Some(name) => match findings.name(name, &field(&path, "namespace")) {
                    Some(name) => name,
                    None => continue,
                },
            },
            name: text(value, "name").unwrap_or_default().to_owned(),
            port: value.get("port").and_then(port_number),
            section: text(value, "sectionName").map(str::to_owned),
        };
        if parent.face().is_none() {
            findings.warning(
                field(&path, "kind"),
                format!("a mesh attaches nothing to `{kind}`: this parent has no effect here"),
                "name a `Service` (group `\"\"`) or a `ServiceImport` (group `multicluster.x-k8s.io`)",
            );
        } else {
            findings.name::<ServiceName>(&parent.name, &field(&path, "name"));
            if let Some(section) = &parent.section {
                findings.name::<PortName>(section, &field(&path, "sectionName"));
            }
        }
        if parents.contains(&parent) {
            findings.error(path, "this parent is listed twice", "list it once");
        } else {
            parents.push(parent);
        }
    }
    if parents.is_empty() {
        findings.warning(
            "spec.parentRefs",
            "it is attached to nothing, so it has no effect",
            "name the `Service` or `ServiceImport` that it is for",
        );
    }
    parents
}

impl Reader<'_> {
    fn error(
        &mut self,
        path: impl Into<String>,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.findings.error(path, message, remedy);
    }

    /// Notes a word that is none of those we know.
    fn unsupported(&mut self, path: String, word: &str, known: &[&str]) {
        let message = format!("`{word}` is not supported here");
        self.rejected
            .get_or_insert_with(|| (Rejection::UnsupportedValue, format!("{path}: {message}")));
        let remedy = format!("use one of `{}`", known.join("`, `"));
        self.findings.error(path, message, remedy);
    }

    /// A word of a closed list; the list's first is the default.
    fn word<'v>(&mut self, value: &'v Value, path: &str, name: &str, known: &[&'v str]) -> &'v str {
        let default = known.first().copied().unwrap_or_default();
        let word = text(value, name).unwrap_or(default);
        if !known.contains(&word) {
            self.unsupported(field(path, name), word, known);
        }
        word
    }

    fn rule(
        &mut self,
        value: &Value,
        path: &str,
        names: &[String],
        seen: &mut BTreeSet<String>,
    ) -> Rule {
        let name = self.rule_name(value, path, seen);
        let matches = if self.kind == ResourceKind::HttpRoute {
            self.http_matches(value, path)
        } else if self.kind == ResourceKind::GrpcRoute {
            self.grpc_matches(value, path)
        } else {
            names.iter().cloned().map(Match::Sni).collect()
        };
        let filters = self.filters(value, path, &matches);
        let backends = self.backends(value, path, &matches);
        self.terminating(&filters, &backends, path);
        let http = self.kind == ResourceKind::HttpRoute;
        Rule {
            name,
            matches,
            filters,
            backends,
            timeouts: if http {
                self.timeouts(value, path)
            } else {
                RuleTimeouts::default()
            },
            retry: self.retry(value, path),
            session: self.session(value, path),
        }
    }

    fn rule_name(
        &mut self,
        value: &Value,
        path: &str,
        seen: &mut BTreeSet<String>,
    ) -> Option<String> {
        let name = text(value, "name")?;
        let path = field(path, "name");
        // A rule's name is an RFC 1123 subdomain, as workloads' names are.
        self.findings
            .name::<portolan_model::WorkloadName>(name, &path)?;
        if !seen.insert(name.to_owned()) {
            let message = format!("another rule is named `{name}`, too");
            self.error(path, message, "give each rule a name of its own");
        }
        Some(name.to_owned())
    }
}
