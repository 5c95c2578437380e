//! `TrafficPolicy`.

use std::collections::BTreeMap;

use portolan_model::declared::ResourceKind;
use portolan_model::pattern::PATTERN_MAX;
use schemars::JsonSchema;
use serde_json::Value;

use super::{Port, inlined, specified};

/// The most services of one policy, and the most entries of its lists.
const TARGETS_MAX: usize = 16;
const KEYS_MAX: usize = 8;
const CLUSTERS_MAX: usize = 64;
const STATUSES_MAX: usize = 32;
const CHECKS_MAX: usize = 16;

/// How calls to services are made: whom they go to, how long they may take, what happens when they fail.
#[derive(JsonSchema)]
#[serde(rename_all = "camelCase")]
#[expect(
    dead_code,
    reason = "described, never built: documents are read as JSON values"
)]
struct TrafficPolicySpec {
    /// What it is attached to: services of its own namespace.
    #[schemars(length(min = 1, max = TARGETS_MAX))]
    target_refs: Vec<TargetRef>,
    /// Which endpoint of the own cluster takes a call.
    load_balancing: Option<LoadBalancing>,
    /// Which cluster takes a call.
    failover: Option<Failover>,
    /// When an endpoint or cluster that fails is left alone.
    outlier_detection: Option<OutlierDetection>,
    /// How much may be under way; what is more is refused at once.
    circuit_breaker: Option<CircuitBreaker>,
    /// When a call is tried again.
    retries: Option<Retries>,
    /// Sends a slow idempotent request a second time while the first is under way.
    hedging: Option<Hedging>,
    /// How long to wait.
    timeouts: Option<Timeouts>,
    /// Lets the sidecars beside the service's apps refuse what those cannot take. Off without it.
    adaptive_concurrency: Option<AdaptiveConcurrency>,
    /// How the sidecars beside the service's apps look whether those can serve.
    #[schemars(length(max = CHECKS_MAX))]
    health_checks: Option<Vec<HealthCheck>>,
}

/// What a policy is attached to.
#[derive(JsonSchema)]
#[serde(rename_all = "camelCase")]
#[expect(dead_code, reason = "described, never built")]
struct TargetRef {
    /// `""` for a Service, `multicluster.x-k8s.io` for a ServiceImport; `""` by default.
    group: Option<String>,
    /// `Service` (names in the cluster) or `ServiceImport` (names in the cluster set).
    kind: Option<String>,
    /// The service's name.
    name: String,
    /// One of its ports, by name; all of them without it.
    section_name: Option<String>,
}

/// Which endpoint takes a call.
#[derive(JsonSchema)]
#[serde(rename_all = "camelCase")]
#[expect(dead_code, reason = "described, never built")]
struct LoadBalancing {
    /// How it is chosen, `PeakEwma` by default.
    algorithm: Option<Algorithm>,
    /// What a request is hashed on (`RingHash`, `Maglev`): the first that it has.
    #[schemars(length(min = 1, max = KEYS_MAX))]
    hash_on: Option<Vec<HashKey>>,
    /// How the share of an endpoint grows that became ready.
    slow_start: Option<SlowStart>,
}

#[derive(JsonSchema)]
#[expect(dead_code, reason = "described, never built")]
enum Algorithm {
    PeakEwma,
    LeastRequest,
    RoundRobin,
    Random,
    RingHash,
    Maglev,
}

/// A property of a request: exactly one of these.
#[derive(JsonSchema)]
#[serde(rename_all = "camelCase")]
#[expect(dead_code, reason = "described, never built")]
struct HashKey {
    /// A header's value, by name.
    #[schemars(length(min = 1, max = 256))]
    header: Option<String>,
    /// A cookie's value, by name.
    #[schemars(length(min = 1, max = 256))]
    cookie: Option<String>,
    /// A query parameter's value, by name.
    #[schemars(length(min = 1, max = 256))]
    query: Option<String>,
    /// The calling workload.
    source: Option<bool>,
}

#[derive(JsonSchema)]
#[serde(rename_all = "camelCase")]
#[expect(dead_code, reason = "described, never built")]
struct SlowStart {
    /// Until the endpoint has its whole share, as `30s`.
    window: GoDuration,
    /// The share it begins with, in percent; 10 by default.
    #[schemars(range(min = 1, max = 100))]
    least_percent: Option<u32>,
}

/// Which cluster takes a call.
#[derive(JsonSchema)]
#[serde(rename_all = "camelCase")]
#[expect(dead_code, reason = "described, never built")]
struct Failover {
    /// In which order clusters take calls, `Nearest` by default.
    mode: Option<Mode>,
    /// The clusters in their order, for `mode: Listed`.
    #[schemars(length(min = 1, max = CLUSTERS_MAX))]
    order: Option<Vec<String>>,
    /// The clusters' shares, for `mode: Weighted`: `{us-east: 90, eu-west: 10}`.
    weights: Option<BTreeMap<String, Weight>>,
    /// The only cluster, for `mode: Pinned`.
    pin: Option<String>,
    /// With so many healthy endpoints the own cluster takes everything; with fewer its share falls in
    /// proportion. Without it the own cluster is judged like the others.
    #[schemars(range(min = 1, max = 100_000))]
    min_healthy_local: Option<u32>,
    /// How much more than its share a healthy endpoint is trusted to carry, in percent; 140 by default.
    #[schemars(range(min = 100, max = 1_000))]
    overprovisioning_percent: Option<u32>,
    /// How long a cluster that came back takes to get its whole share again; `10s` by default.
    return_over: Option<GoDuration>,
}

