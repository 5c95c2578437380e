//! Whom the next try goes to. The decisions are policy's; this hands it what the worker knows.

use std::rc::Rc;
use std::time::Duration;

use portolan_model::snapshot::Mesh;
use portolan_model::{ClusterName, Endpoint, Hop, Reason, Refusal};
use portolan_policy::blame;
use portolan_policy::breaker::Bound;
use portolan_policy::failover::{self, Candidate};
use portolan_policy::route::Route;
use portolan_policy::session::Session;

use super::call::{Call, Tried};
use crate::balancer::{EndpointState, Seen, ServiceState};
use crate::upstreams::{At, Place, Recent, Target};

/// Whom a try goes to.
pub(super) struct Choice {
    pub(super) target: Rc<Target>,
    /// The endpoint's records; `None` for another cluster.
    pub(super) endpoint: Option<Rc<EndpointState>>,
    /// How long a connection may take.
    pub(super) patience: Duration,
    /// Whether somebody else, who was not tried, could serve as well.
    pub(super) alternative: bool,
}

/// Chooses for a request.
///
/// # Errors
/// When nobody could serve.
pub(super) fn choose(call: &Call<'_>) -> Result<Choice, Refusal> {
    let Some(mesh) = &call.snapshot.mesh else {
        return Err(Refusal::new(
            Reason::NotReady,
            Hop::Outbound,
            "no snapshot has arrived yet",
        ));
    };
    let facts = Facts {
        route: &call.route,
        mesh,
        service: &call.service,
        seen: call.worker.balancer.seen(),
        recent: &call.worker.upstreams.recent,
        key: call.key,
    };
    choose_from(&facts, &mut call.tried.borrow_mut())
}

/// What a choice is made from.
pub(super) struct Facts<'a> {
    pub(super) route: &'a Route,
    pub(super) mesh: &'a Mesh,
    pub(super) service: &'a ServiceState,
    pub(super) seen: Seen<'a>,
    pub(super) recent: &'a Recent,
    /// What endpoints are chosen by, where the policy hashes.
    pub(super) key: Option<u64>,
}

/// Chooses a place that was not tried; when everybody was, anybody.
///
/// # Errors
/// When nobody could serve.
pub(super) fn choose_from(facts: &Facts<'_>, tried: &mut Tried) -> Result<Choice, Refusal> {
    let Facts {
        route, mesh, seen, ..
    } = *facts;
    let candidates = failover::candidates(route, mesh, &seen);
    if let Some(choice) = kept_together(facts, tried, &candidates) {
        return Ok(choice);
    }
    // Each turn either chooses, leaves a cluster out, or begins again, which it does once.
    for _ in 0..=candidates.len() + 2 {
        let chosen = failover::choose_cluster(&candidates, &tried.clusters, rand::random());
        let Some(candidate) = chosen else {
            if tried.clusters.is_empty() && tried.endpoints.is_empty() {
                break;
            }
            tried.begin_again();
            continue;
        };
        if !candidate.health.own {
            if let Some(choice) = elsewhere(facts, candidate, &candidates, tried) {
                return Ok(choice);
            }
        } else if let Some(mut choice) = own_cluster(facts, tried) {
            choice.alternative |= alternative(candidate, &candidates, tried);
            return Ok(choice);
        }
        tried.clusters.push(candidate.cluster.clone());
    }
    if tried.full {
        let why = format!(
            "every endpoint of {} has as many requests as it may",
            route.destination
        );
        return Err(Refusal::new(Reason::Overloaded, Hop::Outbound, why));
    }
    Err(failover::nobody(route))
}

