//! Why a call goes where it goes, told by the functions that send it there.

mod routing;
mod serving;
#[cfg(test)]
mod tests;
mod view;

use std::net::SocketAddr;

use portolan_model::declared::ExportTo;
use portolan_model::snapshot::{InboundPort, Mesh, Snapshot};
use portolan_model::traffic::Balancing;
use portolan_model::{Refusal, SpiffeId};

use crate::authorize::{self, CallFacts};
use crate::failover::{self, Candidate, HealthView};
use crate::route::{self, Route};
use crate::traffic;

use routing::Decided;
pub use routing::{Asked, BackendView, RuleView};
pub use view::{CandidateView, EndpointView, Explanation, Refused, RetryView, Step, TimeoutsView};

/// Explains what would happen to `GET /` by `caller` to `host`, a name or a virtual IP.
#[must_use]
pub fn explain(
    snapshot: &Snapshot,
    health: &dyn HealthView,
    caller: &SpiffeId,
    host: &str,
    port: Option<u16>,
) -> Explanation {
    explain_request(snapshot, health, caller, (host, port), &Asked::default())
}

/// Explains what would happen to this request by `caller` to a host and port.
#[must_use]
pub fn explain_request(
    snapshot: &Snapshot,
    health: &dyn HealthView,
    caller: &SpiffeId,
    (host, port): (&str, Option<u16>),
    asked: &Asked,
) -> Explanation {
    let mut told = Explanation::unanswered(snapshot, caller, host);
    match (find(snapshot, host, port), &snapshot.mesh) {
        (None, _) => told.step(
            "name",
            format!("`{host}` is not in the mesh: the call is passed through unchanged"),
        ),
        (Some(Err(refusal)), _) => told.refuse("name", refusal),
        (Some(Ok(route)), Some(mesh)) => told.follow(snapshot, &route, asked, mesh, health),
        (Some(Ok(_)), None) => told.step("name", "there is no snapshot yet".to_owned()),
    }
    told.meet(snapshot);
    told
}

fn find(snapshot: &Snapshot, host: &str, port: Option<u16>) -> Option<Result<Route, Refusal>> {
    if let Ok(address) = host.parse::<SocketAddr>() {
        return route::destination_by_address(snapshot, address);
    }
    match host.trim_matches(['[', ']']).parse::<std::net::IpAddr>() {
        Ok(ip) => route::destination_by_address(snapshot, (ip, port.unwrap_or(80)).into()),
        Err(_) => route::destination_by_host(snapshot, host, port),
    }
}

impl Explanation {
    fn follow(
        &mut self,
        snapshot: &Snapshot,
        route: &Route,
        asked: &Asked,
        mesh: &Mesh,
        health: &dyn HealthView,
    ) {
        let destination = &route.destination;
        self.service = Some(destination.service.clone());
        self.scope = Some(destination.scope.clone());
        self.port = Some(destination.port);
        self.protocol = Some(route.protocol);
        self.step(
            "name",
            format!("`{}` means {destination} ({})", self.host, route.protocol),
        );
        if let (Some(name), true) = (&asked.server_name, route.protocol.is_http()) {
            let text =
                format!("the port carries requests, so the server name `{name}` does not count");
            self.step("name", text);
        }
        match routing::decide(snapshot, route, &self.caller, (asked, &self.host)) {
            Ok(Decided::Unrouted) => self.go(route, mesh, health),
            Ok(Decided::Rule(view, backend)) => {
                self.ruled(*view);
                if let Some(backend) = backend {
                    self.go(&backend, mesh, health);
                }
            }
            Err(refusal) => self.refuse("rule", refusal),
        }
    }

    /// What the rule says.
    fn ruled(&mut self, view: RuleView) {
        let mut text = format!("{} {} is for {}", view.kind, view.name, view.matched);
        for filter in &view.filters {
            text.push_str("; it ");
            text.push_str(filter);
        }
        self.step("rule", text);
        let shares = view.backends.iter().map(|backend| {
            let problem = backend.problem.as_ref();
            let problem = problem.map_or(String::new(), |why| format!(" (refused: {why})"));
            format!("{:.1} % to {}{problem}", backend.share * 100.0, backend.to)
        });
        let shares: Vec<String> = shares.collect();
        if !shares.is_empty() {
            self.step("backends", shares.join("; "));
        }
        self.rule = Some(view);
    }

