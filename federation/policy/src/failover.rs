//! Which cluster takes a call: a graded spill from near to far.
//!
//! Clusters are ordered: the own one, those of the same region by round-trip time, the others by
//! round-trip time. Each can take as many of the calls as it has healthy endpoints times 1.4 (a
//! cluster with five of seven endpoints healthy still takes everything); what it cannot take goes
//! on to the next. If all together cannot take everything, they share in proportion. If nobody is
//! healthy, everybody who exists is tried: a wrong health signal must not turn a bad day into an
//! outage.

use std::fmt;
use std::time::Duration;

use portolan_model::declared::ExportTo;
use portolan_model::snapshot::{LinkState, Mesh, RemoteBackend, Scope};
use portolan_model::{
    ClusterName, Endpoint, Hop, Port, Protocol, Reason, Refusal, ServiceKey, WorkloadKey,
};
use smallvec::SmallVec;

use crate::route::Route;
use crate::split;

/// How much more than its share each healthy endpoint is trusted to carry.
pub const OVERPROVISIONING: f64 = 1.4;

/// What a proxy learned itself from the answers it got.
pub trait HealthView {
    /// Whether this endpoint of the own cluster is ejected now.
    fn endpoint_ejected(&self, workload: &WorkloadKey) -> bool;
    /// Whether this cluster is ejected now, as a backend of this service.
    fn cluster_ejected(&self, service: &ServiceKey, cluster: &ClusterName) -> bool;
}

/// The view of somebody who sends no calls, and so has learned nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct NothingEjected;

impl HealthView for NothingEjected {
    fn endpoint_ejected(&self, _: &WorkloadKey) -> bool {
        false
    }

    fn cluster_ejected(&self, _: &ServiceKey, _: &ClusterName) -> bool {
        false
    }
}

/// What is known of one cluster as a backend of one service port.
#[derive(Debug, Clone, PartialEq)]
pub struct ClusterHealth {
    /// The cluster.
    pub cluster: ClusterName,
    /// Whether it is the own one.
    pub own: bool,
    /// Whether it is in the own region.
    pub same_region: bool,
    /// The way to it: the best link's round-trip time, where one is known.
    pub rtt: Option<Duration>,
    /// What the gateways say of the links to it; [`LinkState::Unknown`] for the own cluster.
    pub link: LinkState,
    /// Endpoints that the cluster says are ready.
    pub ready: u32,
    /// Those of them that calls should go to: none of an ejected or unreachable cluster, and of the
    /// own cluster those that are not ejected.
    pub healthy: u32,
    /// All endpoints.
    pub total: u32,
    /// Whether it can be reached as far as anybody knows.
    pub reachable: bool,
    /// Whether the caller's proxy ejected the whole cluster.
    pub ejected: bool,
}

impl ClusterHealth {
    /// The share of all calls that the cluster can take, from 0 to 1.
    #[must_use]
    pub fn capacity(&self) -> f64 {
        let total = self.total.max(self.healthy);
        if total == 0 {
            return 0.0;
        }
        (OVERPROVISIONING * f64::from(self.healthy) / f64::from(total)).min(1.0)
    }
}

/// One cluster that could take a call.
#[derive(Debug, Clone, PartialEq)]
pub struct Candidate {
    /// The cluster.
    pub cluster: ClusterName,
    /// Its share of the calls, from 0 to 1.
    pub share: f64,
    /// What is known of it.
    pub health: ClusterHealth,
    /// Why it has this share.
    pub why: Why,
}

/// Why a candidate has its share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// It is the nearest that can take calls.
    Nearest,
    /// Nearer clusters cannot take everything.
    Spill,
    /// Nearer clusters take everything.
    NotNeeded,
    /// It has no endpoint of the service port.
    Empty,
    /// None of its endpoints is ready.
    NotReady,
    /// All of its endpoints failed so often that they are left alone for a while.
    EndpointsEjected,
    /// Calls to it failed so often that it is left alone for a while.
    Ejected,
    /// No gateway has a live link to it.
    Unreachable,
    /// Nobody is healthy, so it is tried although it is not.
    LastResort,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nearest => "the nearest that can take calls",
            Self::Spill => "nearer clusters cannot take everything",
            Self::NotNeeded => "nearer clusters take everything",
            Self::Empty => "has no endpoint",
            Self::NotReady => "no endpoint is ready",
            Self::EndpointsEjected => "every ready endpoint is ejected after failures",
            Self::Ejected => "ejected after failures",
            Self::Unreachable => "no live link",
            Self::LastResort => "nobody is healthy, so everybody is tried",
        })
    }
}

