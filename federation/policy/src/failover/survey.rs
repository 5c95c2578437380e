//! What is known of the clusters that a call could go to.

use std::time::Duration;

use portolan_model::declared::ExportTo;
use portolan_model::snapshot::{LinkState, Mesh, RemoteBackend, Scope};
use portolan_model::traffic::ClusterOrder;
use portolan_model::{ClusterName, Endpoint, Port};

use super::{ClusterHealth, HealthView};
use crate::route::Route;

/// The health of every cluster in scope that really exposes the port, nearest first.
pub(super) fn survey(route: &Route, mesh: &Mesh, view: &dyn HealthView) -> Vec<ClusterHealth> {
    let scope = &route.destination.scope;
    let in_scope = |cluster: &ClusterName| match scope {
        Scope::Cluster => cluster == &mesh.cluster.name,
        Scope::Set => true,
        Scope::Pinned(pinned) => pinned == cluster,
    };
    let own = in_scope(&mesh.cluster.name)
        .then(|| own_health(route, mesh, view))
        .flatten();
    let remote = route
        .service
        .remote
        .iter()
        .filter(|backend| in_scope(&backend.cluster))
        .filter(|backend| exposes(&backend.ports, route.destination.port))
        .filter_map(|backend| remote_health(backend, mesh, view, route));
    let mut all: Vec<ClusterHealth> = own.into_iter().chain(remote).collect();
    all.sort_by(|a, b| distance(a).cmp(&distance(b)));
    let service = &route.destination.service;
    let over = route.policy().failover.return_over;
    let by_latency = route.policy().failover.order == ClusterOrder::Latency;
    for health in &mut all {
        if by_latency {
            health.latency = view.latency(service, &health.cluster);
        }
        health.regained = view.regained(service, &health.cluster, health.healthy > 0, over);
    }
    all
}

/// Nearer is less.
fn distance(health: &ClusterHealth) -> (bool, bool, bool, Option<Duration>, &ClusterName) {
    (
        !health.own,
        !health.same_region,
        health.rtt.is_none(),
        health.rtt,
        &health.cluster,
    )
}

fn own_health(route: &Route, mesh: &Mesh, view: &dyn HealthView) -> Option<ClusterHealth> {
    let local = route.service.local.as_ref()?;
    // Names of the set mean what is exported, also in the cluster that has more (MCS API).
    let part_of_name =
        route.destination.scope == Scope::Cluster || local.exported != ExportTo::Nobody;
    if !part_of_name || !exposes(&local.ports, route.destination.port) {
        return None;
    }
    let ejected = cluster_ejected(route, &mesh.cluster.name, view);
    let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    Some(ClusterHealth {
        cluster: mesh.cluster.name.clone(),
        own: true,
        same_region: true,
        rtt: None,
        latency: None,
        link: LinkState::Unknown,
        ready: count(serving(route).filter(|it| takes_calls(it)).count()),
        healthy: if ejected {
            0
        } else {
            count(healthy(route, view).count())
        },
        total: count(serving(route).count()),
        reachable: true,
        ejected,
        regained: 1.0,
    })
}

/// `None` for a cluster that is no peer (any more).
fn remote_health(
    backend: &RemoteBackend,
    mesh: &Mesh,
    view: &dyn HealthView,
    route: &Route,
) -> Option<ClusterHealth> {
    let peer = mesh.peer(&backend.cluster)?;
    let ejected = cluster_ejected(route, &backend.cluster, view);
    let reachable = peer.link != LinkState::Down;
    let rtt = match peer.link {
        LinkState::Up { rtt_us } => Some(Duration::from_micros(rtt_us.into())),
        LinkState::Unknown | LinkState::Down => None,
    };
    let ready = backend.ready();
    Some(ClusterHealth {
        cluster: backend.cluster.clone(),
        own: false,
        same_region: peer.region == mesh.cluster.region,
        rtt,
        latency: None,
        link: peer.link,
        ready,
        healthy: if ejected || !reachable { 0 } else { ready },
        total: backend.total().max(ready),
        reachable,
        ejected,
        regained: 1.0,
    })
}

fn cluster_ejected(route: &Route, cluster: &ClusterName, view: &dyn HealthView) -> bool {
    route.policy().outlier.enabled && view.cluster_ejected(&route.destination.service, cluster)
}

/// The own cluster's endpoints that are ready and not ejected. Ejections above what the policy allows do
/// not count; one always may.
pub(super) fn healthy<'a>(
    route: &'a Route,
    view: &dyn HealthView,
) -> impl Iterator<Item = &'a Endpoint> {
    let outlier = &route.policy().outlier;
    let percent = if outlier.enabled {
        outlier.ejected_percent_max as usize
    } else {
        0
    };
    let mut allowed = match percent {
        0 => 0,
        percent => (serving(route).count() * percent / 100).max(1),
    };
    serving(route)
        .filter(|endpoint| takes_calls(endpoint))
        .filter(move |endpoint| {
            if allowed == 0 || !view.endpoint_ejected(&endpoint.workload) {
                return true;
            }
            allowed -= 1;
            false
        })
}

fn exposes(ports: &[Port], number: u16) -> bool {
    ports
        .iter()
        .any(|port| port.number == number && port.protocol.over_tcp())
}

/// The own cluster's endpoints that have the port.
pub fn serving(route: &Route) -> impl Iterator<Item = &Endpoint> {
    route
        .service
        .local
        .iter()
        .flat_map(|local| &local.endpoints)
        .filter(|endpoint| endpoint.ports.contains_key(&route.destination.port))
}

pub(super) fn takes_calls(endpoint: &Endpoint) -> bool {
    endpoint.ready && endpoint.weight > 0
}
