//! What outbound counts.

use std::cell::RefCell;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::Duration;

use foldhash::HashMap;
use portolan_model::{ClusterName, Reason, ServiceKey};
use portolan_runtime::telemetry;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use smallvec::SmallVec;

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

/// Which service in which cluster. Services that don't exist count as one, so that names that clients make
/// up don't become series.
pub(crate) type Place = (Option<ServiceKey>, Option<ClusterName>);

/// How a request ended, as it is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Counted {
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
        let duration = || Histogram::new(telemetry::doubling(0.000_5, 16));
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

/// The counters that one worker has found already.
#[derive(Debug)]
pub(crate) struct Counters {
    metrics: Metrics,
    places: RefCell<HashMap<Place, PlaceCounters>>,
}

#[derive(Debug)]
struct PlaceCounters {
    duration: Histogram,
    retries: Counter,
    /// As many as there are ways to end.
    requests: SmallVec<[(Counted, Counter); 2]>,
}

impl Counters {
    pub(crate) fn new(metrics: Metrics) -> Self {
        Self {
            metrics,
            places: RefCell::default(),
        }
    }

    /// A request is over. `headers_after`: when the answer's head came.
    pub(crate) fn request(
        &self,
        place: Place,
        counted: Counted,
        headers_after: Duration,
        retries: u64,
    ) {
        let mut places = self.places.borrow_mut();
        let mut entry = match places.entry(place) {
            Entry::Occupied(entry) => entry,
            Entry::Vacant(entry) => {
                let counters = self.counters(entry.key());
                entry.insert_entry(counters)
            }
        };
        let mut known = entry.get().requests.iter();
        if !known.any(|(ended, _)| *ended == counted) {
            let labels = self.request_labels(entry.key(), counted);
            let counter = self.metrics.requests.get_or_create(&labels).clone();
            entry.get_mut().requests.push((counted, counter));
        }
        let counters = entry.get();
        counters.duration.observe(headers_after.as_secs_f64());
        if retries > 0 {
            counters.retries.inc_by(retries);
        }
        let mut known = counters.requests.iter();
        if let Some((_, counter)) = known.find(|(ended, _)| *ended == counted) {
            counter.inc();
        }
    }

    /// Forgets what it has found, so that services that are gone don't stay in memory.
    pub(crate) fn forget(&self) {
        self.places.borrow_mut().clear();
    }

    fn counters(&self, (service, cluster): &Place) -> PlaceCounters {
        let labels = self.service_labels(service.as_ref(), cluster.as_ref());
        PlaceCounters {
            duration: self.metrics.duration.get_or_create(&labels).clone(),
            retries: self.metrics.retries.get_or_create(&labels).clone(),
            requests: SmallVec::new(),
        }
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

    /// How requests ended so far: each class, and how often.
    #[cfg(test)]
    pub(crate) fn ended(&self) -> std::collections::BTreeMap<&'static str, u64> {
        let mut ended = std::collections::BTreeMap::new();
        for place in self.places.borrow().values() {
            for (counted, counter) in &place.requests {
                *ended.entry(counted.class).or_default() += counter.get();
            }
        }
        ended
    }

    fn request_labels(&self, (service, cluster): &Place, counted: Counted) -> RequestLabels {
        let place = self.service_labels(service.as_ref(), cluster.as_ref());
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