#[derive(JsonSchema)]
#[expect(dead_code, reason = "described, never built")]
enum Mode {
    Nearest,
    Listed,
    Weighted,
    Latency,
    Pinned,
}

#[derive(JsonSchema)]
#[expect(dead_code, reason = "described, never built")]
struct Weight(#[schemars(range(max = 1_000_000))] u32);

#[derive(JsonSchema)]
#[serde(rename_all = "camelCase")]
#[expect(dead_code, reason = "described, never built")]
struct OutlierDetection {
    /// Whether anybody is ejected at all; `true` by default.
    enabled: Option<bool>,
    /// Failed answers in a row that eject; 5 by default.
    #[schemars(range(min = 1, max = 10_000))]
    consecutive_failures: Option<u32>,
    /// How long the first ejection takes, the n-th n times as long; `30s` by default.
    base_ejection: Option<GoDuration>,
    /// The longest ejection; `5m` by default.
    max_ejection: Option<GoDuration>,
    /// How many of the own cluster's endpoints may be ejected at once, in percent, but always one; 100 by
    /// default.
    #[schemars(range(max = 100))]
    max_ejected_percent: Option<u32>,
    /// Ejects endpoints that succeed much less often than their siblings.
    success_rate: Option<SuccessRate>,
    /// Ejects endpoints that are much slower than their siblings.
    latency: Option<LatencyOutlier>,
}

#[derive(JsonSchema)]
#[serde(rename_all = "camelCase")]
#[expect(dead_code, reason = "described, never built")]
struct SuccessRate {
    /// Over how long it is counted; `10s` by default.
    interval: Option<GoDuration>,
    /// Endpoints with fewer requests in that time are not judged; 100 by default.
    #[schemars(range(min = 1))]
    min_requests: Option<u32>,
    /// How many standard deviations below the mean eject, in thousandths; 1900 by default.
    #[schemars(range(max = 100_000))]
    deviations_milli: Option<u32>,
}

#[derive(JsonSchema)]
#[serde(rename_all = "camelCase")]
#[expect(dead_code, reason = "described, never built")]
struct LatencyOutlier {
    /// How many times its siblings' median ejects, in percent; 300 by default.
    #[schemars(range(min = 110, max = 100_000))]
    of_median_percent: Option<u32>,
    /// Latencies below this eject nobody; `10ms` by default.
    least: Option<GoDuration>,
}

#[derive(JsonSchema)]
#[serde(rename_all = "camelCase")]
#[expect(dead_code, reason = "described, never built")]
struct CircuitBreaker {
    /// Open connections to the service; 1024 by default.
    #[schemars(range(min = 1, max = 1_000_000))]
    max_connections: Option<u32>,
    /// Requests that wait for a connection; 1024 by default.
    #[schemars(range(max = 1_000_000))]
    max_pending: Option<u32>,
    /// How long they wait at most; as long as connecting may take by default.
    pending_timeout: Option<GoDuration>,
    /// Requests under way; 1024 by default.
    #[schemars(range(min = 1, max = 1_000_000))]
    max_requests: Option<u32>,
    /// Requests under way to one endpoint of the own cluster; no limit by default.
    #[schemars(range(min = 1, max = 1_000_000))]
    max_requests_per_endpoint: Option<u32>,
}

#[derive(JsonSchema)]
#[serde(rename_all = "camelCase")]
#[expect(dead_code, reason = "described, never built")]
struct Retries {
    /// Tries after the first; 2 by default, 0 for none.
    #[schemars(range(max = 7))]
    attempts: Option<u8>,
    /// HTTP statuses after which idempotent calls are tried again; 502, 503 and 504 by default.
    #[schemars(length(max = STATUSES_MAX))]
    statuses: Option<Vec<Status>>,
    /// gRPC status numbers after which calls are tried again, besides 14 (`UNAVAILABLE`).
    #[schemars(length(max = STATUSES_MAX))]
    grpc_statuses: Option<Vec<GrpcStatus>>,
    /// How long to wait between tries.
    backoff: Option<Backoff>,
    /// How many retries there may be.
    budget: Option<Budget>,
    /// How long each try may take until the answer's head; no limit of its own by default.
    per_try_timeout: Option<GoDuration>,
}

#[derive(JsonSchema)]
#[expect(dead_code, reason = "described, never built")]
struct Status(#[schemars(range(min = 400, max = 599))] u16);

#[derive(JsonSchema)]
#[expect(dead_code, reason = "described, never built")]
struct GrpcStatus(#[schemars(range(min = 1, max = 16))] u32);

#[derive(JsonSchema)]
#[expect(dead_code, reason = "described, never built")]
struct Backoff {
    /// The ceiling of the first wait, which doubles with each; `25ms` by default.
    base: Option<GoDuration>,
    /// The ceiling of every wait; `250ms` by default.
    max: Option<GoDuration>,
}

#[derive(JsonSchema)]
#[serde(rename_all = "camelCase")]
#[expect(dead_code, reason = "described, never built")]
struct Budget {
    /// In percent of the requests of the last ten seconds; 20 by default.
    #[schemars(range(max = 100))]
    percent: Option<u32>,
    /// And so many per second besides; 10 by default.
    #[schemars(range(max = 100_000))]
    per_second: Option<u32>,
}

#[derive(JsonSchema)]
#[serde(rename_all = "camelCase")]
#[expect(dead_code, reason = "described, never built")]
struct Hedging {
    /// After how long without an answer's head the request is sent once more.
    after: GoDuration,
    /// How often besides the first time; 1 by default.
    #[schemars(range(min = 1, max = 3))]
    max_extra: Option<u8>,
}

#[derive(JsonSchema)]
#[serde(rename_all = "camelCase")]
#[expect(dead_code, reason = "described, never built")]
struct Timeouts {
    /// Until a connection within the cluster stands; `1s` by default.
    connect: Option<GoDuration>,
    /// Until a connection to another cluster stands; `5s` by default.
    connect_remote: Option<GoDuration>,
    /// From the whole request sent to the answer's head; `15s` by default.
    response_headers: Option<GoDuration>,
    /// From the request's head to the answer's last byte, all tries included; no limit by default.
    request: Option<GoDuration>,
    /// Without a byte in either direction; `5m` by default.
    idle: Option<GoDuration>,
    /// The age at which a connection takes no more requests; `45m` within the cluster and `5m` to others
    /// by default.
    connection_age: Option<GoDuration>,
}

#[derive(JsonSchema)]
#[serde(rename_all = "camelCase")]
#[expect(dead_code, reason = "described, never built")]
struct AdaptiveConcurrency {
    /// So many requests at a time are always let in; 3 by default.
    #[schemars(range(min = 1, max = 10_000))]
    min_concurrency: Option<u32>,
    /// How long answers may take, in percent of the app's own time, before fewer are let in; 150 by default.
    #[schemars(range(min = 110, max = 10_000))]
    tolerance_percent: Option<u32>,
    /// How often the app's own time is measured again, with few requests under way; `30s` by default.
    measure_every: Option<GoDuration>,
}

#[derive(JsonSchema)]
#[serde(rename_all = "camelCase")]
#[expect(dead_code, reason = "described, never built")]
struct HealthCheck {
    /// Which service port; all that the workload serves without it.
    port: Option<Port>,
    /// Sends a GET and looks at the answer.
    http: Option<HttpProbe>,
    /// Calls `grpc.health.v1.Health/Check`.
    grpc: Option<GrpcProbe>,
    /// Looks whether a connection is accepted.
    tcp: Option<TcpProbe>,
    /// How often; `2s` by default.
    interval: Option<GoDuration>,
    /// How long an answer may take; `1s` by default.
    timeout: Option<GoDuration>,
    /// Good answers in a row until it is healthy again; 1 by default.
    #[schemars(range(min = 1, max = 100))]
    healthy_threshold: Option<u32>,
    /// Bad answers in a row until it is not; 2 by default.
    #[schemars(range(min = 1, max = 100))]
    unhealthy_threshold: Option<u32>,
}

#[derive(JsonSchema)]
#[expect(dead_code, reason = "described, never built")]
struct HttpProbe {
    /// The path, as `/healthz`.
    #[schemars(length(min = 1, max = 1024))]
    path: String,
    /// The `Host`; the app's address by default.
    #[schemars(length(max = 253))]
    host: Option<String>,
    /// Good statuses, as `200` or `200-299`; `200-299` by default.
    #[schemars(length(min = 1, max = STATUSES_MAX))]
    statuses: Option<Vec<String>>,
    /// A regular expression that the body must match.
    #[schemars(length(max = PATTERN_MAX))]
    body: Option<String>,
}

#[derive(JsonSchema)]
#[expect(dead_code, reason = "described, never built")]
struct GrpcProbe {
    /// The gRPC service; the whole server without it.
    #[schemars(length(max = 256))]
    service: Option<String>,
}

#[derive(JsonSchema)]
struct TcpProbe {}

/// A length of time, as `250ms` or `1m30s` (GEP-2257).
#[derive(JsonSchema)]
#[expect(dead_code, reason = "described, never built")]
struct GoDuration(String);

pub(super) fn policy() -> Value {
    specified(ResourceKind::TrafficPolicy, inlined::<TrafficPolicySpec>())
}
