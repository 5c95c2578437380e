//! Traffic policies: whom calls to a service go to, how long they may take, what happens when they fail.
//!
//! A [`TrafficPolicySpec`] is what somebody declared: everything it leaves out has the default of
//! [`TrafficPolicy::default`]. Policies travel with the service they are attached to.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::declared::{Face, TargetRef};
use crate::names::ClusterName;
use crate::pattern::Pattern;
use crate::route::Routes;

/// What a declared `TrafficPolicy` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrafficPolicySpec {
    /// What it is attached to.
    pub targets: Vec<TargetRef>,
    /// What it says, defaults filled in.
    pub policy: TrafficPolicy,
}

/// Everything that is declared about the traffic to a service.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Traffic {
    /// For calls by its names in the cluster.
    #[serde(default)]
    pub cluster: Frontend,
    /// For calls by its names in the cluster set.
    #[serde(default)]
    pub set: Frontend,
}

/// What holds for calls to one face of a service.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Frontend {
    /// Where requests go.
    #[serde(default)]
    pub routes: Routes,
    /// How; `None`: the defaults.
    #[serde(default)]
    pub policy: Option<TrafficPolicy>,
    /// Where a port has a policy of its own, by port number.
    #[serde(default)]
    pub port_policies: BTreeMap<u16, TrafficPolicy>,
}

impl Traffic {
    /// What holds for one face.
    #[must_use]
    pub fn frontend(&self, face: Face) -> &Frontend {
        match face {
            Face::Cluster => &self.cluster,
            Face::Set => &self.set,
        }
    }

    /// The policy for calls to a port by a name of one face: the port's own, else the face's, else, for
    /// names of the set, what holds for the Service itself.
    #[must_use]
    pub fn policy(&self, face: Face, port: u16) -> Option<&TrafficPolicy> {
        let of = |face: Face| {
            let frontend = self.frontend(face);
            frontend
                .port_policies
                .get(&port)
                .or(frontend.policy.as_ref())
        };
        match face {
            Face::Cluster => of(Face::Cluster),
            Face::Set => of(Face::Set).or_else(|| of(Face::Cluster)),
        }
    }
}

/// How calls to a service are made.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct TrafficPolicy {
    /// Which declaration says so, as `namespace/name`; empty for the defaults.
    pub name: String,
    /// Which endpoint.
    pub balancing: Balancing,
    /// Which cluster.
    pub failover: Failover,
    /// When who fails is left alone.
    pub outlier: OutlierDetection,
    /// How much may be under way.
    pub breaker: CircuitBreaker,
    /// When to try again.
    pub retries: Retries,
    /// Whether a slow request is sent a second time while the first is under way; opt-in.
    pub hedging: Option<Hedging>,
    /// How long to wait.
    pub timeouts: TrafficTimeouts,
    /// Whether the sidecars beside the service's apps refuse what those cannot take; opt-in.
    pub admission: Option<AdaptiveConcurrency>,
    /// How sidecars look after their apps.
    pub health_checks: Vec<HealthCheck>,
}

/// Which endpoint of the chosen cluster takes a call.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Balancing {
    /// How it is chosen.
    pub algorithm: Algorithm,
    /// For how long a new endpoint's share grows; `None`: it has it at once.
    pub slow_start: Option<SlowStart>,
}

/// How an endpoint is chosen.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Algorithm {
    /// The faster of two drawn at random, by peak-sensitive moving average of latency.
    #[default]
    PeakEwma,
    /// The one of two drawn at random with fewer requests under way.
    LeastRequest,
    /// One after the other, by weight.
    RoundRobin,
    /// Any, by weight.
    Random,
    /// The same for the same key, on a ring (ketama); few keys move when endpoints come and go.
    RingHash(HashOn),
    /// The same for the same key, by a Maglev table: more even, and moves a few more.
    Maglev(HashOn),
}

