//! What inbound counts.

use std::cell::RefCell;
use std::time::Duration;

use portolan_model::snapshot::Snapshot;
use portolan_model::{ClusterName, IdentityKind, Reason, Refusal, SpiffeId};
use portolan_runtime::telemetry;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use smallvec::SmallVec;

use crate::metrics::class;
use crate::sessions::Facts;

/// Counts and times everything that arrives. Clones count together.
#[derive(Debug, Clone)]
pub struct InboundMetrics {
    requests: Family<RequestLabels, Counter>,
    duration: Family<ServiceLabels, Histogram, fn() -> Histogram>,
    refusals: Family<RefusalLabels, Counter>,
    connections: Gauge,
    bytes: Family<BytesLabels, Counter>,
    revoked: Counter,
    limited: Family<LimitLabels, Counter>,
    faults: Family<FaultLabels, Counter>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LimitLabels {
    limit: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FaultLabels {
    fault: String,
    kind: &'static str,
}

/// Which calls are counted together.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    source: String,
    source_cluster: String,
    destination: String,
    code: &'static str,
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ServiceLabels {
    destination: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RefusalLabels {
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BytesLabels {
    destination: String,
    direction: &'static str,
}

impl InboundMetrics {
    /// Puts the metrics into the process's registry. Call it once per process.
    #[must_use]
    pub fn register(metrics: &portolan_runtime::Metrics) -> Self {
        let own = Self::unregistered();
        metrics.register(|registry| {
            let registry = registry.sub_registry_with_prefix("inbound");
            registry.register(
                "requests",
                "Requests answered, by caller, service and outcome",
                own.requests.clone(),
            );
            registry.register(
                "request_duration_seconds",
                "From a request's head to its answer's head",
                own.duration.clone(),
            );
            registry.register(
                "refusals",
                "Requests and connections refused, by reason",
                own.refusals.clone(),
            );
            registry.register("connections", "Live connections", own.connections.clone());
            registry.register(
                "bytes",
                "Opaque bytes carried, by service and direction",
                own.bytes.clone(),
            );
            registry.register(
                "revoked_connections",
                "Connections ended because what had allowed them is gone",
                own.revoked.clone(),
            );
            registry.register(
                "limited",
                "Requests and connections above a limit, by limit",
                own.limited.clone(),
            );
            registry.register(
                "faults",
                "Requests that met a drill, by fault and what it did",
                own.faults.clone(),
            );
        });
        own
    }

    pub(super) fn unregistered() -> Self {
        // 0.5 ms to 16 s.
        let duration = || Histogram::new(telemetry::doubling(0.000_5, 16));
        Self {
            requests: Family::default(),
            duration: Family::new_with_constructor(duration),
            refusals: Family::default(),
            connections: Gauge::default(),
            bytes: Family::default(),
            revoked: Counter::default(),
            limited: Family::default(),
            faults: Family::default(),
        }
    }

    pub(super) fn refused(&self, refusal: &Refusal) {
        let reason = refusal.reason.as_str();
        self.refusals.get_or_create(&RefusalLabels { reason }).inc();
    }

    pub(super) fn limited(&self, limit: &str) {
        let limit = limit.to_owned();
        self.limited.get_or_create(&LimitLabels { limit }).inc();
    }

    /// `kind`: `delay` or `abort`.
    pub(super) fn fault(&self, fault: &str, kind: &'static str) {
        let fault = fault.to_owned();
        self.faults
            .get_or_create(&FaultLabels { fault, kind })
            .inc();
    }

    pub(super) fn revoked(&self, count: usize) {
        self.revoked.inc_by(count as u64);
    }

    pub(super) fn carried(&self, facts: &Facts, to_app: u64, from_app: u64) {
        for (direction, count) in [("to_app", to_app), ("from_app", from_app)] {
            let destination = facts.service.to_string();
            let labels = BytesLabels {
                destination,
                direction,
            };
            self.bytes.get_or_create(&labels).inc_by(count);
        }
    }

    /// The counters for one connection, found once instead of for each request.
    pub(super) fn connection(&self, facts: &Facts, snapshot: &Snapshot) -> ConnectionMetrics {
        self.connections.inc();
        let destination = facts.service.to_string();
        let place = ServiceLabels {
            destination: destination.clone(),
        };
        ConnectionMetrics {
            duration: self.duration.get_or_create(&place).clone(),
            requests: self.requests.clone(),
            connections: self.connections.clone(),
            known: RefCell::default(),
            labels: RequestLabels {
                source: source(&facts.caller),
                source_cluster: source_cluster(&facts.caller, snapshot),
                destination,
                code: "",
                reason: "",
            },
        }
    }
}

/// A status's class, and the reason of a refusal.
type Outcome = (&'static str, &'static str);

/// The counters of one connection.
#[derive(Debug)]
pub(super) struct ConnectionMetrics {
    requests: Family<RequestLabels, Counter>,
    duration: Histogram,
    connections: Gauge,
    /// Counters by code and reason. A connection sees few.
    known: RefCell<SmallVec<[(Outcome, Counter); 2]>>,
    labels: RequestLabels,
}

impl ConnectionMetrics {
    pub(super) fn answered(&self, status: u16, refused: Option<Reason>, after: Duration) {
        self.duration.observe(after.as_secs_f64());
        let wanted = (class(status), refused.map_or("", Reason::as_str));
        let mut known = self.known.borrow_mut();
        if let Some((_, counter)) = known.iter().find(|(known, _)| *known == wanted) {
            counter.inc();
            return;
        }
        let mut labels = self.labels.clone();
        (labels.code, labels.reason) = wanted;
        let counter = self.requests.get_or_create(&labels).clone();
        counter.inc();
        known.push((wanted, counter));
    }
}

impl Drop for ConnectionMetrics {
    fn drop(&mut self) {
        self.connections.dec();
    }
}

/// The caller as `namespace/service account`, or its path if it is no workload.
fn source(caller: &SpiffeId) -> String {
    match caller.kind() {
        IdentityKind::Workload {
            namespace,
            service_account,
        } => format!("{namespace}/{service_account}"),
        IdentityKind::Control { .. }
        | IdentityKind::Gateway { .. }
        | IdentityKind::Authority
        | IdentityKind::Other => caller.path().to_owned(),
    }
}

/// The cluster whose trust domain the caller's certificate is of.
fn source_cluster(caller: &SpiffeId, snapshot: &Snapshot) -> String {
    let domain = caller.trust_domain();
    let own = snapshot.mesh.as_ref().map(|mesh| &mesh.cluster);
    let own = own.filter(|own| &own.trust_domain == domain);
    let peer = || Some(&snapshot.peer_by_trust_domain(domain)?.name);
    let found = own.map(|own| &own.name).or_else(peer);
    found.map_or_else(|| "unknown".to_owned(), ClusterName::to_string)
}
