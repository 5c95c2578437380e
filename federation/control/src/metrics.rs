//! What the control plane counts.

use std::sync::atomic::AtomicU64;

use portolan_runtime::telemetry;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// One label and its value. Values come from closed or bounded sets: type names, peers, codes.
pub(crate) type Label = [(&'static str, String); 1];

/// A label with its value.
pub(crate) fn label(name: &'static str, value: impl Into<String>) -> Label {
    [(name, value.into())]
}

/// The control plane's metrics. Clones share their values.
#[derive(Debug, Clone)]
pub(crate) struct ControlMetrics {
    /// Seconds from the first event of a turn to its publication.
    pub(crate) reconcile_seconds: Histogram,
    /// Services compiled again.
    pub(crate) recompiled: Counter,
    /// The published generation's counter (without the start count).
    pub(crate) generation: Gauge,
    /// Resources with problems.
    pub(crate) problems: Gauge,
    /// Open discovery streams.
    pub(crate) proxies: Gauge,
    /// Resources that proxies refused, by type.
    pub(crate) nacks: Family<Label, Counter>,
    /// Resources sent, by type.
    pub(crate) resources_sent: Family<Label, Counter>,
    /// 1 while a peer's catalogue is live.
    pub(crate) peer_live: Family<Label, Gauge>,
    /// When a peer's catalogue was last confirmed, in Unix seconds.
    pub(crate) peer_heard: Family<Label, Gauge<f64, AtomicU64>>,
    /// Entries of peers' catalogues that were refused.
    pub(crate) entries_refused: Family<Label, Counter>,
    /// Peering calls that failed, by peer.
    pub(crate) peer_failures: Family<Label, Counter>,
    /// Certificates issued, by kind of identity.
    pub(crate) certificates: Family<Label, Counter>,
    /// Certificates refused.
    pub(crate) certificates_refused: Counter,
    /// Registry operations that failed, by operation.
    pub(crate) registry_errors: Family<Label, Counter>,
}

impl ControlMetrics {
    /// Metrics that nobody reads yet.
    pub(crate) fn new() -> Self {
        Self {
            reconcile_seconds: Histogram::new(telemetry::doubling(0.0001, 16)),
            recompiled: Counter::default(),
            generation: Gauge::default(),
            problems: Gauge::default(),
            proxies: Gauge::default(),
            nacks: Family::default(),
            resources_sent: Family::default(),
            peer_live: Family::default(),
            peer_heard: Family::default(),
            entries_refused: Family::default(),
            peer_failures: Family::default(),
            certificates: Family::default(),
            certificates_refused: Counter::default(),
            registry_errors: Family::default(),
        }
    }

    /// Adds all of them to `registry` under `control_…`; the daemon puts `portolan_` before it.
    pub(crate) fn register(&self, registry: &mut Registry) {
        let of = registry.sub_registry_with_prefix("control");
        of.register(
            "reconcile_seconds",
            "From the first event of a turn to its publication",
            self.reconcile_seconds.clone(),
        );
        of.register(
            "services_recompiled",
            "Services compiled again",
            self.recompiled.clone(),
        );
        of.register(
            "generation",
            "Snapshots published since the start",
            self.generation.clone(),
        );
        of.register(
            "problems",
            "Declarations with problems",
            self.problems.clone(),
        );
        of.register(
            "proxies",
            "Connected discovery streams",
            self.proxies.clone(),
        );
        of.register(
            "nacks",
            "Responses that proxies refused",
            self.nacks.clone(),
        );
        of.register(
            "resources_sent",
            "Discovery resources sent",
            self.resources_sent.clone(),
        );
        self.register_rest(of);
    }

    fn register_rest(&self, of: &mut Registry) {
        of.register(
            "peer_live",
            "1 while the peer's catalogue is live",
            self.peer_live.clone(),
        );
        of.register(
            "peer_heard_timestamp_seconds",
            "When the peer's catalogue last changed or was confirmed",
            self.peer_heard.clone(),
        );
        of.register(
            "catalogue_entries_refused",
            "Entries of peers' catalogues that were refused",
            self.entries_refused.clone(),
        );
        of.register(
            "peer_failures",
            "Peering calls that failed",
            self.peer_failures.clone(),
        );
        of.register(
            "certificates_issued",
            "Certificates issued",
            self.certificates.clone(),
        );
        of.register(
            "certificates_refused",
            "Certificate requests refused",
            self.certificates_refused.clone(),
        );
        of.register(
            "registry_errors",
            "Registry operations that failed",
            self.registry_errors.clone(),
        );
    }

    /// Counts a failed registry operation.
    pub(crate) fn registry_failed(&self, operation: &'static str) {
        self.registry_errors
            .get_or_create(&label("operation", operation))
            .inc();
    }

    /// Says whether a peer's catalogue is live.
    pub(crate) fn peer_is_live(&self, peer: &str, live: bool) {
        self.peer_live
            .get_or_create(&label("peer", peer))
            .set(i64::from(live));
    }
}
