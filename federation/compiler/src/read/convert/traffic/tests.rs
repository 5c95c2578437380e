use std::time::Duration;

use portolan_model::declared::{DeclaredSpec, Face};
use portolan_model::traffic::{
    Algorithm, ClusterOrder, HashKey, HashOn, HealthProbe, Hedging, SlowStart, TrafficPolicy,
    TrafficPolicySpec,
};

use crate::read;

const HEAD: &str = "
apiVersion: portolan.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: orders, namespace: shop}
spec:
  targetRefs: [{kind: Service, name: orders}]
";

fn read_policy(body: &str) -> (Option<TrafficPolicySpec>, Vec<String>) {
    let text = format!("{HEAD}{body}");
    let mut result = read("p.yaml", &text, &"shop".parse().unwrap());
    let problems = result.problems.iter().map(ToString::to_string).collect();
    let spec = result.declared.pop().map(|(declared, _)| {
        let DeclaredSpec::Traffic(spec) = declared.spec else {
            panic!("{:?}", declared.spec)
        };
        *spec
    });
    (spec, problems)
}

fn policy(body: &str) -> TrafficPolicy {
    let (spec, problems) = read_policy(body);
    assert_eq!(problems, [""; 0]);
    spec.unwrap().policy
}

#[test]
fn what_is_left_out_has_its_default() {
    let (spec, problems) = read_policy("");
    assert_eq!(problems, [""; 0]);
    let spec = spec.unwrap();
    assert_eq!(spec.targets[0].face, Face::Cluster);
    let expected = TrafficPolicy {
        name: "shop/orders".to_owned(),
        ..TrafficPolicy::default()
    };
    assert_eq!(spec.policy, expected);
    let (bare, written) = (TrafficPolicy::default(), policy("
  loadBalancing: {algorithm: PeakEwma}
  failover: {mode: Nearest, overprovisioningPercent: 140, returnOver: 10s}
  outlierDetection: {enabled: true, consecutiveFailures: 5, baseEjection: 30s, maxEjection: 5m, maxEjectedPercent: 100}
  circuitBreaker: {maxConnections: 1024, maxPending: 1024, maxRequests: 1024}
  retries: {attempts: 2, statuses: [502, 503, 504], backoff: {base: 25ms, max: 250ms}, budget: {percent: 20, perSecond: 10}}
  timeouts: {connect: 1s, connectRemote: 5s, responseHeaders: 15s, idle: 5m}
"));
    assert_eq!(
        TrafficPolicy {
            name: String::new(),
            ..written
        },
        bare,
        "defaults as documented"
    );
}

#[test]
fn every_field_is_read() {
    let found = policy("
  loadBalancing:
    algorithm: Maglev
    hashOn: [{header: X-User}, {cookie: session}, {query: id}, {source: true}]
    slowStart: {window: 30s, leastPercent: 5}
  failover: {mode: Weighted, weights: {us-east: 90, eu-west: 10}, minHealthyLocal: 2, overprovisioningPercent: 100, returnOver: 0s}
  outlierDetection:
    successRate: {interval: 5s, minRequests: 10, deviationsMilli: 2500}
    latency: {ofMedianPercent: 500, least: 20ms}
  circuitBreaker: {pendingTimeout: 100ms, maxRequestsPerEndpoint: 10}
  retries: {attempts: 1, grpcStatuses: [8], perTryTimeout: 500ms}
  hedging: {after: 50ms, maxExtra: 2}
  adaptiveConcurrency: {tolerancePercent: 200}
  timeouts: {request: 2s, connectionAge: 1m}
  healthChecks:
  - {port: 80, http: {path: /healthz, statuses: [\"200\", \"300-399\"], body: \"ok.*\"}, interval: 1s}
  - {grpc: {service: shop.Orders}}
  - {tcp: {}}
");
    let HashOn { keys } = HashOn {
        keys: vec![
            HashKey::Header("x-user".to_owned()),
            HashKey::Cookie("session".to_owned()),
            HashKey::Query("id".to_owned()),
            HashKey::Source,
        ],
    };
    assert_eq!(
        found.balancing.algorithm,
        Algorithm::Maglev(HashOn { keys })
    );
    let ms = Duration::from_millis;
    let slow = SlowStart {
        window: ms(30_000),
        least_percent: 5,
    };
    assert_eq!(found.balancing.slow_start, Some(slow));
    let weights = [("us-east", 90), ("eu-west", 10)].map(|(name, it)| (name.parse().unwrap(), it));
    assert_eq!(found.failover.order, ClusterOrder::Weighted(weights.into()));
    assert_eq!(found.failover.healthy_local_min, Some(2));
    assert_eq!(found.failover.return_over, Duration::ZERO);
    assert_eq!(found.outlier.success_rate.unwrap().deviations_milli, 2_500);
    assert_eq!(found.outlier.latency.unwrap().least, ms(20));
    assert_eq!(found.breaker.requests_per_endpoint, Some(10));
    assert_eq!(found.breaker.pending_timeout, Some(ms(100)));
    assert_eq!(
        (found.retries.attempts, found.retries.grpc_statuses),
        (1, vec![8])
    );
    assert_eq!(found.retries.per_try_timeout, Some(ms(500)));
    assert_eq!(found.admission.unwrap().tolerance_percent, 200);
    let hedging = Hedging {
        after: ms(50),
        extra_max: 2,
    };
    assert_eq!(found.hedging, Some(hedging));
    assert_eq!(found.timeouts.request, Some(ms(2_000)));
    assert_eq!(found.timeouts.connection_age, Some(ms(60_000)));
    let [http, grpc, tcp] = found.health_checks.as_slice() else {
        panic!("{:?}", found.health_checks)
    };
    assert!(
        matches!(&http.probe, HealthProbe::Http { statuses, .. } if *statuses == [(200, 200), (300, 399)])
    );
    assert!(matches!(&grpc.probe, HealthProbe::Grpc { service } if service == "shop.Orders"));
    assert_eq!((http.port, &tcp.probe), (Some(80), &HealthProbe::Tcp));
}

/// What is written, where the mistake is, and what of the sentence and its remedy must be told.
const MISTAKES: &[(&str, &str, &str, &str)] = &[
    (
        "  retires: {attempts: 1}",
        "spec.retires",
        "unknown field",
        "did you mean `retries`",
    ),
    (
        "  retries: {attempts: 9}",
        "spec.retries.attempts",
        "too large",
        "up to 7",
    ),
    (
        "  retries: {perTryTimeout: 1.5s}",
        "spec.retries.perTryTimeout",
        "not a duration",
        "`250ms`",
    ),
    (
        "  retries: {perTryTimeout: 0s}",
        "spec.retries.perTryTimeout",
        "longer than nothing",
        "250ms",
    ),
    (
        "  retries: {backoff: {base: 1s}}",
        "spec.retries.backoff.base",
        "longer than the longest",
        "raise `max`",
    ),
    (
        "  loadBalancing: {algorithm: Maglev}",
        "spec.loadBalancing.algorithm",
        "on what",
        "add `hashOn`",
    ),
    (
        "  loadBalancing: {hashOn: [{source: true}]}",
        "spec.loadBalancing.hashOn",
        "does not hash",
        "RingHash",
    ),
    (
        "  loadBalancing: {algorithm: RingHash, hashOn: [{header: a, cookie: b}]}",
        "spec.loadBalancing.hashOn[0]",
        "exactly one",
        "write one of",
    ),
    (
        "  loadBalancing: {algorithm: RoundRobbin}",
        "spec.loadBalancing.algorithm",
        "not allowed",
        "did you mean `RoundRobin`",
    ),
    (
        "  failover: {mode: Weighted}",
        "spec.failover.mode",
        "needs `weights`",
        "add `weights`",
    ),
    (
        "  failover: {weights: {us-east: 1}}",
        "spec.failover.weights",
        "does not use `weights`",
        "mode: Weighted",
    ),
    (
        "  failover: {mode: Weighted, weights: {us-east: 0}}",
        "spec.failover.weights",
        "no cluster has a share",
        "above 0",
    ),
    (
        "  failover: {mode: Listed, order: [us-east, us-east]}",
        "spec.failover.order[1]",
        "listed twice",
        "once",
    ),
    (
        "  failover: {mode: Pinned, pin: US_EAST}",
        "spec.failover.pin",
        "not a valid",
        "",
    ),
    (
        "  outlierDetection: {baseEjection: 10m}",
        "spec.outlierDetection.baseEjection",
        "longer than the longest",
        "raise `maxEjection`",
    ),
    (
        "  healthChecks: [{port: 80}]",
        "spec.healthChecks[0]",
        "exactly one question",
        "http",
    ),
    (
        "  healthChecks: [{http: {path: healthz}}]",
        "spec.healthChecks[0].http.path",
        "not a path",
        "begin it with `/`",
    ),
    (
        "  healthChecks: [{http: {path: /, statuses: [\"9\"]}}]",
        "spec.healthChecks[0].http.statuses[0]",
        "range of statuses",
        "200-299",
    ),
    (
        "  healthChecks: [{http: {path: /, body: \"(\"}}]",
        "spec.healthChecks[0].http.body",
        "no regular expression",
        "RE2",
    ),
];

#[test]
fn each_mistake_is_told_with_its_place_and_a_remedy() {
    for (body, place, message, remedy) in MISTAKES {
        let (_, problems) = read_policy(body);
        assert_eq!(problems.len(), 1, "{body}: {problems:#?}");
        for part in [place, message, remedy, &"p.yaml:"] {
            assert!(
                problems[0].contains(part),
                "no `{part}` in `{}`",
                problems[0]
            );
        }
    }
}
