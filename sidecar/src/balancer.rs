//! What one worker has learned of endpoints, clusters and gateways from the answers it got.

mod pick;
mod siblings;
mod state;
#[cfg(test)]
mod tests;
mod view;

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use foldhash::{HashMap, HashSet};
use portolan_model::snapshot::Snapshot;
use portolan_model::traffic::{OutlierDetection, Traffic, TrafficPolicy};
use portolan_model::{ClusterName, ServiceKey, WorkloadKey};
use portolan_policy::balance::PeakEwma;
use portolan_policy::breaker::Breaker;
use portolan_policy::outlier::{Cause, Ejection, Outlier, Settings};
use portolan_policy::retry::RetryBudget;
use tokio::time::Instant;

use crate::metrics::Metrics;
use crate::worker::{Breakers, Joint};

use state::ClusterState;
pub(crate) use state::{EndpointState, ServiceState, UnderWay};
pub(crate) use view::Seen;

/// The health records and latencies of one worker.
pub(crate) struct Balancer {
    started: Instant,
    metrics: Metrics,
    endpoints: RefCell<HashMap<WorkloadKey, Rc<EndpointState>>>,
    services: RefCell<HashMap<ServiceKey, Rc<ServiceState>>>,
    gateways: RefCell<HashMap<SocketAddr, GatewayState>>,
    /// Bounds the requests to each endpoint in the whole process.
    endpoint_breakers: Breakers<WorkloadKey>,
    /// The ready endpoints of services whose new endpoints begin slowly, as of the last snapshot.
    settled: RefCell<HashMap<ServiceKey, HashSet<WorkloadKey>>>,
    /// Something was ejected since somebody asked.
    news: Cell<bool>,
}

/// What is known of a gateway of the own cluster.
#[derive(Debug, Default)]
struct GatewayState {
    outlier: Outlier,
    /// When an answer came through it last.
    answered: Option<Duration>,
}

/// How a try went, as far as health is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Health {
    /// It answered well.
    Good,
    /// Its answer failed.
    Failed,
    /// It did not accept a connection.
    Unconnected,
    /// The answer says nothing of its health.
    Unknown,
}

/// Who is judged.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Subject<'a> {
    /// An endpoint of the own cluster.
    Endpoint(&'a WorkloadKey),
    /// Another cluster as a backend of a service.
    Cluster(&'a ServiceKey, &'a ClusterName),
    /// A gateway of the own cluster.
    Gateway(SocketAddr),
}

impl Balancer {
    pub(crate) fn new(metrics: Metrics, joint: &Joint) -> Self {
        Self {
            endpoint_breakers: joint.endpoints.clone(),
            settled: RefCell::default(),
            started: joint.started,
            metrics,
            endpoints: RefCell::default(),
            services: RefCell::default(),
            gateways: RefCell::default(),
            news: Cell::new(false),
        }
    }

    /// The moment, as policy counts it.
    pub(crate) fn now(&self) -> Duration {
        self.at(Instant::now())
    }

    /// A moment, as policy counts it.
    pub(crate) fn at(&self, moment: Instant) -> Duration {
        moment.saturating_duration_since(self.started)
    }

    /// The records of an endpoint.
    pub(crate) fn endpoint(&self, workload: &WorkloadKey) -> Rc<EndpointState> {
        if let Some(state) = self.endpoints.borrow().get(workload) {
            return Rc::clone(state);
        }
        let state = Rc::new(EndpointState {
            ewma: RefCell::new(PeakEwma::new(self.now())),
            outlier: RefCell::default(),
            ready: Cell::new(true),
            ready_since: Cell::new(None),
            tally: Cell::default(),
            breaker: self.endpoint_breakers.of(workload),
        });
        let mut endpoints = self.endpoints.borrow_mut();
        endpoints.insert(workload.clone(), Rc::clone(&state));
        state
    }

