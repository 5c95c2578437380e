//! What one worker has learned of endpoints, clusters and gateways from the answers it got.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use foldhash::HashMap;
use portolan_model::snapshot::{LinkState, Service, Snapshot};
use portolan_model::{ClusterName, ServiceKey, WorkloadKey};
use portolan_policy::balance::PeakEwma;
use portolan_policy::breaker::Breaker;
use portolan_policy::failover::HealthView;
use portolan_policy::outlier::{Cause, Ejection, Outlier};
use portolan_policy::retry::RetryBudget;
use tokio::time::Instant;

use crate::metrics::Metrics;

/// The health records and latencies of one worker.
pub(crate) struct Balancer {
    started: Instant,
    metrics: Metrics,
    endpoints: RefCell<HashMap<WorkloadKey, Rc<EndpointState>>>,
    services: RefCell<HashMap<ServiceKey, Rc<ServiceState>>>,
    gateways: RefCell<HashMap<SocketAddr, GatewayState>>,
    /// Something was ejected since somebody asked.
    news: Cell<bool>,
}

/// What is known of one endpoint of the own cluster.
#[derive(Debug)]
pub(crate) struct EndpointState {
    ewma: RefCell<PeakEwma>,
    outlier: RefCell<Outlier>,
    ready: Cell<bool>,
}

/// What is known of one service.
#[derive(Debug)]
pub(crate) struct ServiceState {
    clusters: RefCell<HashMap<ClusterName, ClusterState>>,
    budget: RefCell<RetryBudget>,
    pub(crate) breaker: Breaker,
}

/// What is known of another cluster as a backend of a service.
#[derive(Debug, Default)]
struct ClusterState {
    outlier: Outlier,
    /// Whether the last snapshot said that it cannot serve.
    gone: bool,
    /// When it answered last.
    answered: Option<Duration>,
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
    pub(crate) fn new(metrics: Metrics) -> Self {
        Self {
            started: Instant::now(),
            metrics,
            endpoints: RefCell::default(),
            services: RefCell::default(),
            gateways: RefCell::default(),
            news: Cell::new(false),
        }
    }

