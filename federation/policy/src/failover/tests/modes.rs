//! What policies change: order, shares, when to leave the own cluster.

use super::*;
use portolan_model::traffic::TrafficPolicy;
use std::collections::BTreeMap;

/// What the clusters of a service with this failover get.
fn with(
    failover: Failover,
    mut service: Service,
    view: &dyn HealthView,
) -> Vec<(String, u32, Why)> {
    service.traffic.set.policy = Some(TrafficPolicy {
        failover,
        ..TrafficPolicy::default()
    });
    told(service, view)
}

fn ordered_by(order: ClusterOrder) -> Failover {
    Failover {
        order,
        ..Failover::default()
    }
}

fn weighted(weights: &[(&str, u32)]) -> Failover {
    let weights = weights
        .iter()
        .map(|(name, weight)| (example::cluster(name), *weight));
    ordered_by(ClusterOrder::Weighted(weights.collect()))
}

fn shares_of(rows: Vec<(String, u32, Why)>) -> BTreeMap<String, u32> {
    rows.into_iter()
        .map(|(name, share, _)| (name, share))
        .collect()
}

#[test]
fn a_listed_order_goes_before_nearness_and_spills_down_the_list() {
    let order = ClusterOrder::Listed(vec![
        example::cluster("eu-west"),
        example::cluster("ap-south"),
    ]);
    let expected = vec![
        row("eu-west", 70, Why::First),
        row("ap-south", 30, Why::Spill),
        row(OWN, 0, Why::NotNeeded),
        row("us-west", 0, Why::NotNeeded),
    ];
    let service = everywhere((1, 1), (1, 1), (1, 2));
    assert_eq!(with(ordered_by(order), service, &NothingEjected), expected);
}

#[test]
fn declared_shares_hold_and_the_unlisted_are_not_needed() {
    let expected = vec![
        row(OWN, 90, Why::Weighted),
        row("eu-west", 10, Why::Weighted),
        row("us-west", 0, Why::NotNeeded),
        row("ap-south", 0, Why::NotNeeded),
    ];
    let service = everywhere((3, 4), (1, 1), (1, 1));
    let failover = weighted(&[(OWN, 90), ("eu-west", 10)]);
    assert_eq!(with(failover, service, &NothingEjected), expected);
}

#[test]
fn who_cannot_take_its_share_leaves_it_to_the_others_in_proportion() {
    let failover = weighted(&[(OWN, 60), ("eu-west", 30), ("us-west", 10)]);
    let gone = everywhere((0, 4), (1, 1), (1, 1));
    let found = shares_of(with(failover.clone(), gone, &NothingEjected));
    assert_eq!(
        (found[OWN], found["eu-west"], found["us-west"]),
        (0, 75, 25)
    );
    // 1.4 × 1/4 of 60 is 21; 21 : 30 : 10.
    let weak = everywhere((1, 4), (1, 1), (1, 1));
    let found = shares_of(with(failover.clone(), weak, &NothingEjected));
    assert_eq!(
        (found[OWN], found["eu-west"], found["us-west"]),
        (34, 49, 16)
    );
    let all_gone = everywhere((0, 4), (0, 1), (0, 1));
    let found = shares_of(with(failover, all_gone, &NothingEjected));
    assert_eq!(found["ap-south"], 100, "only now somebody unlisted");
}