/// The clusters that could take a call, nearest first. Their shares sum to 1, or all are 0 when no
/// cluster has an endpoint.
#[must_use]
pub fn candidates(route: &Route, mesh: &Mesh, health: &dyn HealthView) -> Vec<Candidate> {
    let healths = survey(route, mesh, health);
    let loads = shares(&healths.iter().collect::<SmallVec<[_; 8]>>());
    let anybody = healths.iter().any(|health| health.healthy > 0);
    let mut taken = false;
    let judged = healths.into_iter().zip(loads).map(|(health, share)| {
        let why = why(&health, share, anybody, taken);
        taken |= share > 0.0;
        Candidate {
            cluster: health.cluster.clone(),
            share,
            health,
            why,
        }
    });
    judged.collect()
}

/// Draws the cluster for the next try with `random` in `[0, 1)`. Clusters that were tried for this
/// call already are left out, and the others share the calls as if those did not exist. `None` when
/// nobody is left who has an endpoint.
#[must_use]
pub fn choose_cluster<'a>(
    candidates: &'a [Candidate],
    tried: &[ClusterName],
    random: f64,
) -> Option<&'a Candidate> {
    let left: SmallVec<[&Candidate; 8]> = candidates
        .iter()
        .filter(|candidate| !tried.contains(&candidate.cluster))
        .collect();
    let loads = if left.len() == candidates.len() {
        left.iter().map(|candidate| candidate.share).collect()
    } else {
        shares(
            &left
                .iter()
                .map(|candidate| &candidate.health)
                .collect::<SmallVec<[_; 8]>>(),
        )
    };
    left.get(split::pick(&loads, random)?).copied()
}

/// The endpoints of the own cluster that a call may go to: those that are ready and not ejected; if
/// there are none, the ready ones; if there are none, all that serve the port.
#[must_use]
pub fn own_endpoints<'a>(route: &'a Route, health: &dyn HealthView) -> SmallVec<[&'a Endpoint; 8]> {
    let serving = |wanted: &dyn Fn(&Endpoint) -> bool| -> SmallVec<[&'a Endpoint; 8]> {
        serving(route).filter(|endpoint| wanted(endpoint)).collect()
    };
    let healthy =
        serving(&|endpoint| takes_calls(endpoint) && !health.endpoint_ejected(&endpoint.workload));
    if !healthy.is_empty() {
        return healthy;
    }
    let ready = serving(&takes_calls);
    if ready.is_empty() {
        serving(&|_| true)
    } else {
        ready
    }
}

/// The refusal for a call that no cluster can take.
#[must_use]
pub fn nobody(route: &Route) -> Refusal {
    Refusal::new(
        Reason::NoHealthyUpstream,
        Hop::Outbound,
        format!("no cluster has an endpoint of {}", route.destination),
    )
}

/// The health of every cluster in scope that really exposes the port, nearest first.
fn survey(route: &Route, mesh: &Mesh, health: &dyn HealthView) -> SmallVec<[ClusterHealth; 8]> {
    let scope = &route.destination.scope;
    let in_scope = |cluster: &ClusterName| match scope {
        Scope::Cluster => cluster == &mesh.cluster.name,
        Scope::Set => true,
        Scope::Pinned(pinned) => pinned == cluster,
    };
    let own = in_scope(&mesh.cluster.name)
        .then(|| own_health(route, mesh, health))
        .flatten();
    let remote = route
        .service
        .remote
        .iter()
        .filter(|backend| in_scope(&backend.cluster))
        .filter(|backend| exposes(&backend.ports, route.destination.port))
        .filter_map(|backend| remote_health(backend, mesh, health, &route.destination.service));
    let mut all: SmallVec<[ClusterHealth; 8]> = own.into_iter().chain(remote).collect();
    all.sort_by(|a, b| distance(a).cmp(&distance(b)));
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
    let ejected = view.cluster_ejected(&route.destination.service, &mesh.cluster.name);
    let count = |wanted: &dyn Fn(&Endpoint) -> bool| {
        let count = serving(route).filter(|endpoint| wanted(endpoint)).count();
        u32::try_from(count).unwrap_or(u32::MAX)
    };
    let healthy = count(&|endpoint| {
        !ejected && takes_calls(endpoint) && !view.endpoint_ejected(&endpoint.workload)
    });
    Some(ClusterHealth {
        cluster: mesh.cluster.name.clone(),
        own: true,
        same_region: true,
        rtt: None,
        link: LinkState::Unknown,
        ready: count(&takes_calls),
        healthy,
        total: count(&|_| true),
        reachable: true,
        ejected,
    })
}

