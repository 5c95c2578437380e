use super::*;
use crate::example::{self, OWN};
use crate::route::destination_by_host;
use portolan_model::declared::ExportTo;
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

fn level(at: usize, healthy: u32, total: u32, reachable: bool) -> Candidate {
    let health = ClusterHealth {
        cluster: example::cluster("x"),
        own: false,
        same_region: false,
        rtt: None,
        latency: None,
        link: LinkState::Unknown,
        ready: healthy,
        healthy,
        total,
        reachable,
        ejected: false,
        regained: 1.0,
    };
    Candidate {
        cluster: health.cluster.clone(),
        share: 0.0,
        capacity: health.capacity(&Failover::default()),
        part: Part {
            level: at,
            weight: None,
        },
        health,
        why: Why::NotNeeded,
    }
}

/// Reference: pour the calls drop by drop, each into the first cluster that has room.
fn poured(levels: &[Candidate]) -> Vec<f64> {
    const DROPS: u32 = 20_000;
    let sum: f64 = levels.iter().map(|it| it.capacity).sum();
    let room = |level: &Candidate| f64::from(DROPS) * level.capacity / sum.min(1.0);
    let mut drops = vec![0_u32; levels.len()];
    for _ in 0..DROPS {
        let first = (0..levels.len())
            .find(|at| f64::from(drops[*at]) + 0.5 <= room(&levels[*at]))
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
        let levels: Vec<_> = levels
            .into_iter()
            .enumerate()
            .map(|(at, (healthy, more, reachable))| level(at, healthy, healthy + more, reachable))
            .collect();
        let found = shares(&levels.iter().collect::<Vec<_>>());
        let sum: f64 = found.iter().sum();
        prop_assert!((sum - 1.0).abs() < 1e-9, "{found:?}");
        if levels.iter().any(|level| level.health.healthy > 0) {
            for (share, expected) in found.iter().zip(poured(&levels)) {
                prop_assert!((share - expected).abs() < 1e-3, "{found:?} {levels:?}");
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

mod modes;
