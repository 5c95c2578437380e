//! What outbound counts.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

use foldhash::HashMap;
use portolan_model::{ClusterName, Reason, ServiceKey};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};

/// Counts what the workload calls. Clones count together.
#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    source: Arc<str>,
    source_cluster: Arc<str>,
    requests: Family<RequestLabels, Counter>,
    duration: Family<ServiceLabels, Histogram, fn() -> Histogram>,
    retries: Family<ServiceLabels, Counter>,
    ejections: Family<EjectionLabels, Counter>,
    connects: Family<ConnectLabels, Counter>,
    /// Connections that the app holds open to us.
    pub(crate) clients: Gauge,
    /// Connections that we hold open to other sidecars.
    pub(crate) upstreams: Gauge,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    direction: &'static str,
    source: Arc<str>,
    source_cluster: Arc<str>,
    destination: Arc<str>,
    destination_cluster: Arc<str>,
    code: &'static str,
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ServiceLabels {
    direction: &'static str,
    destination: Arc<str>,
    destination_cluster: Arc<str>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EjectionLabels {
    kind: &'static str,
    cause: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ConnectLabels {
    destination_cluster: Arc<str>,
    result: &'static str,
}

/// What one request's labels are made of. Services that don't exist count as one, so that names
/// that clients make up don't become series.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Counted {
    pub(crate) service: Option<ServiceKey>,
    pub(crate) cluster: Option<ClusterName>,
    pub(crate) class: &'static str,
    pub(crate) reason: Option<Reason>,
}

impl Metrics {
    /// Puts the metrics into the process's registry. Call it once per process.
    pub(crate) fn register(
        metrics: &portolan_runtime::Metrics,
        source: &str,
        source_cluster: &ClusterName,
    ) -> Self {
        // 0.5 ms to 16 s.
        let duration = || Histogram::new(exponential_buckets(0.000_5, 2.0, 16));
        let own = Self {
            source: source.into(),
            source_cluster: source_cluster.as_str().into(),
            requests: Family::default(),
            duration: Family::new_with_constructor(duration),
            retries: Family::default(),
            ejections: Family::default(),
            connects: Family::default(),
            clients: Gauge::default(),
            upstreams: Gauge::default(),
        };
        metrics.register(|registry| {
            registry.register(
                "requests",
                "Requests and connections that are over",
                own.requests.clone(),
            );
            registry.register(
                "request_duration_seconds",
                "From a request's head to its answer's head",
                own.duration.clone(),
            );
            registry.register("retries", "Tries after the first", own.retries.clone());
            registry.register(
                "ejections",
                "Endpoints, clusters and gateways left alone",
                own.ejections.clone(),
            );
            registry.register(
                "upstream_connects",
                "Connections dialled",
                own.connects.clone(),
            );
            registry.register(
                "client_connections",
                "Connections that the app holds",
                own.clients.clone(),
            );
            registry.register(
                "upstream_connections",
                "Connections to other sidecars",
                own.upstreams.clone(),
            );
        });
        own
    }

    /// Something was ejected.
    pub(crate) fn ejected(&self, kind: &'static str, cause: &'static str) {
        self.ejections
            .get_or_create(&EjectionLabels { kind, cause })
            .inc();
    }

    /// A dial ended, well (`None`) or not.
    pub(crate) fn dialled(&self, cluster: &ClusterName, failure: Option<Reason>) {
        let labels = ConnectLabels {
            destination_cluster: cluster.as_str().into(),
            result: failure.map_or("ok", Reason::as_str),
        };
        self.connects.get_or_create(&labels).inc();
    }
}

/// Which service in which cluster.
type Place = (Option<ServiceKey>, Option<ClusterName>);

/// The counters that one worker has found already.
#[derive(Debug)]
pub(crate) struct Counters {
    metrics: Metrics,
    requests: RefCell<HashMap<Counted, Counter>>,
    services: RefCell<HashMap<Place, (Histogram, Counter)>>,
}

impl Counters {
    pub(crate) fn new(metrics: Metrics) -> Self {
        Self {
            metrics,
            requests: RefCell::default(),
            services: RefCell::default(),
        }
    }

    /// A request is over. `headers_after`: when the answer's head came.
    pub(crate) fn request(&self, counted: Counted, headers_after: Duration, retries: u64) {
        let place = (counted.service.clone(), counted.cluster.clone());
        let mut services = self.services.borrow_mut();
        let (duration, retried) = services
            .entry(place)
            .or_insert_with_key(|(service, cluster)| {
                let labels = self.service_labels(service.as_ref(), cluster.as_ref());
                let duration = self.metrics.duration.get_or_create(&labels).clone();
                (
                    duration,
                    self.metrics.retries.get_or_create(&labels).clone(),
                )
            });
        duration.observe(headers_after.as_secs_f64());
        if retries > 0 {
            retried.inc_by(retries);
        }
        let mut requests = self.requests.borrow_mut();
        let counter = requests.entry(counted).or_insert_with_key(|counted| {
            let labels = self.request_labels(counted);
            self.metrics.requests.get_or_create(&labels).clone()
        });
        counter.inc();
    }

    /// Forgets what it has found, so that services that are gone don't stay in memory.
    pub(crate) fn forget(&self) {
        self.requests.borrow_mut().clear();
        self.services.borrow_mut().clear();
    }

    fn service_labels(
        &self,
        service: Option<&ServiceKey>,
        cluster: Option<&ClusterName>,
    ) -> ServiceLabels {
        ServiceLabels {
            direction: "outbound",
            destination: service.map_or_else(|| "unknown".into(), |key| key.to_string().into()),
            destination_cluster: cluster.map_or("", ClusterName::as_str).into(),
        }
    }

    fn request_labels(&self, counted: &Counted) -> RequestLabels {
        let place = self.service_labels(counted.service.as_ref(), counted.cluster.as_ref());
        RequestLabels {
            direction: place.direction,
            source: Arc::clone(&self.metrics.source),
            source_cluster: Arc::clone(&self.metrics.source_cluster),
            destination: place.destination,
            destination_cluster: place.destination_cluster,
            code: counted.class,
            reason: counted.reason.map_or("", Reason::as_str),
        }
    }
}

/// A status's class, as metrics name it; `none` for opaque connections and requests that the client
/// gave up.
pub(crate) fn class(status: u16) -> &'static str {
    match status / 100 {
        0 => "none",
        1 => "1xx",
        2 => "2xx",
        3 => "3xx",
        4 => "4xx",
        _ => "5xx",
    }
}