/// `None` for a cluster that is no peer (any more).
fn remote_health(
    backend: &RemoteBackend,
    mesh: &Mesh,
    view: &dyn HealthView,
    service: &ServiceKey,
) -> Option<ClusterHealth> {
    let peer = mesh.peer(&backend.cluster)?;
    let ejected = view.cluster_ejected(service, &backend.cluster);
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
        link: peer.link,
        ready,
        healthy: if ejected || !reachable { 0 } else { ready },
        total: backend.total().max(ready),
        reachable,
        ejected,
    })
}

fn exposes(ports: &[Port], number: u16) -> bool {
    ports
        .iter()
        .any(|port| port.number == number && port.protocol != Protocol::Udp)
}

/// The own cluster's endpoints that have the port.
fn serving(route: &Route) -> impl Iterator<Item = &Endpoint> {
    route
        .service
        .local
        .iter()
        .flat_map(|local| &local.endpoints)
        .filter(|endpoint| endpoint.ports.contains_key(&route.destination.port))
}

fn takes_calls(endpoint: &Endpoint) -> bool {
    endpoint.ready && endpoint.weight > 0
}

/// Envoy's priority load: each level takes what it can of what is left; when all together cannot
/// take everything, in proportion.
fn shares(healths: &[&ClusterHealth]) -> SmallVec<[f64; 8]> {
    let together: f64 = healths.iter().map(|health| health.capacity()).sum();
    if together <= 0.0 {
        return last_resort(healths);
    }
    let scale = together.min(1.0);
    let mut remaining = 1.0_f64;
    let take = |health: &&ClusterHealth| {
        let share = (health.capacity() / scale).min(remaining);
        remaining -= share;
        share
    };
    healths.iter().map(take).collect()
}

/// Everybody who has endpoints and can be reached, by their number; if nobody, everybody who has
/// endpoints; if nobody, every other cluster, since what we know of them may be old.
fn last_resort(healths: &[&ClusterHealth]) -> SmallVec<[f64; 8]> {
    let weigh = |weight: &dyn Fn(&ClusterHealth) -> u32| -> Option<SmallVec<[f64; 8]>> {
        let weights: SmallVec<[f64; 8]> = healths.iter().map(|h| f64::from(weight(h))).collect();
        let sum: f64 = weights.iter().sum();
        (sum > 0.0).then(|| weights.iter().map(|weight| weight / sum).collect())
    };
    weigh(&|h| if h.reachable { h.total } else { 0 })
        .or_else(|| weigh(&|h| h.total))
        .or_else(|| weigh(&|h| u32::from(!h.own)))
        .unwrap_or_else(|| healths.iter().map(|_| 0.0).collect())
}

