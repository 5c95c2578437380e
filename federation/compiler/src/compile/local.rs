//! This cluster's own part of a service.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use portolan_model::declared::{ExportTo, ServicePort, ServiceSpec, TargetPort, WorkloadSpec};
use portolan_model::sharing::{
    CatalogueEntry, ENTRY_HOSTS_MAX, ENTRY_IDENTITIES_MAX, ENTRY_LOCALITIES_MAX, ENTRY_PORTS_MAX,
    LocalityHealth,
};
use portolan_model::snapshot::{InboundPort, LocalBackend};
use portolan_model::{
    ClusterIdentity, Endpoint, HostName, Locality, Port, Protocol, ServiceKey, ServiceKind,
    SpiffeId, WorkloadKey,
};

use super::facts::Facts;

/// Builds the local part of a service of kind `kind`.
pub(super) fn backend(
    identity: &ClusterIdentity,
    facts: &Facts,
    key: &ServiceKey,
    (spec, kind): (&ServiceSpec, ServiceKind),
    exported: ExportTo,
) -> LocalBackend {
    let endpoints = facts
        .workloads_of(&key.namespace, spec)
        .into_iter()
        .filter_map(|(workload, declared)| {
            let ports = served_ports(spec, declared);
            if ports.is_empty() && !spec.ports.is_empty() {
                return None;
            }
            let anyway = spec.publish_not_ready && kind == ServiceKind::Headless;
            Some(Endpoint {
                workload: workload.clone(),
                address: declared.address,
                inbound: SocketAddr::new(declared.address, declared.inbound_port),
                identity: identity_of(identity, workload, declared),
                locality: locality_of(identity, declared),
                weight: declared.weight,
                ready: anyway || is_ready(facts, workload, declared),
                hostname: declared.hostname.clone(),
                ports: ports
                    .into_iter()
                    .map(|(number, (app_port, _))| (number, app_port))
                    .collect(),
            })
        })
        .collect();
    LocalBackend {
        ports: spec.ports.iter().map(port).collect(),
        endpoints,
        exported,
    }
}

/// Whether a workload can serve: what was reported last; without a report, a workload that lives
/// by a lease cannot, and one that somebody declared can.
pub(super) fn is_ready(facts: &Facts, key: &WorkloadKey, spec: &WorkloadSpec) -> bool {
    facts.liveness(key).unwrap_or(!spec.leased)
}

/// What a workload's sidecar accepts for one service.
pub(super) fn inbound_ports(
    key: &ServiceKey,
    spec: &ServiceSpec,
    workload: &WorkloadSpec,
    exported: &ExportTo,
) -> impl Iterator<Item = InboundPort> {
    served_ports(spec, workload)
        .into_iter()
        .map(move |(port, (app_port, protocol))| InboundPort {
            service: key.clone(),
            port,
            app_port,
            protocol,
            exported: exported.clone(),
        })
}

/// Service port → the app's port and what is spoken there, for those that the workload has. Where
/// transports share a number, TCP has it.
fn served_ports(spec: &ServiceSpec, workload: &WorkloadSpec) -> BTreeMap<u16, (u16, Protocol)> {
    let mut served = BTreeMap::new();
    let (datagrams, streams): (Vec<&ServicePort>, Vec<&ServicePort>) = spec
        .ports
        .iter()
        .partition(|port| !port.protocol.over_tcp());
    for port in datagrams.into_iter().chain(streams) {
        let app_port = match &port.target {
            TargetPort::Number(number) => Some(*number),
            TargetPort::Name(name) => workload.ports.get(name).copied(),
        };
        if let Some(app_port) = app_port {
            served.insert(port.number, (app_port, port.protocol));
        }
    }
    served
}

fn port(declared: &ServicePort) -> Port {
    Port {
        name: declared.name.clone(),
        number: declared.number,
        protocol: declared.protocol,
    }
}

fn identity_of(cluster: &ClusterIdentity, workload: &WorkloadKey, spec: &WorkloadSpec) -> SpiffeId {
    SpiffeId::workload(
        &cluster.trust_domain,
        &workload.namespace,
        &spec.service_account,
    )
}

fn locality_of(cluster: &ClusterIdentity, spec: &WorkloadSpec) -> Locality {
    spec.locality.clone().unwrap_or_else(|| Locality {
        region: cluster.region.clone(),
        zone: None,
    })
}

/// What peers are told of an exported service, within the bounds that every cluster enforces.
/// The second value names what had to be left out.
pub(super) fn summary(
    key: &ServiceKey,
    (spec, kind): (&ServiceSpec, ServiceKind),
    local: &LocalBackend,
    exported_ms: u64,
) -> (CatalogueEntry, Vec<String>) {
    let mut places: BTreeMap<&Locality, (u32, u32)> = BTreeMap::new();
    let mut identities = BTreeSet::new();
    let mut hosts = BTreeSet::new();
    for endpoint in &local.endpoints {
        let (ready, total) = places.entry(&endpoint.locality).or_default();
        *ready += u32::from(endpoint.ready);
        *total += 1;
        identities.insert(&endpoint.identity);
        if kind == ServiceKind::Headless && endpoint.ready {
            // An IPv6 address that begins or ends with `::` makes no name.
            hosts.extend(endpoint.host_label().parse::<HostName>());
        }
    }
    let mut left_out = Vec::new();
    let entry = CatalogueEntry {
        key: key.clone(),
        kind,
        ports: bounded(
            local.ports.iter().cloned(),
            ENTRY_PORTS_MAX,
            "ports",
            &mut left_out,
        ),
        localities: bounded(
            places
                .into_iter()
                .map(|(locality, (ready, total))| LocalityHealth {
                    locality: locality.clone(),
                    ready,
                    total,
                }),
            ENTRY_LOCALITIES_MAX,
            "localities",
            &mut left_out,
        ),
        identities: bounded(
            identities.into_iter().cloned(),
            ENTRY_IDENTITIES_MAX,
            "service accounts",
            &mut left_out,
        ),
        exported_ms,
        hosts: bounded(
            hosts.into_iter(),
            ENTRY_HOSTS_MAX,
            "host names",
            &mut left_out,
        ),
        affinity: spec.affinity,
    };
    (entry, left_out)
}

fn bounded<T>(
    items: impl ExactSizeIterator<Item = T>,
    most: usize,
    what: &str,
    left_out: &mut Vec<String>,
) -> Vec<T> {
    if items.len() > most {
        left_out.push(format!(
            "it has {} {what}; peers are told of the first {most}",
            items.len()
        ));
    }
    items.take(most).collect()
}
