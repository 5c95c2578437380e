//! Invariants of a snapshot, judged from the outside: nothing here is shared with the code that
//! makes snapshots, so that a mistake there cannot excuse itself.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use portolan_model::declared::ExportTo;
use portolan_model::snapshot::{LocalBackend, Mesh, RemoteBackend, Scope, Service, Snapshot};
use portolan_model::{IdentityKind, Port, ServiceKey, ServiceKind, WorkloadKey};

/// Every invariant that `snapshot` breaks, one sentence each; none for a good snapshot.
#[must_use]
pub fn audit(snapshot: &Snapshot) -> Vec<String> {
    let mut broken = Vec::new();
    if let Some(mesh) = &snapshot.mesh {
        peers(mesh, &mut broken);
    } else if !snapshot.services.is_empty() || !snapshot.inbound.is_empty() {
        broken.push("there are services or inbound resources, but no mesh".to_owned());
    }
    for (key, service) in &snapshot.services {
        if *key != service.key {
            broken.push(format!("{key} is filed for {}", service.key));
        }
        let mut of_service = Vec::new();
        judge_service(snapshot, service, &mut of_service);
        broken.extend(of_service.into_iter().map(|what| format!("{key}: {what}")));
    }
    addresses(snapshot, &mut broken);
    inbound(snapshot, &mut broken);
    broken
}

fn peers(mesh: &Mesh, broken: &mut Vec<String>) {
    let mut names = BTreeSet::from([&mesh.cluster.name]);
    let mut domains = BTreeSet::from([&mesh.cluster.trust_domain]);
    for peer in &mesh.peers {
        if !names.insert(&peer.name) {
            broken.push(format!("the cluster {} is in the mesh twice", peer.name));
        }
        if !domains.insert(&peer.trust_domain) {
            broken.push(format!(
                "the trust domain {} belongs to two clusters",
                peer.trust_domain
            ));
        }
    }
}

fn judge_service(snapshot: &Snapshot, service: &Service, broken: &mut Vec<String>) {
    let exported = service
        .local
        .as_ref()
        .is_some_and(|local| local.exported != ExportTo::Nobody);
    if service.imported != (exported || !service.remote.is_empty()) {
        broken.push("`imported` does not say whether anybody exports it".to_owned());
    }
    if service.local.is_none() && service.remote.is_empty() {
        broken.push("it is nowhere".to_owned());
    }
    ports("merged", &service.ports, broken);
    merged_ports(service, exported, broken);
    vips(snapshot, service, exported, broken);
    if let Some(local) = &service.local {
        judge_local(snapshot, service, local, broken);
    }
    let mut clusters = BTreeSet::new();
    for remote in &service.remote {
        if !clusters.insert(&remote.cluster) {
            broken.push(format!("{} offers it twice", remote.cluster));
        }
        judge_remote(snapshot, remote, broken);
    }
}

fn ports(whose: &str, ports: &[Port], broken: &mut Vec<String>) {
    let mut names = BTreeSet::new();
    let mut numbers = BTreeSet::new();
    for port in ports {
        let number = (port.protocol.transport(), port.number);
        if port.number == 0 || !numbers.insert(number) {
            broken.push(format!(
                "the {whose} port number {} is not unique",
                port.number
            ));
        }
        if !names.insert(&port.name) {
            broken.push(format!(
                "the {whose} port name {:?} is not unique",
                port.name
            ));
        }
    }
}

/// Every merged port must really be offered by someone who counts.
fn merged_ports(service: &Service, exported: bool, broken: &mut Vec<String>) {
    let local = service
        .local
        .iter()
        .filter(|_| exported || !service.imported)
        .flat_map(|local| &local.ports);
    let remote = service.remote.iter().flat_map(|remote| &remote.ports);
    let offered: BTreeSet<&Port> = local.chain(remote).collect();
    for port in &service.ports {
        if !offered.contains(port) {
            broken.push(format!("nobody offers the merged port {}", port.number));
        }
    }
}

fn vips(snapshot: &Snapshot, service: &Service, exported: bool, broken: &mut Vec<String>) {
    let vips = &service.vips;
    let lists = [&vips.local, &vips.set]
        .into_iter()
        .chain(vips.pinned.values());
    for ips in lists {
        let families: BTreeSet<bool> = ips.iter().map(IpAddr::is_ipv4).collect();
        if families.len() != ips.len() {
            broken.push("it has two virtual IPs of one family".to_owned());
        }
    }
    let wide = !vips.set.is_empty() || !vips.pinned.is_empty();
    if wide && (!service.imported || service.kind == ServiceKind::Headless) {
        broken.push("it has virtual IPs of the set, but is headless or not imported".to_owned());
    }
    if !vips.local.is_empty() && service.local.is_none() {
        broken.push("it has a local virtual IP, but no local part".to_owned());
    }
    let own = snapshot.mesh.as_ref().map(|mesh| &mesh.cluster.name);
    for cluster in vips.pinned.keys() {
        let offers = service
            .remote
            .iter()
            .any(|remote| remote.cluster == *cluster);
        if !(offers || exported && own == Some(cluster)) {
            broken.push(format!(
                "it has a virtual IP for {cluster}, which does not export it"
            ));
        }
    }
}