    /// The records of a service; `bounds` are those of the whole process.
    pub(crate) fn service(
        &self,
        key: &ServiceKey,
        bounds: impl FnOnce() -> (Breaker, Arc<RetryBudget>),
    ) -> Rc<ServiceState> {
        if let Some(state) = self.services.borrow().get(key) {
            return Rc::clone(state);
        }
        let (breaker, budget) = bounds();
        let state = Rc::new(ServiceState {
            clusters: RefCell::default(),
            turns: pick::Turns::default(),
            compared: Cell::new(self.now()),
            breaker,
            budget,
        });
        let mut services = self.services.borrow_mut();
        services.insert(key.clone(), Rc::clone(&state));
        state
    }

    /// Learns how a try went that ended at `now`, by the rules of the policy that counted for it.
    pub(crate) fn record_by(
        &self,
        subject: Subject<'_>,
        health: Health,
        now: Duration,
        rules: &OutlierDetection,
    ) {
        if rules.enabled {
            self.learn(subject, health, now, Some(Settings::from(rules)));
        }
    }

    /// Learns how a try went, by the rules as before.
    pub(crate) fn record(&self, subject: Subject<'_>, health: Health) {
        self.learn(subject, health, self.now(), None);
    }

    fn learn(
        &self,
        subject: Subject<'_>,
        health: Health,
        now: Duration,
        settings: Option<Settings>,
    ) {
        let learn = |outlier: &mut Outlier| {
            if let Some(settings) = settings {
                outlier.judge_by(settings);
            }
            match health {
                Health::Good => {
                    outlier.success(now);
                    None
                }
                Health::Failed => outlier.failure(now),
                Health::Unconnected => outlier.connect_failure(now),
                Health::Unknown => None,
            }
        };
        let ejection = match subject {
            Subject::Endpoint(workload) => {
                let state = self.endpoint(workload);
                state.count(health);
                learn(&mut state.outlier.borrow_mut())
            }
            Subject::Cluster(service, cluster) => {
                let learned = self.with_cluster(service, cluster, |state| {
                    if health == Health::Good {
                        state.answered = Some(now);
                    }
                    learn(&mut state.outlier)
                });
                learned.flatten()
            }
            Subject::Gateway(address) => learn(
                &mut self
                    .gateways
                    .borrow_mut()
                    .entry(address)
                    .or_default()
                    .outlier,
            ),
        };
        if let Some(ejection) = ejection {
            self.tell(subject, ejection, now);
        }
    }

    /// What is known of a cluster as a backend of a service that was called.
    fn with_cluster<T>(
        &self,
        service: &ServiceKey,
        cluster: &ClusterName,
        act: impl FnOnce(&mut ClusterState) -> T,
    ) -> Option<T> {
        let services = self.services.borrow();
        let mut clusters = services.get(service)?.clusters.borrow_mut();
        if let Some(state) = clusters.get_mut(cluster) {
            return Some(act(state));
        }
        let state = clusters.entry(cluster.clone());
        Some(act(state.or_insert_with(|| ClusterState::new(self.now()))))
    }

    /// A cluster answered a call to a service at `now`, after `took`.
    pub(crate) fn answered(
        &self,
        service: &ServiceKey,
        cluster: &ClusterName,
        now: Duration,
        took: Duration,
    ) {
        self.with_cluster(service, cluster, |state| state.ewma.observe(now, took));
    }

    fn tell(&self, subject: Subject<'_>, ejection: Ejection, now: Duration) {
        self.news.set(true);
        let cause = match ejection.cause {
            Cause::Answers => "answers",
            Cause::SuccessRate => "success_rate",
            Cause::Latency => "latency",
            Cause::Connect => "connect",
        };
        let for_ms = ejection.until.saturating_sub(now).as_millis() as u64;
        let (kind, who) = match subject {
            Subject::Endpoint(workload) => ("endpoint", workload.to_string()),
            Subject::Cluster(service, cluster) => ("cluster", format!("{cluster} for {service}")),
            Subject::Gateway(address) => ("gateway", address.to_string()),
        };
        tracing::info!(kind, who, cause, for_ms, "ejected after failures");
        self.metrics.ejected(kind, cause);
    }

