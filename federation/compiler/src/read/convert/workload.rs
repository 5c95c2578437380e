//! `Workload`.

use std::collections::BTreeMap;
use std::net::IpAddr;

use portolan_model::declared::{DEFAULT_INBOUND_PORT, WorkloadSpec};
use portolan_model::{Locality, PortName};
use serde_json::Value;

use super::super::finding::Findings;
use super::super::path::field;
use super::{is_empty, port_number, text};

/// What a workload weighs unless it says otherwise.
const DEFAULT_WEIGHT: u32 = 100;

pub(super) fn read(
    metadata: &Value,
    spec: &Value,
    findings: &mut Findings,
) -> Option<WorkloadSpec> {
    if is_empty(metadata.get("labels")) {
        findings.warning(
            "metadata.labels",
            "it has no labels, so no Service selects it",
            "give it the labels that its Service's selector names",
        );
    }
    let address = address(spec, findings);
    let ports = ports(spec, findings);
    let service_account =
        text(spec, "serviceAccount").and_then(|name| findings.name(name, "spec.serviceAccount"));
    let locality = spec
        .get("locality")
        .and_then(|place| locality(place, findings));
    let hostname = text(spec, "hostname").and_then(|name| findings.name(name, "spec.hostname"));
    let weight = spec.get("weight").and_then(Value::as_u64);
    let inbound = spec.get("inboundPort").and_then(port_number);
    Some(WorkloadSpec {
        address: address?,
        ports,
        service_account: service_account?,
        locality,
        weight: weight
            .and_then(|weight| u32::try_from(weight).ok())
            .unwrap_or(DEFAULT_WEIGHT),
        inbound_port: inbound.unwrap_or(DEFAULT_INBOUND_PORT),
        hostname,
        leased: spec.get("leased").and_then(Value::as_bool).unwrap_or(false),
    })
}

fn address(spec: &Value, findings: &mut Findings) -> Option<IpAddr> {
    let (text, path) = (text(spec, "address")?, "spec.address");
    let remedy = "write the instance's own IP address, as 10.0.0.7 or 2001:db8::7";
    let ip: IpAddr = findings.parse(text, path, "an IP address", remedy)?;
    let broadcast = matches!(ip, IpAddr::V4(ip) if ip.is_broadcast());
    if ip.is_unspecified() || ip.is_multicast() || broadcast {
        let message = format!("`{ip}` is no address of a single instance");
        findings.error(path, message, remedy);
        return None;
    }
    Some(ip)
}

fn ports(spec: &Value, findings: &mut Findings) -> BTreeMap<PortName, u16> {
    let listed = spec.get("ports").and_then(Value::as_object);
    let mut ports = BTreeMap::new();
    for (name, number) in listed.into_iter().flatten() {
        let name = findings.name(name, &field("spec.ports", name));
        if let (Some(name), Some(number)) = (name, port_number(number)) {
            ports.insert(name, number);
        }
    }
    ports
}

fn locality(place: &Value, findings: &mut Findings) -> Option<Locality> {
    let region = text(place, "region").and_then(|name| findings.name(name, "spec.locality.region"));
    let zone = text(place, "zone").and_then(|name| findings.name(name, "spec.locality.zone"));
    Some(Locality {
        region: region?,
        zone,
    })
}