/// Knows how long answers take.
struct Measured(BTreeMap<&'static str, u64>);

impl HealthView for Measured {
    fn endpoint_ejected(&self, _: &WorkloadKey) -> bool {
        false
    }

    fn cluster_ejected(&self, _: &ServiceKey, _: &ClusterName) -> bool {
        false
    }

    fn latency(&self, _: &ServiceKey, cluster: &ClusterName) -> Option<Duration> {
        self.0
            .get(cluster.as_str())
            .map(|ms| Duration::from_millis(*ms))
    }
}

#[test]
fn the_fastest_answers_win_but_not_by_a_hair() {
    let first = |measured: &[(&'static str, u64)]| {
        let view = Measured(measured.iter().copied().collect());
        let service = everywhere((1, 1), (1, 1), (1, 1));
        let found = with(ordered_by(ClusterOrder::Latency), service, &view);
        found
            .into_iter()
            .find(|(_, share, _)| *share == 100)
            .unwrap()
            .0
    };
    assert_eq!(
        first(&[
            (OWN, 200),
            ("us-west", 70),
            ("eu-west", 90),
            ("ap-south", 300)
        ]),
        "us-west"
    );
    assert_eq!(
        first(&[(OWN, 80), ("us-west", 70), ("ap-south", 300)]),
        OWN,
        "hardly slower, and nearer"
    );
    // The way to eu-west alone takes 80 ms.
    assert_eq!(
        first(&[
            (OWN, 85),
            ("us-west", 90),
            ("eu-west", 5),
            ("ap-south", 300)
        ]),
        OWN
    );
    assert_eq!(
        first(&[(OWN, 200), ("us-west", 190), ("ap-south", 300)]),
        "eu-west",
        "worth a measurement"
    );
}

#[test]
fn pinned_means_nobody_else() {
    let pinned = || ordered_by(ClusterOrder::Pinned(example::cluster("eu-west")));
    let found = with(
        pinned(),
        everywhere((1, 1), (1, 1), (1, 1)),
        &NothingEjected,
    );
    assert_eq!(found, [row("eu-west", 100, Why::Pinned)]);
    let down = with(
        pinned(),
        everywhere((1, 1), (1, 1), (0, 1)),
        &NothingEjected,
    );
    assert_eq!(down, [row("eu-west", 100, Why::LastResort)]);
}

#[test]
fn enough_healthy_endpoints_keep_everything_and_fewer_spill_in_proportion() {
    let failover = Failover {
        healthy_local_min: Some(2),
        ..Failover::default()
    };
    let own = |healthy| {
        let service = everywhere((healthy, 10), (1, 1), (1, 1));
        shares_of(with(failover.clone(), service, &NothingEjected))[OWN]
    };
    assert_eq!([own(10), own(2), own(1), own(0)], [100, 100, 50, 0]);
}

#[test]
fn without_overprovisioning_each_lost_endpoint_spills() {
    let failover = Failover {
        overprovisioning_percent: 100,
        ..Failover::default()
    };
    let found = with(
        failover,
        everywhere((9, 10), (1, 1), (1, 1)),
        &NothingEjected,
    );
    assert_eq!(
        found[..2],
        [row(OWN, 90, Why::Nearest), row("us-west", 10, Why::Spill)]
    );
}

/// A cluster that has regained a quarter.
struct Returning;

impl HealthView for Returning {
    fn endpoint_ejected(&self, _: &WorkloadKey) -> bool {
        false
    }

    fn cluster_ejected(&self, _: &ServiceKey, _: &ClusterName) -> bool {
        false
    }

    fn regained(&self, _: &ServiceKey, cluster: &ClusterName, _: bool, _: Duration) -> f64 {
        if cluster.as_str() == OWN { 0.25 } else { 1.0 }
    }
}

#[test]
fn who_comes_back_has_a_part_and_all_of_it_if_nobody_else_can() {
    let found = told(everywhere((1, 1), (1, 1), (1, 1)), &Returning);
    assert_eq!(
        found[..2],
        [row(OWN, 25, Why::Nearest), row("us-west", 75, Why::Spill)]
    );
    let alone = told(
        example::service(Some(example::local(1, 1)), vec![]),
        &Returning,
    );
    assert_eq!(alone, [row(OWN, 100, Why::Nearest)]);
}

#[test]
fn no_more_endpoints_are_ejected_than_allowed_and_none_where_detection_is_off() {
    let view = Ejected {
        endpoints: vec![0, 1, 2],
        clusters: vec!["us-west"],
    };
    let healthy = |enabled, ejected_percent_max| {
        let mut service = everywhere((4, 4), (1, 1), (1, 1));
        let mut policy = TrafficPolicy::default();
        policy.outlier.enabled = enabled;
        policy.outlier.ejected_percent_max = ejected_percent_max;
        service.traffic.set.policy = Some(policy);
        let found = candidates(&route(service, SET), &example::mesh(), &view);
        (found[0].health.healthy, found[1].health.healthy)
    };
    assert_eq!(healthy(true, 100), (1, 0));
    assert_eq!(healthy(true, 50), (2, 0));
    assert_eq!(healthy(true, 1), (3, 0), "one always may be");
    assert_eq!(healthy(true, 0), (4, 0));
    assert_eq!(healthy(false, 100), (4, 1));
}

proptest! {
    /// Reference: each call names a cluster by weight; if that cannot take it (by luck of its capacity), it
    /// names another one, until one can.
    #[test]
    fn shares_by_weight_are_what_naming_again_and_again_gives(
        clusters in prop::collection::vec((0_u32..10, 0_u32..8, 0_u32..8), 1..5)
    ) {
        let members: Vec<Candidate> = clusters
            .into_iter()
            .map(|(weight, healthy, more)| {
                let mut member = level(0, healthy, healthy + more, true);
                member.part.weight = Some(weight);
                member
            })
            .collect();
        let pulls: Vec<f64> =
            members.iter().map(|it| f64::from(it.part.weight.unwrap()) * it.capacity).collect();
        let weights: f64 = members.iter().map(|it| f64::from(it.part.weight.unwrap())).sum();
        prop_assume!(pulls.iter().sum::<f64>() > 0.0);
        let taken_at_once: f64 = pulls.iter().map(|pull| pull / weights).sum();
        let mut expected = vec![0.0; members.len()];
        let mut left = 1.0_f64;
        while left > 1e-9 {
            for (share, pull) in expected.iter_mut().zip(&pulls) {
                *share += left * pull / weights;
            }
            left *= 1.0 - taken_at_once;
        }
        let found = shares(&members.iter().collect::<Vec<_>>());
        for (found, expected) in found.iter().zip(&expected) {
            prop_assert!((found - expected).abs() < 1e-6, "{found} {expected}");
        }
    }
}