    /// Whether a gateway is left alone now.
    pub(crate) fn gateway_ejected(&self, address: SocketAddr) -> bool {
        let gateways = self.gateways.borrow();
        gateways
            .get(&address)
            .is_some_and(|state| state.outlier.ejected(self.now()))
    }

    /// An answer came through a gateway.
    pub(crate) fn gateway_answers(&self, address: SocketAddr) {
        let now = self.now();
        let mut gateways = self.gateways.borrow_mut();
        gateways.entry(address).or_default().answered = Some(now);
    }

    /// The time since an answer came through a gateway.
    pub(crate) fn gateway_answered(&self, address: SocketAddr) -> Option<Duration> {
        let at = self.gateways.borrow().get(&address)?.answered?;
        Some(self.now().saturating_sub(at))
    }

    /// The time since a cluster answered a call of the service.
    pub(crate) fn cluster_answered(
        &self,
        service: &ServiceKey,
        cluster: &ClusterName,
    ) -> Option<Duration> {
        let services = self.services.borrow();
        let clusters = services.get(service)?.clusters.borrow();
        Some(self.now().saturating_sub(clusters.get(cluster)?.answered?))
    }

    /// A new snapshot: forgets who is gone, and readmits who is said to be back.
    pub(crate) fn follow(&self, snapshot: &Snapshot) {
        let now = self.now();
        let mut ready: HashMap<&WorkloadKey, bool> = HashMap::default();
        for service in snapshot.services.values() {
            for endpoint in service.local.iter().flat_map(|local| &local.endpoints) {
                *ready.entry(&endpoint.workload).or_default() |= endpoint.ready;
            }
        }
        self.see_new(snapshot, now);
        self.endpoints.borrow_mut().retain(|workload, state| {
            let Some(ready) = ready.get(workload) else {
                return false;
            };
            if !state.ready.replace(*ready) && *ready {
                state.outlier.borrow_mut().readmit(now);
            }
            true
        });
        self.endpoint_breakers
            .retain(|workload| ready.contains_key(workload));
        self.services.borrow_mut().retain(|key, state| {
            let service = snapshot.services.get(key);
            service.inspect(|service| state.follow(service, snapshot, now));
            service.is_some()
        });
        let gateways = snapshot.mesh.iter().flat_map(|mesh| &mesh.gateways);
        let known: Vec<SocketAddr> = gateways.map(|gateway| gateway.tcp).collect();
        let mut gateways = self.gateways.borrow_mut();
        gateways.retain(|address, _| known.contains(address));
    }

    /// Notes which endpoints became ready since the last snapshot, of services whose policy asks for that.
    fn see_new(&self, snapshot: &Snapshot, now: Duration) {
        let mut settled = self.settled.borrow_mut();
        let before = std::mem::take(&mut *settled);
        for (key, service) in &snapshot.services {
            if !starts_slowly(&service.traffic) {
                continue;
            }
            let endpoints = service.local.iter().flat_map(|local| &local.endpoints);
            let ready = endpoints.filter(|endpoint| endpoint.ready);
            let ready: HashSet<WorkloadKey> = ready.map(|it| it.workload.clone()).collect();
            // Where the policy is new, nobody is.
            if let Some(known) = before.get(key) {
                for workload in ready.difference(known) {
                    self.endpoint(workload).ready_since.set(Some(now));
                }
            }
            settled.insert(key.clone(), ready);
        }
    }

    /// Whether something was ejected since this was asked last.
    pub(crate) fn take_news(&self) -> bool {
        self.news.take()
    }
}

/// Whether any policy of a service lets new endpoints begin slowly.
fn starts_slowly(traffic: &Traffic) -> bool {
    let slow = |policy: &TrafficPolicy| policy.balancing.slow_start.is_some();
    [&traffic.cluster, &traffic.set]
        .into_iter()
        .any(|frontend| {
            let mut policies = frontend
                .policy
                .iter()
                .chain(frontend.port_policies.values());
            policies.any(slow)
        })
}