    /// The moment, as policy counts it.
    pub(crate) fn now(&self) -> Duration {
        self.started.elapsed()
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
        });
        let mut endpoints = self.endpoints.borrow_mut();
        endpoints.insert(workload.clone(), Rc::clone(&state));
        state
    }

    /// The records of a service; `breaker` is what bounds it in the whole process.
    pub(crate) fn service(
        &self,
        key: &ServiceKey,
        breaker: impl FnOnce() -> Breaker,
    ) -> Rc<ServiceState> {
        if let Some(state) = self.services.borrow().get(key) {
            return Rc::clone(state);
        }
        let state = Rc::new(ServiceState {
            clusters: RefCell::default(),
            budget: RefCell::default(),
            breaker: breaker(),
        });
        let mut services = self.services.borrow_mut();
        services.insert(key.clone(), Rc::clone(&state));
        state
    }

    /// Learns how a try went.
    pub(crate) fn record(&self, subject: Subject<'_>, health: Health) {
        let now = self.now();
        let learn = |outlier: &mut Outlier| match health {
            Health::Good => {
                outlier.success(now);
                None
            }
            Health::Failed => outlier.failure(now),
            Health::Unconnected => outlier.connect_failure(now),
            Health::Unknown => None,
        };
        let ejection = match subject {
            Subject::Endpoint(workload) => learn(&mut self.endpoint(workload).outlier.borrow_mut()),
            Subject::Cluster(service, cluster) => {
                self.learn_of_cluster(service, cluster, |state| {
                    if health == Health::Good {
                        state.answered = Some(now);
                    }
                    learn(&mut state.outlier)
                })
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

    fn learn_of_cluster(
        &self,
        service: &ServiceKey,
        cluster: &ClusterName,
        learn: impl FnOnce(&mut ClusterState) -> Option<Ejection>,
    ) -> Option<Ejection> {
        let services = self.services.borrow();
        let mut clusters = services.get(service)?.clusters.borrow_mut();
        if let Some(state) = clusters.get_mut(cluster) {
            return learn(state);
        }
        learn(clusters.entry(cluster.clone()).or_default())
    }

    fn tell(&self, subject: Subject<'_>, ejection: Ejection, now: Duration) {
        self.news.set(true);
        let cause = match ejection.cause {
            Cause::Answers => "answers",
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
        self.endpoints.borrow_mut().retain(|workload, state| {
            let Some(ready) = ready.get(workload) else {
                return false;
            };
            if !state.ready.replace(*ready) && *ready {
                state.outlier.borrow_mut().readmit(now);
            }
            true
        });
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

    /// Whether something was ejected since this was asked last.
    pub(crate) fn take_news(&self) -> bool {
        self.news.take()
    }

    /// Calls `each` with every endpoint's state.
    pub(crate) fn for_endpoints(&self, mut each: impl FnMut(&WorkloadKey, &EndpointState)) {
        for (workload, state) in &*self.endpoints.borrow() {
            each(workload, state);
        }
    }

    /// Calls `each` with every cluster that is ejected now, and until when.
    pub(crate) fn for_ejected_clusters(
        &self,
        mut each: impl FnMut(&ServiceKey, &ClusterName, Duration),
    ) {
        let now = self.now();
        for (service, state) in &*self.services.borrow() {
            for (cluster, state) in &*state.clusters.borrow() {
                if let Some(until) = state.outlier.ejected_until(now) {
                    each(service, cluster, until.saturating_sub(now));
                }
            }
        }
    }
}

impl HealthView for Balancer {
    fn endpoint_ejected(&self, workload: &WorkloadKey) -> bool {
        let endpoints = self.endpoints.borrow();
        let state = endpoints.get(workload);
        state.is_some_and(|state| state.outlier.borrow().ejected(self.now()))
    }

    fn cluster_ejected(&self, service: &ServiceKey, cluster: &ClusterName) -> bool {
        let services = self.services.borrow();
        services.get(service).is_some_and(|state| {
            let clusters = state.clusters.borrow();
            clusters
                .get(cluster)
                .is_some_and(|state| state.outlier.ejected(self.now()))
        })
    }
}

impl EndpointState {
    /// What one more call would cost.
    pub(crate) fn cost(&self, now: Duration) -> f64 {
        self.ewma.borrow().cost(now)
    }

    /// Calls under way.
    pub(crate) fn outstanding(&self) -> u32 {
        self.ewma.borrow().outstanding()
    }

    /// For how long it is still ejected, if it is.
    pub(crate) fn ejected_for(&self, now: Duration) -> Option<Duration> {
        let until = self.outlier.borrow().ejected_until(now)?;
        Some(until.saturating_sub(now))
    }

    /// A call begins; it ends when the guard is dropped.
    pub(crate) fn begin(self: Rc<Self>) -> UnderWay {
        self.ewma.borrow_mut().begin();
        UnderWay { state: self }
    }
}

impl ServiceState {
    /// Readmits clusters that were gone and are said to be back.
    fn follow(&self, service: &Service, snapshot: &Snapshot, now: Duration) {
        for (cluster, state) in &mut *self.clusters.borrow_mut() {
            let peer = snapshot.mesh.as_ref().and_then(|mesh| mesh.peer(cluster));
            let linked = peer.is_some_and(|peer| peer.link != LinkState::Down);
            let mut backends = service.remote.iter();
            let serving = backends.any(|it| &it.cluster == cluster && it.ready() > 0);
            let gone = !(linked && serving);
            if std::mem::replace(&mut state.gone, gone) && !gone {
                state.outlier.readmit(now);
            }
        }
    }

    /// A request (not a retry) is sent.
    pub(crate) fn request(&self, now: Duration) {
        self.budget.borrow_mut().request(now);
    }

    /// Whether one more retry fits into the budget.
    pub(crate) fn try_retry(&self, now: Duration) -> bool {
        self.budget.borrow_mut().try_retry(now)
    }
}

/// One call to an endpoint, from its sending to the end of its answer.
#[derive(Debug)]
pub(crate) struct UnderWay {
    state: Rc<EndpointState>,
}

impl UnderWay {
    /// The answer's head came, after `rtt`.
    pub(crate) fn answered(&self, now: Duration, rtt: Duration) {
        self.state.ewma.borrow_mut().observe(now, rtt);
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.state.ewma.borrow_mut().abandon();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn balancer() -> Balancer {
        let registry = portolan_runtime::Metrics::new("sidecar");
        let cluster = "us-east".parse().unwrap();
        Balancer::new(Metrics::register(&registry, "shop/frontend", &cluster))
    }

    #[test]
    fn who_does_not_accept_connections_is_ejected_and_an_answer_ends_that() {
        let balancer = balancer();
        let workload: WorkloadKey = "shop/orders-1".parse().unwrap();
        let subject = Subject::Endpoint(&workload);
        balancer.record(subject, Health::Unknown);
        assert!(!balancer.endpoint_ejected(&workload) && !balancer.take_news());
        balancer.record(subject, Health::Unconnected);
        assert!(balancer.endpoint_ejected(&workload));
        assert!(balancer.take_news() && !balancer.take_news());
        balancer.record(subject, Health::Good);
        assert!(!balancer.endpoint_ejected(&workload));
    }

    #[test]
    fn clusters_are_judged_for_each_service_apart() {
        let balancer = balancer();
        let west: ClusterName = "us-west".parse().unwrap();
        let keys = ["shop/orders", "shop/payments"].map(|key| key.parse::<ServiceKey>().unwrap());
        for key in &keys {
            balancer.service(key, Breaker::default);
        }
        balancer.record(Subject::Cluster(&keys[0], &west), Health::Unconnected);
        assert!(balancer.cluster_ejected(&keys[0], &west));
        assert!(!balancer.cluster_ejected(&keys[1], &west));
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
}
