//! Why a call goes where it goes, told by the functions that send it there.

mod routing;
mod serving;

use std::net::SocketAddr;
use std::time::Duration;

use portolan_model::declared::ExportTo;
use portolan_model::snapshot::{InboundPort, LinkState, Mesh, Scope, Snapshot};
use portolan_model::{
    ClusterName, Hop, Protocol, Reason, Refusal, ServiceKey, SpiffeId, WorkloadKey,
};
use serde::{Deserialize, Serialize};

use crate::authorize::{self, CallFacts};
use crate::failover::{self, Candidate, HealthView};
use crate::route::{self, Route};
use crate::traffic;

use routing::Decided;
pub use routing::{Asked, BackendView, RuleView};

/// What would happen to a call.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// Who calls.
    pub caller: SpiffeId,
    /// What was called, as it was written.
    pub host: String,
    /// The snapshot's number.
    pub generation: u64,
    /// The service that it means.
    pub service: Option<ServiceKey>,
    /// How far the call may go.
    pub scope: Option<Scope>,
    /// The service port.
    pub port: Option<u16>,
    /// What is spoken on it.
    pub protocol: Option<Protocol>,
    /// The rule of a declared route that it falls under. With it, what follows is about the largest of the
    /// rule's backends.
    pub rule: Option<RuleView>,
    /// The traffic policy that counts, as `namespace/name`; `None` for the defaults.
    #[serde(default)]
    pub policy: Option<String>,
    /// Why the call would fail, if it would.
    pub refusal: Option<Refused>,
    /// Every cluster that could take the call, nearest first.
    pub candidates: Vec<CandidateView>,
    /// The first of those that would be tried (with a share below 1 only for so many of the calls).
    pub chosen: Option<ClusterName>,
    /// The own cluster's endpoints that serve the port.
    pub endpoints: Vec<EndpointView>,
    /// When the call would be tried again.
    pub retry: Option<RetryView>,
    /// How long each step may take.
    pub timeouts: Option<TimeoutsView>,
    /// The decisions, one after the other, in sentences.
    pub steps: Vec<Step>,
}

/// One decision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// What was decided: `name`, `rule`, `backends`, `policy`, `clusters`, `way`, `access`, `endpoints`.
    pub stage: String,
    /// How, and why so.
    pub text: String,
}

/// A refusal, as callers see it, with its sentence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// The reason's word.
    pub reason: Reason,
    /// The hop's word.
    pub hop: Hop,
    /// The sentence.
    pub detail: String,
}

/// A cluster that could take the call.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CandidateView {
    /// The cluster.
    pub cluster: ClusterName,
    /// Whether it is the caller's own.
    pub own: bool,
    /// Whether it is in the caller's region.
    pub same_region: bool,
    /// Its share of the calls, from 0 to 1.
    pub share: f64,
    /// Which part of its share it has regained since it came back, from 0 to 1.
    #[serde(default = "whole")]
    pub regained: f64,
    /// Why it has this share.
    pub why: String,
    /// Ready endpoints.
    pub ready: u32,
    /// Those of them that calls should go to.
    pub healthy: u32,
    /// All endpoints.
    pub total: u32,
    /// The links to it: `own`, `up`, `down` or `unknown`.
    pub link: String,
    /// The best link's round-trip time in milliseconds.
    pub rtt_ms: Option<f64>,
    /// Whether the caller's proxy ejected it.
    pub ejected: bool,
}

/// An endpoint of the own cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointView {
    /// The workload.
    pub workload: WorkloadKey,
    /// Where its sidecar accepts mutual TLS.
    pub inbound: SocketAddr,
    /// Its share relative to its siblings.
    pub weight: u32,
    /// Whether it is ready.
    pub ready: bool,
    /// Whether the caller's proxy ejected it.
    pub ejected: bool,
    /// Whether calls may go to it now.
    pub eligible: bool,
}

/// When a call is tried again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RetryView {
    /// Tries after the first.
    pub attempts: u8,
    /// Statuses after which idempotent calls are tried again.
    pub statuses: Vec<u16>,
    /// The longest wait between tries, in milliseconds.
    pub backoff_max_ms: u64,
}

