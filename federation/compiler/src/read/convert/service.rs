//! `v1/Service`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use portolan_model::declared::{DeclaredServiceKind, ServicePort, ServiceSpec, TargetPort};
use portolan_model::service::AFFINITY_SECONDS_DEFAULT;
use portolan_model::{PortName, Protocol, ServiceKind, SessionAffinity};
use serde_json::Value;

use super::super::finding::Findings;
use super::super::path::{field, item};
use super::{is_empty, labels, port_number, text};

pub(super) fn read(spec: &Value, findings: &mut Findings) -> Option<ServiceSpec> {
    if !spec.is_object() {
        return None;
    }
    let kind = kind(spec, findings);
    let ports = ports(spec, &kind, findings);
    let selector = labels::read(spec, "spec.selector", "selector", findings);
    let external = matches!(kind, DeclaredServiceKind::ExternalName(_));
    if is_empty(spec.get("selector")) && !external {
        findings.warning(
            "spec.selector",
            "without a selector the service has no workloads",
            "name labels of its workloads: `selector: {app: …}`",
        );
    }
    not_obeyed(spec, findings);
    let cluster_ips = if matches!(kind, DeclaredServiceKind::Of(ServiceKind::Virtual)) {
        cluster_ips(spec, findings)
    } else {
        Vec::new()
    };
    let affinity = affinity(spec, &kind, findings);
    Some(ServiceSpec {
        kind,
        ports,
        selector,
        cluster_ips,
        affinity,
        publish_not_ready: spec
            .get("publishNotReadyAddresses")
            .and_then(Value::as_bool)
            .unwrap_or(false),
    })
}

fn kind(spec: &Value, findings: &mut Findings) -> DeclaredServiceKind {
    if text(spec, "type") == Some("ExternalName") {
        let name = text(spec, "externalName").unwrap_or_default();
        if name.is_empty() {
            findings.error(
                "spec.externalName",
                "an ExternalName service must say which name it stands for",
                "add `externalName: host.example.com`",
            );
        }
        return DeclaredServiceKind::ExternalName(name.to_owned());
    }
    let headless = text(spec, "clusterIP") == Some("None");
    let typed = text(spec, "type").unwrap_or("ClusterIP");
    if headless && typed != "ClusterIP" {
        findings.error(
            "spec.clusterIP",
            format!("a {typed} service cannot be headless"),
            "leave out `clusterIP: None`, or the type",
        );
    }
    DeclaredServiceKind::Of(if headless {
        ServiceKind::Headless
    } else {
        ServiceKind::Virtual
    })
}

fn ports(spec: &Value, kind: &DeclaredServiceKind, findings: &mut Findings) -> Vec<ServicePort> {
    let listed = spec.get("ports").and_then(Value::as_array);
    let listed: &[Value] = listed.map_or(&[], Vec::as_slice);
    if is_empty(spec.get("ports")) && *kind == DeclaredServiceKind::Of(ServiceKind::Virtual) {
        findings.error(
            "spec.ports",
            "the service has no port",
            "add `ports: [{name: http, port: 80}]`",
        );
    }
    let mut names = BTreeMap::new();
    let mut numbers = BTreeMap::new();
    let mut ports = Vec::new();
    for (index, value) in listed.iter().enumerate() {
        let path = item("spec.ports", index);
        let name = text(value, "name");
        if listed.len() > 1 && value.is_object() && value.get("name").is_none() {
            let remedy = format!("add a `name` to {path}");
            let message = "where a service has several ports, each needs a name";
            findings.error(field(&path, "name"), message, remedy);
        }
        if let Some(first) = name.and_then(|name| names.insert(name, index)) {
            let message = format!(
                "the port name `{}` is used twice, first by spec.ports[{first}]",
                name.unwrap_or_default()
            );
            findings.error(field(&path, "name"), message, "give each port its own name");
        }
        let transport = text(value, "protocol").unwrap_or("TCP");
        let number = value.get("port").and_then(port_number);
        if let Some(number) = number
            && let Some(first) = numbers.insert((transport, number), index)
        {
            let message = format!(
                "the port {number}/{transport} is used twice, first by spec.ports[{first}]"
            );
            findings.error(
                field(&path, "port"),
                message,
                "give each port its own number",
            );
        }
        ports.extend(port(value, &path, findings));
    }
    ports
}