    /// Where calls to the service itself, or to a rule's backend, go.
    fn go(&mut self, route: &Route, mesh: &Mesh, health: &dyn HealthView) {
        self.retry = Some(RetryView::of(route));
        self.timeouts = Some(TimeoutsView::of(route));
        let policy = route.policy();
        let changed = traffic::differences(policy).join("; ");
        if !policy.name.is_empty() {
            self.policy = Some(policy.name.clone());
            self.step(
                "policy",
                format!("TrafficPolicy {}: {changed}", policy.name),
            );
        } else if policy.balancing != Balancing::default() {
            // Nobody declared a policy, and yet it is not the defaults: the compiler made it.
            self.step("policy", format!("session affinity: {changed}"));
        }
        self.endpoints = endpoints(route, health);
        let candidates = failover::candidates(route, mesh, health);
        self.candidates = candidates.iter().map(CandidateView::of).collect();
        let Some(chosen) = failover::choose_cluster(&candidates, &[], 0.0) else {
            return self.refuse("clusters", failover::nobody(route));
        };
        self.chosen = Some(chosen.cluster.clone());
        self.step("clusters", choice(chosen, &candidates));
        self.enter(chosen, route, mesh);
    }

    /// What the call meets where it is served, if that is the own cluster.
    fn meet(&mut self, snapshot: &Snapshot) {
        let own = snapshot.mesh.as_ref().map(|mesh| &mesh.cluster.name);
        if let (Some(service), Some(port), Some(protocol)) =
            (&self.service, self.port, self.protocol)
            && self.refusal.is_none()
            && self.chosen.is_some()
            && self.chosen.as_ref() == own
        {
            let called = (port, protocol);
            let steps = serving::steps(snapshot, &self.caller, service, called);
            self.steps.extend(steps);
        }
    }

    /// What happens in the chosen cluster.
    fn enter(&mut self, chosen: &Candidate, route: &Route, mesh: &Mesh) {
        if !chosen.health.own {
            let gateways = match mesh.gateways.len() {
                0 => "but no gateway of this cluster is alive".to_owned(),
                count => format!("through one of {count} gateways of this cluster"),
            };
            self.step("way", format!("to {}, {gateways}", chosen.cluster));
            return;
        }
        match authorize::authorize(
            mesh,
            CallFacts {
                caller: &self.caller,
                port: &inbound_port(route),
            },
        ) {
            Ok(permit) => self.step("access", format!("allowed by the rule `{}`", permit.rule)),
            Err(refusal) => return self.refuse("access", refusal),
        }
        let eligible = self.endpoints.iter().filter(|it| it.eligible).count();
        let all = self.endpoints.len();
        self.step(
            "endpoints",
            format!(
                "one of {eligible} out of {all} endpoints, {}",
                traffic::algorithm(&route.policy().balancing.algorithm)
            ),
        );
    }
}

/// The port as the serving sidecars will judge it.
fn inbound_port(route: &Route) -> InboundPort {
    let local = route.service.local.as_ref();
    InboundPort {
        service: route.destination.service.clone(),
        port: route.destination.port,
        app_port: route.destination.port,
        protocol: route.protocol,
        exported: local.map_or(ExportTo::Nobody, |local| local.exported.clone()),
    }
}

fn choice(chosen: &Candidate, candidates: &[Candidate]) -> String {
    let mut text = format!(
        "{} takes {:.0} % of the calls: {}",
        chosen.cluster,
        chosen.share * 100.0,
        chosen.why
    );
    for other in candidates {
        if other.cluster != chosen.cluster {
            text.push_str(&format!(
                "; {} {:.0} %: {}",
                other.cluster,
                other.share * 100.0,
                other.why
            ));
        }
    }
    text
}

fn endpoints(route: &Route, health: &dyn HealthView) -> Vec<EndpointView> {
    let eligible = failover::own_endpoints(route, health);
    let local = route.service.local.iter();
    local
        .flat_map(|local| &local.endpoints)
        .filter(|endpoint| endpoint.ports.contains_key(&route.destination.port))
        .map(|endpoint| EndpointView {
            workload: endpoint.workload.clone(),
            inbound: endpoint.inbound,
            weight: endpoint.weight,
            ready: endpoint.ready,
            ejected: health.endpoint_ejected(&endpoint.workload),
            eligible: eligible.iter().any(|it| it.workload == endpoint.workload),
        })
        .collect()
}
