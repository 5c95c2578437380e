use super::*;

use portolan_model::declared::ExportTo;
use portolan_model::snapshot::{LocalBackend, Service, Vips};
use portolan_model::traffic::SlowStart;
use portolan_model::{Endpoint, Locality, ServiceKind};
use portolan_policy::failover::HealthView;

fn balancer() -> Balancer {
    let registry = portolan_runtime::Metrics::new("sidecar");
    let cluster = "us-east".parse().unwrap();
    let metrics = Metrics::register(&registry, "shop/frontend", &cluster);
    Balancer::new(metrics, &Joint::new())
}

#[test]
fn who_does_not_accept_connections_is_ejected_and_an_answer_ends_that() {
    let balancer = balancer();
    let workload: WorkloadKey = "shop/orders-1".parse().unwrap();
    let subject = Subject::Endpoint(&workload);
    balancer.record(subject, Health::Unknown);
    assert!(!balancer.seen().endpoint_ejected(&workload) && !balancer.take_news());
    balancer.record(subject, Health::Unconnected);
    assert!(balancer.seen().endpoint_ejected(&workload));
    assert!(balancer.take_news() && !balancer.take_news());
    balancer.record(subject, Health::Good);
    assert!(!balancer.seen().endpoint_ejected(&workload));
}

#[test]
fn clusters_are_judged_for_each_service_apart() {
    let balancer = balancer();
    let west: ClusterName = "us-west".parse().unwrap();
    let keys = ["shop/orders", "shop/payments"].map(|key| key.parse::<ServiceKey>().unwrap());
    for key in &keys {
        balancer.service(key, Default::default);
    }
    balancer.record(Subject::Cluster(&keys[0], &west), Health::Unconnected);
    assert!(balancer.seen().cluster_ejected(&keys[0], &west));
    assert!(!balancer.seen().cluster_ejected(&keys[1], &west));
}

#[tokio::test]
async fn a_call_counts_until_its_answer_ended() {
    let balancer = balancer();
    let state = balancer.endpoint(&"shop/orders-1".parse().unwrap());
    let call = Rc::clone(&state).begin();
    assert_eq!(state.outstanding(), 1);
    let unmeasured = state.cost(balancer.now());
    call.answered(balancer.now(), Duration::from_millis(20));
    assert_eq!(state.outstanding(), 1);
    assert!(state.cost(balancer.now()) < unmeasured / 100.0);
    drop(call);
    assert_eq!(state.outstanding(), 0);
    let cost_ms = state.cost(balancer.now()) / 1e6;
    assert!((15.0..=20.0).contains(&cost_ms), "{cost_ms}");
    drop(Rc::clone(&state).begin());
    assert_eq!(state.outstanding(), 0);
}

#[test]
fn whoever_left_the_snapshot_is_forgotten() {
    let balancer = balancer();
    balancer.record(
        Subject::Endpoint(&"shop/orders-1".parse().unwrap()),
        Health::Unconnected,
    );
    balancer.follow(&Snapshot::default());
    let mut left = 0;
    balancer.for_endpoints(|_, _| left += 1);
    assert_eq!(left, 0);
}

/// A service with ready endpoints of these names.
fn service(key: &ServiceKey, names: &[&str]) -> Service {
    let endpoint = |name: &&str| Endpoint {
        workload: format!("shop/{name}").parse().unwrap(),
        address: "10.0.0.1".parse().unwrap(),
        inbound: "10.0.0.1:15008".parse().unwrap(),
        identity: "spiffe://us-east.demo/ns/shop/sa/orders".parse().unwrap(),
        locality: Locality {
            region: "us".parse().unwrap(),
            zone: None,
        },
        weight: 100,
        ready: true,
        hostname: None,
        ports: [(80, 8080)].into(),
    };
    Service {
        key: key.clone(),
        kind: ServiceKind::Virtual,
        ports: vec![],
        vips: Vips::default(),
        imported: false,
        local: Some(LocalBackend {
            ports: vec![],
            endpoints: names.iter().map(endpoint).collect(),
            exported: ExportTo::Nobody,
        }),
        remote: vec![],
        traffic: Traffic::default(),
    }
}

#[test]
fn only_endpoints_that_come_later_begin_slowly() {
    let balancer = balancer();
    let key: ServiceKey = "shop/orders".parse().unwrap();
    let snapshot = |names: &[&str], slow: bool| {
        let mut service = service(&key, names);
        let mut policy = TrafficPolicy::default();
        policy.balancing.slow_start = slow.then_some(SlowStart {
            window: Duration::from_secs(30),
            least_percent: 10,
        });
        service.traffic.cluster.policy = Some(policy);
        let mut snapshot = Snapshot::default();
        snapshot.services.insert(key.clone(), Arc::new(service));
        snapshot
    };
    let new = |name: &str| {
        let workload = format!("shop/{name}").parse().unwrap();
        balancer.endpoint(&workload).ready_since.get().is_some()
    };
    balancer.follow(&snapshot(&["a"], false));
    balancer.follow(&snapshot(&["a", "b"], true));
    assert!(!new("a") && !new("b"), "the policy is new, and not they");
    balancer.follow(&snapshot(&["a", "b", "c"], true));
    assert!(!new("a") && !new("b") && new("c"));
}