/// What a request is hashed on: the first that it has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HashOn {
    /// In this order. A request that has none of them goes to any endpoint.
    pub keys: Vec<HashKey>,
}

/// A property of a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum HashKey {
    /// A header's value, by lower-case name.
    Header(String),
    /// A cookie's value.
    Cookie(String),
    /// The caller's address, and for calls that our sidecar sends, the workload itself.
    Source,
    /// A query parameter's value.
    Query(String),
}

/// How a new endpoint's share grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlowStart {
    /// Until it has its whole share.
    pub window: Duration,
    /// The least share, in percent.
    pub least_percent: u32,
}

/// Which cluster takes a call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failover {
    /// In which order, or with which shares.
    pub order: ClusterOrder,
    /// How much more than its share a healthy endpoint is trusted to carry, in percent.
    pub overprovisioning_percent: u32,
    /// With so many healthy endpoints the own cluster takes everything; with fewer its share falls in
    /// proportion. `None`: it is judged like the others.
    pub healthy_local_min: Option<u32>,
    /// How long a cluster that came back takes to get its whole share again.
    pub return_over: Duration,
}

/// In which order clusters are asked.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ClusterOrder {
    /// The own one, then the region's, then by measured round trip.
    #[default]
    Nearest,
    /// As listed; what is not listed comes after, nearest first.
    Listed(Vec<ClusterName>),
    /// In these shares, among those that can take calls; what is not listed only when none of them can.
    Weighted(BTreeMap<ClusterName, u32>),
    /// By measured latency of answers, wherever that is least.
    Latency,
    /// Only this one.
    Pinned(ClusterName),
}

impl Default for Failover {
    fn default() -> Self {
        Self {
            order: ClusterOrder::default(),
            overprovisioning_percent: 140,
            healthy_local_min: None,
            return_over: Duration::from_secs(10),
        }
    }
}

/// When an endpoint or cluster that fails is left alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutlierDetection {
    /// Whether at all.
    pub enabled: bool,
    /// Failed answers in a row that eject.
    pub consecutive_failures: u32,
    /// The first ejection; the n-th takes n times as long.
    pub base_ejection: Duration,
    /// The longest ejection.
    pub ejection_max: Duration,
    /// How many of the endpoints may be ejected at once, in percent.
    pub ejected_percent_max: u32,
    /// Ejects whoever succeeds much less often than its siblings.
    pub success_rate: Option<SuccessRate>,
    /// Ejects whoever is much slower than its siblings.
    pub latency: Option<LatencyOutlier>,
}

/// Ejection by success rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SuccessRate {
    /// Over how long it is counted.
    pub interval: Duration,
    /// With fewer requests in that time nobody is judged.
    pub requests_min: u32,
    /// How many standard deviations below the mean eject, in thousandths.
    pub deviations_milli: u32,
}

/// Ejection by latency.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LatencyOutlier {
    /// How many times its siblings' median ejects, in percent.
    pub of_median_percent: u32,
    /// Latencies below this never do.
    pub least: Duration,
}

impl Default for OutlierDetection {
    fn default() -> Self {
        Self {
            enabled: true,
            consecutive_failures: 5,
            base_ejection: Duration::from_secs(30),
            ejection_max: Duration::from_secs(300),
            ejected_percent_max: 100,
            success_rate: None,
            latency: None,
        }
    }
}

/// How much may be under way to a service from one sidecar; what is more is refused at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CircuitBreaker {
    /// Connections.
    pub connections: u32,
    /// Requests that wait for a connection.
    pub pending: u32,
    /// How long they wait at most; `None`: as long as connecting may take.
    pub pending_timeout: Option<Duration>,
    /// Requests under way.
    pub requests: u32,
    /// Requests under way to one endpoint.
    pub requests_per_endpoint: Option<u32>,
}

impl Default for CircuitBreaker {
    fn default() -> Self {
        Self {
            connections: 1024,
            pending: 1024,
            pending_timeout: None,
            requests: 1024,
            requests_per_endpoint: None,
        }
    }
}

