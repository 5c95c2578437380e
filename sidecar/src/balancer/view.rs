//! What a worker has learned, for whoever asks: policy, and the admin port.

use std::rc::Rc;
use std::time::Duration;

use portolan_model::{ClusterName, ServiceKey, WorkloadKey};
use portolan_policy::failover::HealthView;

use super::state::ClusterState;
use super::{Balancer, EndpointState};

/// What a worker has learned, at one moment: reading the clock takes longer than most answers.
#[derive(Clone, Copy)]
pub(crate) struct Seen<'a> {
    pub(super) balancer: &'a Balancer,
    pub(super) now: Duration,
}

impl Balancer {
    /// What is known now.
    pub(crate) fn seen(&self) -> Seen<'_> {
        Seen {
            balancer: self,
            now: self.now(),
        }
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

    /// Calls `each` with every cluster that a call could have gone to, which part of its share it has, and
    /// how long its answers take.
    pub(crate) fn for_clusters(
        &self,
        mut each: impl FnMut(&ServiceKey, &ClusterName, f64, Option<Duration>),
    ) {
        let now = self.now();
        for (service, state) in &*self.services.borrow() {
            for (cluster, state) in &*state.clusters.borrow() {
                each(service, cluster, state.regained, state.ewma.latency(now));
            }
        }
    }
}

impl Seen<'_> {
    /// The records of an endpoint.
    pub(crate) fn endpoint(&self, workload: &WorkloadKey) -> Rc<EndpointState> {
        self.balancer.endpoint(workload)
    }
}

impl HealthView for Seen<'_> {
    fn endpoint_ejected(&self, workload: &WorkloadKey) -> bool {
        let endpoints = self.balancer.endpoints.borrow();
        let state = endpoints.get(workload);
        state.is_some_and(|state| state.outlier.borrow().ejected(self.now))
    }

    fn cluster_ejected(&self, service: &ServiceKey, cluster: &ClusterName) -> bool {
        let services = self.balancer.services.borrow();
        services.get(service).is_some_and(|state| {
            let clusters = state.clusters.borrow();
            clusters
                .get(cluster)
                .is_some_and(|state| state.outlier.ejected(self.now))
        })
    }

    fn regained(
        &self,
        service: &ServiceKey,
        cluster: &ClusterName,
        available: bool,
        over: Duration,
    ) -> f64 {
        let observed = self.balancer.with_cluster(service, cluster, |state| {
            state.regained = state.regain.observe(available, self.now, over);
            state.regained
        });
        observed.unwrap_or(1.0)
    }

    fn latency(&self, service: &ServiceKey, cluster: &ClusterName) -> Option<Duration> {
        let of_state = |state: &mut ClusterState| state.ewma.latency(self.now);
        self.balancer.with_cluster(service, cluster, of_state)?
    }
}