/// Whoever had the client's earlier requests, for the first try and while it can serve.
fn kept_together(facts: &Facts<'_>, tried: &Tried, candidates: &[Candidate]) -> Option<Choice> {
    let Facts { route, seen, .. } = *facts;
    let first = tried.clusters.is_empty() && tried.endpoints.is_empty() && !tried.everybody;
    match route.session.as_ref().filter(|_| first)? {
        Session::Endpoint(workload) => {
            let endpoints = failover::own_endpoints(route, &seen);
            let mut siblings = endpoints.iter();
            let endpoint = siblings.find(|endpoint| &endpoint.workload == workload)?;
            let mut healthy = candidates.iter().filter(|it| it.health.healthy > 0);
            Some(Choice {
                endpoint: Some(seen.endpoint(&endpoint.workload)),
                target: facts.at_endpoint(endpoint),
                patience: route.timeouts.connect_local,
                alternative: endpoints.len() > 1 || healthy.any(|it| !it.health.own),
            })
        }
        Session::Cluster(cluster) => {
            let able = |it: &&Candidate| &it.cluster == cluster && it.health.healthy > 0;
            let candidate = candidates.iter().find(able)?;
            elsewhere(facts, candidate, candidates, tried)
        }
    }
}

impl Tried {
    fn begin_again(&mut self) {
        self.clusters.clear();
        self.endpoints.clear();
        self.everybody = true;
    }
}

fn own_cluster(facts: &Facts<'_>, tried: &mut Tried) -> Option<Choice> {
    let Facts {
        route,
        service,
        seen,
        key,
        ..
    } = *facts;
    let mut endpoints = failover::own_endpoints(route, &seen);
    endpoints.retain(|endpoint| !tried.endpoints.contains(&endpoint.workload));
    if let Some(limit) = route.policy().breaker.requests_per_endpoint {
        let before = endpoints.len();
        endpoints.retain(|endpoint| {
            let state = seen.endpoint(&endpoint.workload);
            state.breaker.in_use(Bound::Requests) < limit
        });
        tried.full |= endpoints.is_empty() && before > 0;
    }
    let endpoint = seen.pick(service, route, &endpoints, key)?;
    Some(Choice {
        endpoint: Some(seen.endpoint(&endpoint.workload)),
        target: facts.at_endpoint(endpoint),
        patience: route.timeouts.connect_local,
        alternative: endpoints.len() > 1,
    })
}

fn elsewhere(
    facts: &Facts<'_>,
    chosen: &Candidate,
    all: &[Candidate],
    tried: &Tried,
) -> Option<Choice> {
    let alternative = alternative(chosen, all, tried);
    let limit = facts.route.timeouts.connect_remote;
    Some(Choice {
        endpoint: None,
        target: facts.at_cluster(&chosen.cluster)?,
        patience: blame::patience(chosen.health.rtt, alternative, limit),
        alternative,
    })
}

impl Facts<'_> {
    /// An endpoint of the own cluster.
    fn at_endpoint(&self, endpoint: &Endpoint) -> Rc<Target> {
        self.target(At::Endpoint(&endpoint.workload), || Place::Endpoint {
            workload: endpoint.workload.clone(),
            inbound: endpoint.inbound,
            identity: endpoint.identity.clone(),
            cluster: self.mesh.cluster.name.clone(),
        })
    }

    /// Another cluster; `None` if it does not serve.
    fn at_cluster(&self, cluster: &ClusterName) -> Option<Rc<Target>> {
        let mut remote = self.route.service.remote.iter();
        let backend = remote.find(|backend| &backend.cluster == cluster)?;
        Some(self.target(At::Cluster(cluster), || Place::Cluster {
            cluster: backend.cluster.clone(),
            identities: backend.identities.clone(),
            ready: backend.ready(),
        }))
    }

    fn target(&self, at: At<'_>, place: impl FnOnce() -> Place) -> Rc<Target> {
        let port = self.route.destination.port;
        let describe = || Target {
            service: self.route.destination.service.clone(),
            port,
            place: place(),
        };
        self.recent.target(&self.route.service, port, at, describe)
    }
}

/// Whether another cluster, that was not tried, could serve.
fn alternative(chosen: &Candidate, all: &[Candidate], tried: &Tried) -> bool {
    all.iter().any(|other| {
        other.cluster != chosen.cluster
            && other.health.healthy > 0
            && !tried.clusters.contains(&other.cluster)
    })
}