fn why(health: &ClusterHealth, share: f64, anybody: bool, taken: bool) -> Why {
    match (share > 0.0, taken) {
        (true, _) if !anybody => Why::LastResort,
        (true, false) => Why::Nearest,
        (true, true) => Why::Spill,
        (false, _) if health.total == 0 => Why::Empty,
        (false, _) if !health.reachable => Why::Unreachable,
        (false, _) if health.ejected => Why::Ejected,
        (false, _) if health.ready == 0 => Why::NotReady,
        (false, _) if health.healthy == 0 => Why::EndpointsEjected,
        (false, _) => Why::NotNeeded,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::example::{self, OWN};
    use crate::route::destination_by_host;
    use portolan_model::snapshot::Service;
    use proptest::prelude::*;

    const SET: &str = "orders.shop.global";

    /// What a test wants to be ejected.
    #[derive(Default)]
    struct Ejected {
        endpoints: Vec<usize>,
        clusters: Vec<&'static str>,
    }

    impl HealthView for Ejected {
        fn endpoint_ejected(&self, workload: &WorkloadKey) -> bool {
            self.endpoints
                .iter()
                .any(|index| &example::workload(*index) == workload)
        }

        fn cluster_ejected(&self, _: &ServiceKey, cluster: &ClusterName) -> bool {
            self.clusters.contains(&cluster.as_str())
        }
    }

    fn route(service: Service, host: &str) -> Route {
        destination_by_host(&example::snapshot(service), host, None)
            .unwrap()
            .unwrap()
    }

    fn told(service: Service, view: &dyn HealthView) -> Vec<(String, u32, Why)> {
        candidates(&route(service, SET), &example::mesh(), view)
            .into_iter()
            .map(|it| {
                let percent = (it.share * 100.0).round() as u32;
                (it.cluster.to_string(), percent, it.why)
            })
            .collect()
    }

    fn everywhere(own: (usize, usize), west: (u32, u32), eu: (u32, u32)) -> Service {
        example::service(
            Some(example::local(own.0, own.1)),
            vec![
                example::remote("ap-south", 1, 1),
                example::remote("eu-west", eu.0, eu.1),
                example::remote("us-west", west.0, west.1),
            ],
        )
    }

    fn row(cluster: &str, percent: u32, why: Why) -> (String, u32, Why) {
        (cluster.to_owned(), percent, why)
    }

    #[test]
    fn near_before_far_and_everything_to_the_nearest() {
        let expected = vec![
            row(OWN, 100, Why::Nearest),
            row("us-west", 0, Why::NotNeeded),
            row("eu-west", 0, Why::NotNeeded),
            row("ap-south", 0, Why::NotNeeded),
        ];
        assert_eq!(
            told(everywhere((3, 4), (1, 1), (1, 1)), &NothingEjected),
            expected
        );
    }

    #[test]
    fn what_the_near_cannot_take_spills_in_proportion() {
        // 1.4 × 2/5 = 56 %; of the rest us-west can take 1.4 × 1/5 = 28 %.
        let expected = vec![
            row(OWN, 56, Why::Nearest),
            row("us-west", 28, Why::Spill),
            row("eu-west", 16, Why::Spill),
            row("ap-south", 0, Why::NotNeeded),
        ];
        assert_eq!(
            told(everywhere((2, 5), (1, 5), (9, 9)), &NothingEjected),
            expected
        );
    }

    #[test]
    fn ejected_endpoints_and_clusters_count_as_unhealthy() {
        let view = Ejected {
            endpoints: vec![0, 1],
            clusters: vec!["us-west"],
        };
        let expected = vec![
            row(OWN, 0, Why::EndpointsEjected),
            row("us-west", 0, Why::Ejected),
            row("eu-west", 100, Why::Nearest),
            row("ap-south", 0, Why::NotNeeded),
        ];
        assert_eq!(told(everywhere((2, 3), (5, 5), (1, 1)), &view), expected);
    }

    #[test]
    fn if_nobody_is_healthy_everybody_reachable_is_tried() {
        let mut mesh = example::mesh();
        mesh.peers[1].link = LinkState::Down;
        let service = example::service(
            Some(example::local(0, 1)),
            vec![
                example::remote("eu-west", 8, 8),
                example::remote("us-west", 0, 3),
            ],
        );
        let found = candidates(&route(service, SET), &mesh, &NothingEjected);
        let shares: Vec<f64> = found.iter().map(|it| it.share).collect();
        assert_eq!(shares, [0.25, 0.75, 0.0]);
        assert_eq!(found[1].why, Why::LastResort);
        assert_eq!(found[2].why, Why::Unreachable);
    }

    #[test]
    fn unreachable_clusters_are_tried_when_there_is_nothing_else() {
        let mut mesh = example::mesh();
        mesh.peers[1].link = LinkState::Down;
        let service = example::service(None, vec![example::remote("eu-west", 8, 8)]);
        let found = candidates(&route(service, SET), &mesh, &NothingEjected);
        assert_eq!((found[0].share, found[0].why), (1.0, Why::LastResort));
    }

    #[test]
    fn without_any_endpoint_nobody_is_chosen() {
        let service = example::service(Some(example::local(0, 0)), vec![]);
        let route = route(service, SET);
        let found = candidates(&route, &example::mesh(), &NothingEjected);
        assert_eq!((found[0].share, found[0].why), (0.0, Why::Empty));
        assert_eq!(choose_cluster(&found, &[], 0.3), None);
        assert_eq!(nobody(&route).reason, Reason::NoHealthyUpstream);
    }

    fn names(service: Service, host: &str) -> Vec<String> {
        candidates(&route(service, host), &example::mesh(), &NothingEjected)
            .into_iter()
            .map(|it| it.cluster.to_string())
            .collect()
    }

    #[test]
    fn the_scope_of_the_name_limits_the_clusters() {
        let service = || everywhere((1, 1), (1, 1), (1, 1));
        assert_eq!(names(service(), "orders.shop.svc.cluster.local"), [OWN]);
        assert_eq!(names(service(), "orders.shop.eu-west.global"), ["eu-west"]);
        assert_eq!(names(service(), "orders.shop.us-east.global"), [OWN]);
        assert_eq!(names(service(), SET).len(), 4);
    }

    #[test]
    fn the_own_part_belongs_to_the_set_only_when_exported() {
        let mut service = everywhere((1, 1), (1, 1), (0, 1));
        service.local.as_mut().unwrap().exported = ExportTo::Nobody;
        assert_eq!(names(service, SET), ["us-west", "eu-west", "ap-south"]);
    }

    #[test]
    fn only_clusters_that_expose_the_port_and_are_peers_count() {
        let mut service = everywhere((1, 1), (1, 1), (1, 1));
        service.remote[0].ports[0].number = 81;
        service.remote[1].cluster = example::cluster("gone");
        service.local.as_mut().unwrap().ports.clear();
        assert_eq!(names(service, SET), ["us-west"]);
    }

    #[test]
    fn a_retry_goes_to_where_the_call_would_have_gone_without_the_tried() {
        let service = everywhere((2, 5), (1, 1), (1, 1));
        let found = candidates(&route(service, SET), &example::mesh(), &NothingEjected);
        let next = |tried: &[&str], random| {
            let tried: Vec<ClusterName> = tried.iter().map(|it| example::cluster(it)).collect();
            choose_cluster(&found, &tried, random).map(|it| it.cluster.to_string())
        };
        assert_eq!(next(&[], 0.55).unwrap(), OWN);
        assert_eq!(next(&[], 0.57).unwrap(), "us-west");
        assert_eq!(next(&[OWN], 0.99).unwrap(), "us-west");
        assert_eq!(next(&[OWN, "us-west"], 0.0).unwrap(), "eu-west");
        assert_eq!(next(&[OWN, "us-west", "eu-west", "ap-south"], 0.0), None);
    }

    #[test]
    fn endpoints_are_the_healthy_else_the_ready_else_all() {
        let mut backend = example::local(3, 4);
        backend.endpoints[2].weight = 0;
        backend.endpoints.push(example::endpoint(9, true, &[81]));
        let ready = route(example::service(Some(backend), vec![]), SET);
        let count = |ejected: &[usize]| {
            let view = Ejected {
                endpoints: ejected.to_vec(),
                ..Ejected::default()
            };
            own_endpoints(&ready, &view).len()
        };
        assert_eq!(count(&[]), 2);
        assert_eq!(count(&[0]), 1);
        assert_eq!(count(&[0, 1]), 2);

        let down = route(example::service(Some(example::local(0, 3)), vec![]), SET);
        assert_eq!(own_endpoints(&down, &NothingEjected).len(), 3);
    }

    fn level(healthy: u32, total: u32, reachable: bool) -> ClusterHealth {
        ClusterHealth {
            cluster: example::cluster("x"),
            own: false,
            same_region: false,
            rtt: None,
            link: LinkState::Unknown,
            ready: healthy,
            healthy,
            total,
            reachable,
            ejected: false,
        }
    }

    /// Reference: pour the calls drop by drop, each into the first cluster that has room.
    fn poured(healths: &[ClusterHealth]) -> Vec<f64> {
        const DROPS: u32 = 20_000;
        let sum: f64 = healths.iter().map(ClusterHealth::capacity).sum();
        let room = |health: &ClusterHealth| f64::from(DROPS) * health.capacity() / sum.min(1.0);
        let mut drops = vec![0_u32; healths.len()];
        for _ in 0..DROPS {
            let first = (0..healths.len())
                .find(|at| f64::from(drops[*at]) + 0.5 <= room(&healths[*at]))
                .unwrap_or(0);
            drops[first] += 1;
        }
        drops
            .into_iter()
            .map(|count| f64::from(count) / f64::from(DROPS))
            .collect()
    }

    proptest! {
        #[test]
        fn the_spill_is_what_pouring_gives(
            levels in prop::collection::vec((0_u32..8, 0_u32..12, any::<bool>()), 1..6)
        ) {
            let healths: Vec<_> = levels
                .into_iter()
                .map(|(healthy, more, reachable)| level(healthy, healthy + more, reachable))
                .collect();
            let found = shares(&healths.iter().collect::<Vec<_>>());
            let sum: f64 = found.iter().sum();
            prop_assert!((sum - 1.0).abs() < 1e-9, "{found:?}");
            if healths.iter().any(|health| health.healthy > 0) {
                for (share, expected) in found.iter().zip(poured(&healths)) {
                    prop_assert!((share - expected).abs() < 1e-3, "{found:?} {healths:?}");
                }
            }
        }

        #[test]
        fn a_hostile_count_breaks_nothing(ready: u32, total: u32, own in 0_usize..3) {
            let service = example::service(
                Some(example::local(own, 2)),
                vec![example::remote("eu-west", ready, total)],
            );
            let found = candidates(&route(service, SET), &example::mesh(), &NothingEjected);
            let sum: f64 = found.iter().map(|it| it.share).sum();
            prop_assert!((sum - 1.0).abs() < 1e-9);
        }
    }
}