fn judge_local(
    snapshot: &Snapshot,
    service: &Service,
    local: &LocalBackend,
    broken: &mut Vec<String>,
) {
    ports("local", &local.ports, broken);
    let numbers: BTreeSet<u16> = local.ports.iter().map(|port| port.number).collect();
    let mut workloads = BTreeSet::new();
    for endpoint in &local.endpoints {
        let workload = &endpoint.workload;
        if !workloads.insert(workload) {
            broken.push(format!("the workload {workload} is two endpoints"));
        }
        if workload.namespace != service.key.namespace {
            broken.push(format!("the endpoint {workload} is of another namespace"));
        }
        if endpoint.inbound.ip() != endpoint.address {
            broken.push(format!("the sidecar of {workload} is not at its address"));
        }
        let mesh = snapshot.mesh.as_ref();
        if mesh.is_some_and(|mesh| *endpoint.identity.trust_domain() != mesh.cluster.trust_domain) {
            broken.push(format!(
                "the endpoint {workload} is of a foreign trust domain"
            ));
        }
        let named = match endpoint.identity.kind() {
            IdentityKind::Workload { namespace, .. } => namespace == service.key.namespace,
            IdentityKind::Control { .. }
            | IdentityKind::Gateway { .. }
            | IdentityKind::Authority
            | IdentityKind::Other => false,
        };
        if !named {
            broken.push(format!(
                "the endpoint {workload} has the identity {}, which is no workload's here",
                endpoint.identity
            ));
        }
        if !endpoint.ports.keys().all(|number| numbers.contains(number)) {
            broken.push(format!(
                "the endpoint {workload} serves a port that does not exist"
            ));
        }
    }
}

fn judge_remote(snapshot: &Snapshot, remote: &RemoteBackend, broken: &mut Vec<String>) {
    let cluster = &remote.cluster;
    ports("remote", &remote.ports, broken);
    let Some(peer) = snapshot.mesh.as_ref().and_then(|mesh| mesh.peer(cluster)) else {
        broken.push(format!("{cluster} offers it, but is no peer"));
        return;
    };
    if peer.region != remote.region {
        broken.push(format!("{cluster} is of another region than its Peer"));
    }
    for identity in &remote.identities {
        if *identity.trust_domain() != peer.trust_domain {
            broken.push(format!("{cluster} offers the foreign identity {identity}"));
        }
    }
    if remote
        .localities
        .iter()
        .any(|place| place.ready > place.total)
    {
        broken.push(format!("{cluster} has more ready endpoints than endpoints"));
    }
}

/// Virtual IPs are unique in the whole snapshot, and the index of addresses knows exactly them.
fn addresses(snapshot: &Snapshot, broken: &mut Vec<String>) {
    let mut all: BTreeMap<IpAddr, (&ServiceKey, Scope)> = BTreeMap::new();
    for (key, service) in &snapshot.services {
        let vips = &service.vips;
        let local = vips.local.iter().map(|ip| (*ip, Scope::Cluster));
        let set = vips.set.iter().map(|ip| (*ip, Scope::Set));
        let pinned = vips
            .pinned
            .iter()
            .flat_map(|(cluster, ips)| ips.iter().map(|ip| (*ip, Scope::Pinned(cluster.clone()))));
        for (ip, scope) in local.chain(set).chain(pinned) {
            if let Some((other, _)) = all.insert(ip, (key, scope)) {
                broken.push(format!("{ip} is a virtual IP of {other} and of {key}"));
            }
        }
    }
    let indexed = snapshot
        .addresses
        .iter()
        .map(|(ip, (key, scope))| (*ip, (key, scope.clone())));
    if !indexed.eq(all) {
        broken.push("the index of addresses does not match the services".to_owned());
    }
}

/// A port as one workload serves it.
type Served<'a> = (&'a WorkloadKey, &'a ServiceKey, u16, u16, &'a ExportTo);

/// Sidecars accept exactly what endpoints are said to serve.
fn inbound(snapshot: &Snapshot, broken: &mut Vec<String>) {
    let mut accepted: BTreeSet<Served<'_>> = BTreeSet::new();
    for (key, inbound) in &snapshot.inbound {
        if *key != inbound.workload {
            broken.push(format!(
                "the inbound of {} is filed for {key}",
                inbound.workload
            ));
        }
        let mut seen = BTreeSet::new();
        for port in &inbound.ports {
            if !seen.insert((&port.service, port.port)) {
                broken.push(format!(
                    "{key} accepts {} port {} twice",
                    port.service, port.port
                ));
            }
            accepted.insert((key, &port.service, port.port, port.app_port, &port.exported));
        }
    }
    let served: BTreeSet<Served<'_>> = snapshot
        .services
        .iter()
        .filter_map(|(key, service)| Some((key, service.local.as_ref()?)))
        .flat_map(|(key, local)| {
            local.endpoints.iter().flat_map(move |endpoint| {
                endpoint.ports.iter().map(move |(port, app_port)| {
                    (&endpoint.workload, key, *port, *app_port, &local.exported)
                })
            })
        })
        .collect();
    for (workload, service, port, ..) in accepted.symmetric_difference(&served) {
        broken.push(format!(
            "the endpoint and the inbound of {workload} differ in {service} port {port}"
        ));
    }
}