/// When calls are tried again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retries {
    /// Tries after the first.
    pub attempts: u8,
    /// HTTP statuses after which idempotent calls are tried again.
    pub statuses: Vec<u16>,
    /// gRPC statuses after which calls are tried again, besides `UNAVAILABLE`.
    pub grpc_statuses: Vec<u32>,
    /// The ceiling of the wait before the first retry; it doubles with each further one.
    pub backoff_base: Duration,
    /// The ceiling of every wait.
    pub backoff_max: Duration,
    /// How many retries there may be, in percent of the requests.
    pub budget_percent: u32,
    /// And so many per second besides.
    pub budget_per_second: u32,
    /// How long each try may take until the answer's head.
    pub per_try_timeout: Option<Duration>,
}

impl Default for Retries {
    fn default() -> Self {
        Self {
            attempts: 2,
            statuses: vec![502, 503, 504],
            grpc_statuses: Vec::new(),
            backoff_base: Duration::from_millis(25),
            backoff_max: Duration::from_millis(250),
            budget_percent: 20,
            budget_per_second: 10,
            per_try_timeout: None,
        }
    }
}

/// Second sendings of slow requests, for idempotent calls and within the retry budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hedging {
    /// After how long without an answer's head.
    pub after: Duration,
    /// How many besides the first.
    pub extra_max: u8,
}

/// How a sidecar finds out how many requests at a time its app can take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdaptiveConcurrency {
    /// So many at a time are always let in.
    pub least: u32,
    /// How long answers may take, in percent of the app's own time, before fewer are let in.
    pub tolerance_percent: u32,
    /// How often the app's own time is measured again.
    pub measure_every: Duration,
}

impl Default for AdaptiveConcurrency {
    fn default() -> Self {
        Self {
            least: 3,
            tolerance_percent: 150,
            measure_every: Duration::from_secs(30),
        }
    }
}

/// How long a proxy waits for what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrafficTimeouts {
    /// Until a connection within the cluster stands.
    pub connect_local: Duration,
    /// Until a connection to another cluster stands.
    pub connect_remote: Duration,
    /// From the whole request sent to the answer's head.
    pub response_headers: Duration,
    /// From the request's first byte to the answer's last, all tries included; `None`: no limit.
    pub request: Option<Duration>,
    /// Without a byte in either direction.
    pub stream_idle: Duration,
    /// The age at which a connection takes no more requests; `None`: the proxy's own choice.
    pub connection_age: Option<Duration>,
}

impl Default for TrafficTimeouts {
    fn default() -> Self {
        Self {
            connect_local: Duration::from_secs(1),
            connect_remote: Duration::from_secs(5),
            response_headers: Duration::from_secs(15),
            request: None,
            stream_idle: Duration::from_secs(300),
            connection_age: None,
        }
    }
}

/// How a sidecar looks whether its app can serve.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthCheck {
    /// Which service port; all that the workload serves without it.
    pub port: Option<u16>,
    /// What it asks.
    pub probe: HealthProbe,
    /// How often.
    pub interval: Duration,
    /// How long an answer may take.
    pub timeout: Duration,
    /// Good answers in a row until it counts as healthy again.
    pub healthy_threshold: u32,
    /// Bad ones in a row until it does not.
    pub unhealthy_threshold: u32,
}

/// What a health check asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HealthProbe {
    /// A GET of `path`.
    Http {
        /// The path.
        path: String,
        /// The `Host`.
        host: Option<String>,
        /// Statuses that are good: pairs of first and last.
        statuses: Vec<(u16, u16)>,
        /// What the beginning of the body must match.
        body: Option<Pattern>,
    },
    /// `grpc.health.v1.Health/Check` of a gRPC service; empty for the whole server.
    Grpc {
        /// The gRPC service.
        service: String,
    },
    /// Whether a connection is accepted.
    Tcp,
}
