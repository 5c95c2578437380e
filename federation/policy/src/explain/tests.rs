//! What is told, and in which words.

use portolan_model::snapshot::Scope;
use portolan_model::traffic::{Algorithm, HashKey, HashOn, TrafficPolicy};
use portolan_model::{Protocol, Reason};

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
fn session_affinity_is_told_where_nobody_declared_a_policy() {
    let mut service = example::service(None, vec![example::remote("eu-west", 3, 3)]);
    let mut policy = TrafficPolicy::default();
    policy.balancing.algorithm = Algorithm::Maglev(HashOn {
        keys: vec![HashKey::Source],
    });
    service.traffic.set.policy = Some(policy);
    let explanation = told(&example::snapshot(service), "orders.shop.global");
    let step = &explanation.steps[1];
    assert_eq!(
        (step.stage.as_str(), step.text.as_str()),
        ("policy", "session affinity: by a Maglev table, by caller")
    );
    assert_eq!(explanation.policy, None);
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
    use portolan_model::route::{Rule, RuleTimeouts};
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
        backends: vec![
            example::backend("shop/orders", 9),
            example::backend("shop/orders-v2", 1),
        ],
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

#[test]
fn a_server_name_decides_where_the_port_carries_no_requests() {
    use portolan_model::declared::{ResourceKey, ResourceKind};
    use portolan_model::route::{Backend, BackendRef, BackendTarget, Match, Rule, RuleTimeouts};
    let rule = |name: &str, server_name: &str| Rule {
        name: Some(name.to_owned()),
        matches: vec![Match::Sni(server_name.to_owned())],
        filters: vec![],
        backends: vec![Backend {
            to: BackendRef::Service(BackendTarget {
                service: example::orders(),
                scope: Scope::Set,
                port: 443,
            }),
            weight: 1,
            filters: vec![],
        }],
        timeouts: RuleTimeouts::default(),
        retry: None,
        session: None,
    };
    let kind = ResourceKind::TlsRoute;
    let route = portolan_model::route::Route {
        key: ResourceKey::namespaced(kind, "shop".parse().unwrap(), "db"),
        created_ms: 0,
        port: None,
        rules: vec![rule("one", "db.example.com"), rule("all", "*.example.com")],
    };
    let ask = |protocol, server_name: Option<&str>| {
        let mut service = example::service(None, vec![example::remote("eu-west", 1, 1)]);
        service.ports = vec![example::port(443, protocol)];
        service.remote[0].ports.clone_from(&service.ports);
        service.traffic.set.routes.producer = vec![std::sync::Arc::new(route.clone())];
        let asked = Asked {
            server_name: server_name.map(str::to_owned),
            ..Asked::default()
        };
        let (caller, host) = (example::spiffe(CALLER), ("orders.shop.global", None));
        let snapshot = example::snapshot(service);
        explain_request(&snapshot, &NothingEjected, &caller, host, &asked)
    };
    for (server_name, rule) in [
        (Some("db.example.com"), Some("shop/db/one")),
        (Some("x.example.com"), Some("shop/db/all")),
        (Some("example.com"), None),
        (None, None),
    ] {
        let told = ask(Protocol::Tls, server_name);
        let found = told.rule.as_ref().map(|rule| rule.name.as_str());
        assert_eq!(found, rule, "{server_name:?}");
        assert_eq!(told.refusal.is_some(), rule.is_none());
    }
    let requests = texts(&ask(Protocol::Http, Some("db.example.com")));
    assert!(requests[1].contains("does not count"), "{requests:?}");
}