fn port(value: &Value, path: &str, findings: &mut Findings) -> Option<ServicePort> {
    let name = text(value, "name");
    let parsed_name = name.and_then(|name| findings.name::<PortName>(name, &field(path, "name")));
    let number = value.get("port").and_then(port_number);
    let target = match value.get("targetPort") {
        None => number.map(TargetPort::Number),
        Some(Value::String(text)) => target_name(text, &field(path, "targetPort"), findings),
        Some(other) => port_number(other).map(TargetPort::Number),
    };
    let transport = text(value, "protocol").unwrap_or("TCP");
    Some(ServicePort {
        name: parsed_name,
        number: number?,
        protocol: Protocol::of(transport, text(value, "appProtocol"), name),
        target: target?,
    })
}

fn target_name(text: &str, path: &str, findings: &mut Findings) -> Option<TargetPort> {
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        let message = format!("\"{text}\" in quotes is a port's name, and names have a letter");
        findings.error(path, message, format!("write {text} without quotes"));
        return None;
    }
    findings.name(text, path).map(TargetPort::Name)
}

fn cluster_ips(spec: &Value, findings: &mut Findings) -> Vec<IpAddr> {
    let listed = spec.get("clusterIPs").and_then(Value::as_array);
    let mut texts: Vec<(String, &str)> = listed
        .into_iter()
        .flatten()
        .enumerate()
        .filter_map(|(index, ip)| Some((item("spec.clusterIPs", index), ip.as_str()?)))
        .collect();
    if let Some(one) = text(spec, "clusterIP").filter(|one| !one.is_empty()) {
        let path = "spec.clusterIP".to_owned();
        match texts.first() {
            None => texts.push((path, one)),
            Some((_, first)) if *first == one => {}
            Some((_, first)) => {
                let message =
                    format!("`{one}` is not the first of `clusterIPs`, which is `{first}`");
                findings.error(path, message, "let both say the same, or leave one out");
            }
        }
    }
    let mut families = BTreeSet::new();
    let mut ips = Vec::new();
    for (path, text) in texts {
        let remedy = "write an IP address, or leave it out: the service gets a virtual IP";
        let Some(ip) = findings.parse::<IpAddr>(text, &path, "an IP address", remedy) else {
            continue;
        };
        if ip.is_unspecified() || ip.is_multicast() || ip.is_loopback() {
            findings.error(
                path,
                format!("`{ip}` cannot be a service's address"),
                remedy,
            );
        } else if families.insert(ip.is_ipv4()) {
            ips.push(ip);
        } else {
            let message = "there are two addresses of one family";
            findings.error(path, message, "give at most one IPv4 and one IPv6 address");
        }
    }
    ips
}

/// The session affinity. The schema holds the timeout to its range.
fn affinity(spec: &Value, kind: &DeclaredServiceKind, findings: &mut Findings) -> SessionAffinity {
    let config = spec.get("sessionAffinityConfig");
    if text(spec, "sessionAffinity") != Some("ClientIP") {
        if !is_empty(config) {
            findings.error(
                "spec.sessionAffinityConfig",
                "it configures an affinity that the service does not have",
                "add `sessionAffinity: ClientIP`, or leave it out",
            );
        }
        return SessionAffinity::None;
    }
    if *kind != DeclaredServiceKind::Of(ServiceKind::Virtual) {
        findings.warning(
            "spec.sessionAffinity",
            "it has no effect: only a service with a virtual IP has session affinity",
            "leave it out",
        );
        return SessionAffinity::None;
    }
    let seconds = config.and_then(|config| config.pointer("/clientIP/timeoutSeconds"));
    let seconds = seconds.and_then(Value::as_u64);
    let seconds = seconds.and_then(|seconds| u32::try_from(seconds).ok());
    SessionAffinity::ClientIp {
        timeout_seconds: seconds.unwrap_or(AFFINITY_SECONDS_DEFAULT),
    }
}

/// Warns of settings that mean something in Kubernetes and nothing here.
fn not_obeyed(spec: &Value, findings: &mut Findings) {
    if text(spec, "internalTrafficPolicy") == Some("Local") {
        findings.warning(
            "spec.internalTrafficPolicy",
            "it is not obeyed: traffic may go to every ready workload",
            "leave it out",
        );
    }
}
