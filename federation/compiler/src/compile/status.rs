//! What is written back to authors: conditions with the specifications' own reasons, and the
//! generated `ServiceImport`s.

use portolan_model::declared::ResourceKind;
use portolan_model::snapshot::{LinkState, Service};
use portolan_model::{
    ClusterName, Port, Problem, Protocol, ServiceKey, ServiceKind, SessionAffinity,
};
use serde_json::{Value, json};

use super::merge::{Conflict, import_type};

/// What became of a `ServiceExport`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ExportState {
    Valid,
    NoService,
    InvalidServiceType,
}

pub(super) fn export(state: ExportState, conflicts: &[Conflict]) -> Value {
    let (valid, ready) = match state {
        ExportState::Valid => (
            condition("Valid", "True", "Valid", "the service can be exported"),
            condition("Ready", "True", "Exported", "peers are told of it"),
        ),
        ExportState::NoService => (
            condition(
                "Valid",
                "False",
                "NoService",
                "there is no Service of this name in the namespace",
            ),
            condition("Ready", "False", "Pending", "waiting for the Service"),
        ),
        ExportState::InvalidServiceType => (
            condition(
                "Valid",
                "False",
                "InvalidServiceType",
                "a Service of type ExternalName cannot be exported",
            ),
            condition("Ready", "False", "Failed", "the export is not valid"),
        ),
    };
    let conflict = if conflicts.is_empty() {
        condition("Conflict", "False", "NoConflicts", "all exports agree")
    } else {
        let reasons: Vec<_> = conflicts.iter().map(|conflict| conflict.reason).collect();
        let messages: Vec<_> = conflicts
            .iter()
            .map(|conflict| conflict.message.as_str())
            .collect();
        condition("Conflict", "True", &reasons.join(","), &messages.join("; "))
    };
    json!({ "conditions": [valid, ready, conflict] })
}

/// The `ServiceImport` that stands for an imported service.
pub(super) fn import(
    service: &Service,
    affinity: SessionAffinity,
    exporters: &[&ClusterName],
) -> Value {
    let mut spec = json!({
        "type": import_type(service.kind),
        "ports": service.ports.iter().map(import_port).collect::<Vec<_>>(),
        "sessionAffinity": affinity.as_str(),
    });
    if let SessionAffinity::ClientIp { timeout_seconds } = affinity {
        spec["sessionAffinityConfig"] =
            json!({ "clientIP": { "timeoutSeconds": timeout_seconds } });
    }
    let ready = if service.kind == ServiceKind::Virtual {
        let families: Vec<_> = service
            .vips
            .set
            .iter()
            .map(|ip| if ip.is_ipv4() { "IPv4" } else { "IPv6" })
            .collect();
        spec["ips"] = json!(service.vips.set);
        spec["ipFamilies"] = json!(families);
        !service.vips.set.is_empty()
    } else {
        true
    };
    let ready = if ready {
        condition("Ready", "True", "Ready", "the service can be called")
    } else {
        condition(
            "Ready",
            "False",
            "Pending",
            "no virtual IP is free; enlarge the pool",
        )
    };
    let clusters: Vec<_> = exporters
        .iter()
        .map(|cluster| json!({ "cluster": cluster }))
        .collect();
    json!({
        "apiVersion": ResourceKind::ServiceImport.api_version(),
        "kind": ResourceKind::ServiceImport.as_str(),
        "metadata": { "name": service.key.name, "namespace": service.key.namespace },
        "spec": spec,
        "status": { "conditions": [ready], "clusters": clusters },
    })
}

/// A declared Service of this cluster.
pub(super) fn service(service: &Service) -> Option<Value> {
    let local = service.local.as_ref()?;
    let ready = local
        .endpoints
        .iter()
        .filter(|endpoint| endpoint.ready)
        .count();
    Some(json!({ "endpoints": local.endpoints.len(), "readyEndpoints": ready }))
}

/// A declared workload.
pub(super) fn workload<'a>(
    reported: Option<bool>,
    leased: bool,
    services: impl Iterator<Item = &'a ServiceKey>,
) -> Value {
    let ready = match (reported, leased) {
        (Some(true), _) => condition("Ready", "True", "Reported", "its sidecar says it can serve"),
        (Some(false), _) => condition(
            "Ready",
            "False",
            "Reported",
            "its sidecar cannot reach the app, or the sidecar itself is gone",
        ),
        (None, false) => condition(
            "Ready",
            "True",
            "Declared",
            "nobody watches it; it counts as ready because it was declared",
        ),
        (None, true) => condition(
            "Ready",
            "False",
            "NoSidecar",
            "the sidecar that registered it is not connected",
        ),
    };
    json!({ "conditions": [ready], "services": services.collect::<Vec<_>>() })
}

/// A declared peer: whether it is admitted, whether it is linked, what it offers.
pub(super) fn peer(rejected: Option<&Problem>, link: LinkState, offered: usize) -> Value {
    let accepted = match rejected {
        None => condition(
            "Accepted",
            "True",
            "Accepted",
            "the peer is part of the mesh",
        ),
        Some(problem) => condition("Accepted", "False", "Invalid", &problem.message),
    };
    let linked = match link {
        LinkState::Unknown => condition("Linked", "Unknown", "Pending", "no gateway has reported"),
        LinkState::Up { .. } => condition("Linked", "True", "Up", "at least one link is live"),
        LinkState::Down => condition("Linked", "False", "Down", "no gateway has a live link"),
    };
    json!({ "conditions": [accepted, linked], "services": offered })
}

fn import_port(port: &Port) -> Value {
    let mut value = json!({
        "port": port.number,
        "protocol": port.protocol.transport().to_uppercase(),
    });
    if let Some(name) = &port.name {
        value["name"] = json!(name);
    }
    let app_protocol = match port.protocol {
        Protocol::Http => Some("http"),
        Protocol::Http2 => Some("kubernetes.io/h2c"),
        Protocol::Grpc => Some("grpc"),
        Protocol::Tls => Some("tls"),
        Protocol::Tcp | Protocol::Udp | Protocol::Sctp => None,
    };
    if let Some(app_protocol) = app_protocol {
        value["appProtocol"] = json!(app_protocol);
    }
    value
}

pub(super) fn condition(kind: &str, status: &str, reason: &str, message: &str) -> Value {
    json!({ "type": kind, "status": status, "reason": reason, "message": message })
}
