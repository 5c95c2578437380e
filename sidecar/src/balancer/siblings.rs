//! Comparing a service's endpoints with each other, from time to time.

use std::rc::Rc;
use std::time::Duration;

use portolan_model::WorkloadKey;
use portolan_model::snapshot::{Service, Snapshot};
use portolan_model::traffic::{OutlierDetection, Traffic};
use portolan_policy::outlier::{Cause, Settings, poor, slow};

use super::{Balancer, EndpointState, ServiceState, Subject};

/// How often endpoints are compared where only latency is.
const LATENCY_INTERVAL: Duration = Duration::from_secs(1);

impl Balancer {
    /// Compares the endpoints of each called service whose policy asks for it, when it is time.
    pub(crate) fn compare(&self, snapshot: &Snapshot) {
        let services: Vec<_> = {
            let services = self.services.borrow();
            let called = services.iter().filter_map(|(key, state)| {
                let service = snapshot.services.get(key)?;
                Some((service, Rc::clone(state)))
            });
            called.collect()
        };
        for (service, state) in services {
            if let Some(rules) = comparing(&service.traffic) {
                self.compare_endpoints(service, &state, rules);
            }
        }
    }

    fn compare_endpoints(&self, service: &Service, state: &ServiceState, rules: &OutlierDetection) {
        let now = self.now();
        let rate = rules.success_rate;
        let interval = rate.map_or(LATENCY_INTERVAL, |rate| rate.interval);
        if now.saturating_sub(state.compared.get()) < interval {
            return;
        }
        state.compared.set(now);
        let endpoints: Vec<(&WorkloadKey, Rc<EndpointState>)> = service
            .local
            .iter()
            .flat_map(|local| &local.endpoints)
            .map(|endpoint| (&endpoint.workload, self.endpoint(&endpoint.workload)))
            .filter(|(_, state)| state.ejected_for(now).is_none())
            .collect();
        let tallies: Vec<_> = endpoints.iter().map(|(_, it)| it.tally.take()).collect();
        let latencies: Vec<_> = endpoints
            .iter()
            .map(|(_, it)| it.ewma.borrow().latency(now))
            .collect();
        let poor = rate.map(|rate| poor(&tallies, rate)).unwrap_or_default();
        let slow = rules.latency.map(|rule| slow(&latencies, rule));
        let outliers = poor
            .into_iter()
            .map(|at| (at, Cause::SuccessRate))
            .chain(slow.into_iter().flatten().map(|at| (at, Cause::Latency)));
        for (at, cause) in outliers {
            let Some((workload, state)) = endpoints.get(at) else {
                continue;
            };
            let mut outlier = state.outlier.borrow_mut();
            outlier.judge_by(Settings::from(rules));
            let ejection = outlier.outlies(cause, now);
            drop(outlier);
            if let Some(ejection) = ejection {
                self.tell(Subject::Endpoint(workload), ejection, now);
            }
        }
    }
}

/// The rules by which a service's endpoints are compared, if they are.
fn comparing(traffic: &Traffic) -> Option<&OutlierDetection> {
    let frontends = [&traffic.cluster, &traffic.set];
    let policies = frontends.into_iter().flat_map(|frontend| {
        let of_ports = frontend.port_policies.values();
        frontend.policy.iter().chain(of_ports)
    });
    let mut rules = policies.map(|policy| &policy.outlier);
    rules.find(|it| it.enabled && (it.success_rate.is_some() || it.latency.is_some()))
}