/// How long each step may take, in milliseconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TimeoutsView {
    /// A connection within the cluster.
    pub connect_local_ms: u64,
    /// A connection to another cluster.
    pub connect_remote_ms: u64,
    /// Until the response's headers.
    pub response_headers_ms: u64,
    /// Without a byte.
    pub stream_idle_ms: u64,
}

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
    fn unanswered(snapshot: &Snapshot, caller: &SpiffeId, host: &str) -> Self {
        Self {
            caller: caller.clone(),
            host: host.to_owned(),
            generation: snapshot.generation,
            service: None,
            scope: None,
            port: None,
            protocol: None,
            rule: None,
            policy: None,
            refusal: None,
            candidates: Vec::new(),
            chosen: None,
            endpoints: Vec::new(),
            retry: None,
            timeouts: None,
            steps: Vec::new(),
        }
    }

    fn step(&mut self, stage: &str, text: String) {
        let stage = stage.to_owned();
        self.steps.push(Step { stage, text });
    }

    fn refuse(&mut self, stage: &str, refusal: Refusal) {
        self.step(stage, format!("refused: {}", refusal.detail));
        self.refusal = Some(Refused {
            reason: refusal.reason,
            hop: refusal.hop,
            detail: refusal.detail,
        });
    }

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
        if !policy.name.is_empty() {
            self.policy = Some(policy.name.clone());
            let changed = traffic::differences(policy).join("; ");
            self.step(
                "policy",
                format!("TrafficPolicy {}: {changed}", policy.name),
            );
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

fn whole() -> f64 {
    1.0
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

impl CandidateView {
    fn of(candidate: &Candidate) -> Self {
        let health = &candidate.health;
        let link = match (health.own, health.link) {
            (true, _) => "own",
            (false, LinkState::Unknown) => "unknown",
            (false, LinkState::Up { .. }) => "up",
            (false, LinkState::Down) => "down",
        };
        Self {
            cluster: candidate.cluster.clone(),
            own: health.own,
            same_region: health.same_region,
            share: candidate.share,
            regained: health.regained,
            why: if health.regained < 1.0 {
                let percent = health.regained * 100.0;
                format!(
                    "{}; came back, and has {percent:.0} % of its share",
                    candidate.why
                )
            } else {
                candidate.why.to_string()
            },
            ready: health.ready,
            healthy: health.healthy,
            total: health.total,
            link: link.to_owned(),
            rtt_ms: health.rtt.map(|rtt| rtt.as_secs_f64() * 1_000.0),
            ejected: health.ejected,
        }
    }
}

impl RetryView {
    fn of(route: &Route) -> Self {
        Self {
            attempts: route.retry.attempts,
            statuses: route.retry.statuses.to_vec(),
            backoff_max_ms: millis(route.retry.backoff_max),
        }
    }
}

impl TimeoutsView {
    fn of(route: &Route) -> Self {
        Self {
            connect_local_ms: millis(route.timeouts.connect_local),
            connect_remote_ms: millis(route.timeouts.connect_remote),
            response_headers_ms: millis(route.timeouts.response_headers),
            stream_idle_ms: millis(route.timeouts.stream_idle),
        }
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::example;
    use crate::failover::NothingEjected;

    const CALLER: &str = "spiffe://us-east.demo/ns/shop/sa/frontend";

    fn told(snapshot: &Snapshot, host: &str) -> Explanation {
        explain(
            snapshot,
            &NothingEjected,
            &example::spiffe(CALLER),
            host,
            None,
        )
    }

    fn texts(explanation: &Explanation) -> Vec<String> {
        let steps = explanation.steps.iter();
        steps
            .map(|step| format!("{}: {}", step.stage, step.text))
            .collect()
    }

    fn everywhere() -> Snapshot {
        example::snapshot(example::service(
            Some(example::local(1, 2)),
            vec![example::remote("eu-west", 3, 3)],
        ))
    }

    #[test]
    fn it_tells_every_decision_in_order() {
        let explanation = told(&everywhere(), "orders.shop.global");
        assert_eq!(
            texts(&explanation),
            [
                "name: `orders.shop.global` means shop/orders:80 in any cluster (http)",
                "clusters: us-east takes 70 % of the calls: the nearest that can take calls; \
                 eu-west 30 %: nearer clusters cannot take everything",
                "access: allowed by the rule `own-trust-domain`",
                "endpoints: one of 1 out of 2 endpoints, the faster of two drawn at random",
            ]
        );
        assert_eq!(explanation.chosen, Some(example::cluster("us-east")));
        assert_eq!(explanation.candidates[1].rtt_ms, Some(80.0));
        assert_eq!(
            explanation.endpoints.iter().filter(|it| it.ready).count(),
            1
        );
        assert_eq!(explanation.retry.unwrap().attempts, 2);
    }

    #[test]
    fn a_virtual_address_is_explained_like_its_name() {
        let by_address = told(&everywhere(), "240.241.0.2:80");
        assert_eq!(
            by_address.scope,
            Some(Scope::Pinned(example::cluster("eu-west")))
        );
        assert_eq!(
            by_address.steps.last().unwrap().text,
            "to eu-west, but no gateway of this cluster is alive"
        );
    }

    #[test]
    fn refusals_and_strangers_are_told_apart() {
        let unknown = told(&everywhere(), "nothing.shop.global").refusal.unwrap();
        assert_eq!(unknown.reason, Reason::NoRoute);
        let stranger = told(&everywhere(), "example.com");
        assert!(stranger.refusal.is_none() && stranger.steps[0].text.contains("passed through"));
        let empty = example::snapshot(example::service(Some(example::local(0, 0)), vec![]));
        let nobody = told(&empty, "orders.shop.global").refusal.unwrap();
        assert_eq!(nobody.reason, Reason::NoHealthyUpstream);
    }

    #[test]
    fn rules_are_told_with_their_shares() {
        use portolan_model::route::{Backend, BackendRef, BackendTarget, Rule, RuleTimeouts};
        let backend = |service: &str, weight| Backend {
            to: BackendRef::Service(BackendTarget {
                service: service.parse().unwrap(),
                scope: Scope::Set,
                port: 80,
            }),
            weight,
            filters: vec![],
        };
        let by = portolan_model::route::HttpMatch {
            path: portolan_model::route::PathMatch::Prefix("/a".to_owned()),
            method: None,
            headers: vec![],
            query: vec![],
        };
        let rule = Rule {
            name: Some("canary".to_owned()),
            matches: vec![portolan_model::route::Match::Http(by)],
            filters: vec![],
            backends: vec![backend("shop/orders", 9), backend("shop/orders-v2", 1)],
            timeouts: RuleTimeouts::default(),
            retry: None,
            session: None,
        };
        let mut service = example::service(Some(example::local(1, 1)), vec![]);
        let route = portolan_model::route::Route {
            key: portolan_model::declared::ResourceKey::namespaced(
                portolan_model::declared::ResourceKind::HttpRoute,
                "shop".parse().unwrap(),
                "orders",
            ),
            created_ms: 0,
            port: None,
            rules: vec![rule],
        };
        service.traffic.set.routes.producer = vec![std::sync::Arc::new(route)];
        let snapshot = example::snapshot(service);
        let ask = |path: &str| {
            let caller = example::spiffe(CALLER);
            let host = ("orders.shop.global", None);
            let asked = Asked::default().on_path(path);
            explain_request(&snapshot, &NothingEjected, &caller, host, &asked)
        };
        let told = ask("/a/b?c=d");
        assert_eq!(
            texts(&told)[1..3],
            [
                "rule: HTTPRoute shop/orders/canary is for path prefix `/a`",
                "backends: 90.0 % to shop/orders:80 in any cluster; 10.0 % to shop/orders-v2:80 in any cluster \
                 (refused: a backend does not exist: no cluster exports a service shop/orders-v2 to this one)",
            ]
        );
        assert_eq!(told.chosen, Some(example::cluster("us-east")));
        assert_eq!(ask("/b").refusal.unwrap().reason, Reason::NoRoute);
    }

    #[test]
    fn it_survives_the_wire() {
        let explanation = told(&everywhere(), "orders.shop.global");
        let text = serde_json::to_string(&explanation).unwrap();
        assert!(text.contains("\"sameRegion\":false"), "{text}");
        assert_eq!(
            serde_json::from_str::<Explanation>(&text).unwrap(),
            explanation
        );
    }
}
