//! Which traffic policy counts for a call.

use std::sync::LazyLock;
use std::time::Duration;

use portolan_model::snapshot::{Scope, Service};
use portolan_model::traffic::{
    Algorithm, ClusterOrder, HashKey, HashOn, Retries, TrafficPolicy, TrafficTimeouts,
};

use crate::retry::RetryPolicy;
use crate::route::{Route, Timeouts};

static DEFAULT: LazyLock<TrafficPolicy> = LazyLock::new(TrafficPolicy::default);

/// The policy for calls to a port of a service by names of one scope; the defaults where none is declared.
#[must_use]
pub fn policy<'a>(service: &'a Service, scope: &Scope, port: u16) -> &'a TrafficPolicy {
    let declared = service.traffic.policy(scope.face(), port);
    declared.unwrap_or_else(|| &DEFAULT)
}

impl Route {
    /// The policy that counts for the call.
    #[must_use]
    pub fn policy(&self) -> &TrafficPolicy {
        let destination = &self.destination;
        policy(&self.service, &destination.scope, destination.port)
    }
}

impl From<&Retries> for RetryPolicy {
    fn from(declared: &Retries) -> Self {
        Self {
            attempts: declared.attempts,
            backoff_least: Duration::ZERO,
            backoff_base: declared.backoff_base,
            backoff_max: declared.backoff_max,
            statuses: declared.statuses.iter().copied().collect(),
            grpc_statuses: declared.grpc_statuses.iter().copied().collect(),
            per_try_timeout: declared.per_try_timeout,
        }
    }
}

impl From<&TrafficTimeouts> for Timeouts {
    fn from(declared: &TrafficTimeouts) -> Self {
        Self {
            connect_local: declared.connect_local,
            connect_remote: declared.connect_remote,
            response_headers: declared.response_headers,
            stream_idle: declared.stream_idle,
            request: declared.request,
            each_try: None,
        }
    }
}

/// What a policy says that the defaults do not, in words.
#[must_use]
pub fn differences(policy: &TrafficPolicy) -> Vec<String> {
    let usual = &*DEFAULT;
    let mut told = Vec::new();
    let failover = &policy.failover;
    if failover.order != usual.failover.order {
        told.push(order(&failover.order));
    }
    if let Some(enough) = failover.healthy_local_min {
        told.push(format!(
            "{enough} healthy endpoints keep everything in the own cluster"
        ));
    }
    if policy.balancing.algorithm != usual.balancing.algorithm {
        told.push(algorithm(&policy.balancing.algorithm));
    }
    let others = [
        (
            "overprovisioning",
            failover.overprovisioning_percent != usual.failover.overprovisioning_percent,
        ),
        (
            "time to return",
            failover.return_over != usual.failover.return_over,
        ),
        (
            "slow start",
            policy.balancing.slow_start != usual.balancing.slow_start,
        ),
        ("outlier detection", policy.outlier != usual.outlier),
        ("circuit breaker", policy.breaker != usual.breaker),
        ("retries", policy.retries != usual.retries),
        ("hedging", policy.hedging != usual.hedging),
        ("timeouts", policy.timeouts != usual.timeouts),
        ("adaptive concurrency", policy.admission != usual.admission),
        ("health checks", policy.health_checks != usual.health_checks),
    ];
    let changed: Vec<&str> = others
        .iter()
        .filter(|(_, it)| *it)
        .map(|(name, _)| *name)
        .collect();
    if !changed.is_empty() {
        told.push(format!("sets {}", changed.join(", ")));
    }
    if told.is_empty() {
        told.push("nothing but the defaults".to_owned());
    }
    told
}

fn order(order: &ClusterOrder) -> String {
    match order {
        ClusterOrder::Nearest => "nearest cluster first".to_owned(),
        ClusterOrder::Listed(clusters) => {
            let names: Vec<&str> = clusters.iter().map(|it| it.as_str()).collect();
            format!("clusters in the order {}", names.join(", "))
        }
        ClusterOrder::Weighted(weights) => {
            let weights = weights
                .iter()
                .map(|(name, weight)| format!("{name} {weight}"));
            format!(
                "clusters by weight: {}",
                weights.collect::<Vec<_>>().join(", ")
            )
        }
        ClusterOrder::Latency => "the cluster whose answers are fastest".to_owned(),
        ClusterOrder::Pinned(cluster) => format!("only {cluster}"),
    }
}

/// How an endpoint is chosen, in words.
pub(crate) fn algorithm(algorithm: &Algorithm) -> String {
    match algorithm {
        Algorithm::PeakEwma => "the faster of two drawn at random".to_owned(),
        Algorithm::LeastRequest => {
            "the one of two drawn at random with fewer requests under way".to_owned()
        }
        Algorithm::RoundRobin => "one after the other, by weight".to_owned(),
        Algorithm::Random => "any, by weight".to_owned(),
        Algorithm::RingHash(on) => format!("on a hash ring, by {}", keys(on)),
        Algorithm::Maglev(on) => format!("by a Maglev table, by {}", keys(on)),
    }
}

fn keys(on: &HashOn) -> String {
    let name = |key: &HashKey| match key {
        HashKey::Header(name) => format!("header {name}"),
        HashKey::Cookie(name) => format!("cookie {name}"),
        HashKey::Query(name) => format!("query parameter {name}"),
        HashKey::Source => "caller".to_owned(),
    };
    on.keys.iter().map(name).collect::<Vec<_>>().join(", else ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::example;

    #[test]
    fn defaults_are_what_nobody_declared() {
        let of_policy = TrafficPolicy::default();
        assert_eq!(
            RetryPolicy::from(&of_policy.retries),
            RetryPolicy::default()
        );
        assert_eq!(Timeouts::from(&of_policy.timeouts), Timeouts::default());
    }

    #[test]
    fn what_a_policy_changes_is_told_in_words() {
        let mut policy = TrafficPolicy::default();
        assert_eq!(differences(&policy), ["nothing but the defaults"]);
        let weights = [("us-east", 90), ("eu-west", 10)];
        let weights = weights.map(|(name, weight)| (example::cluster(name), weight));
        policy.failover.order = ClusterOrder::Weighted(weights.into());
        policy.balancing.algorithm = Algorithm::Maglev(HashOn {
            keys: vec![HashKey::Header("x-user".to_owned()), HashKey::Source],
        });
        policy.retries.attempts = 0;
        let expected = [
            "clusters by weight: eu-west 10, us-east 90",
            "by a Maglev table, by header x-user, else caller",
            "sets retries",
        ];
        assert_eq!(differences(&policy), expected);
    }

    #[test]
    fn a_port_s_own_policy_goes_before_its_face_s_and_the_set_falls_back_to_the_cluster_s() {
        let named = |name: &str| {
            Some(TrafficPolicy {
                name: name.to_owned(),
                ..TrafficPolicy::default()
            })
        };
        let mut service = example::service(None, vec![]);
        let found =
            |service: &Service, scope: &Scope, port| policy(service, scope, port).name.clone();
        assert_eq!(found(&service, &Scope::Set, 80), "");
        service.traffic.cluster.policy = named("cluster");
        assert_eq!(found(&service, &Scope::Set, 80), "cluster");
        service.traffic.set.policy = named("set");
        service
            .traffic
            .set
            .port_policies
            .extend(named("port").map(|it| (80, it)));
        let pinned = Scope::Pinned(example::cluster("eu-west"));
        assert_eq!(found(&service, &Scope::Cluster, 80), "cluster");
        assert_eq!(found(&service, &pinned, 80), "port");
        assert_eq!(found(&service, &Scope::Set, 81), "set");
    }
}
