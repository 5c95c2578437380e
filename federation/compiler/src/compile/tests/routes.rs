//! Routes: attached, outranked, and what their authors are told.

use super::*;
use portolan_model::declared::{Face, ResourceKind};
use portolan_model::route::Routes;

/// A route of a kind in a namespace, with a parent's fields and a rule.
fn route(kind: &str, name: &str, parent: &str, rule: &str, created_ms: u64) -> Declared {
    let (namespace, name) = name.split_once('/').unwrap();
    declared(
        &format!(
            "{{apiVersion: gateway.networking.k8s.io/v1, kind: {kind}, metadata: {{name: {name}, namespace: {namespace}}}, spec: {{parentRefs: [{{{parent}}}], rules: [{rule}]}}}}"
        ),
        created_ms,
    )
}

const SERVICE: &str = "group: '', kind: Service, name: orders, namespace: shop";
const IMPORT: &str =
    "group: multicluster.x-k8s.io, kind: ServiceImport, name: orders, namespace: shop";
const TO_ORDERS: &str = "{backendRefs: [{name: orders, namespace: shop, port: 80}]}";

fn with_orders() -> Compiler {
    let mut compiler = compiler();
    let workload = workload("orders-1", "orders", "");
    declare(
        &mut compiler,
        [simple_service("orders", "orders"), workload],
    );
    compiler
}

fn routes(compiler: &Compiler, face: Face) -> &Routes {
    &compiled(compiler, "orders").traffic.frontend(face).routes
}

fn names(routes: &Routes) -> Vec<&str> {
    routes
        .producer
        .iter()
        .map(|it| it.key.name.as_str())
        .collect()
}

/// The conditions of a route's first parent, as `type/status/reason`.
fn told(compiler: &Compiler, kind: &str, name: &str) -> Vec<String> {
    let (namespace, name) = name.split_once('/').unwrap();
    let kind = ResourceKind::parse(kind).unwrap();
    let key = ResourceKey::namespaced(kind, namespace.parse().unwrap(), name);
    let parent = &compiler.status(&key).unwrap()["parents"][0];
    assert_eq!(parent["controllerName"], "portolan.dev/mesh");
    let conditions = parent["conditions"].as_array().unwrap().iter();
    let words = conditions.map(|it| {
        ["type", "status", "reason"]
            .map(|field| it[field].as_str().unwrap())
            .join("/")
    });
    words.collect()
}

const ACCEPTED: &str = "Accepted/True/Accepted";
const RESOLVED: &str = "ResolvedRefs/True/ResolvedRefs";

#[test]
fn a_route_is_for_the_face_that_it_names_and_for_its_namespace() {
    let mut compiler = with_orders();
    declare(
        &mut compiler,
        [
            route("HTTPRoute", "shop/producer", SERVICE, TO_ORDERS, 1),
            route("HTTPRoute", "web/consumer", SERVICE, TO_ORDERS, 1),
        ],
    );
    let found = routes(&compiler, Face::Cluster);
    assert_eq!(names(found), ["producer"]);
    assert_eq!(
        found.consumer[&"web".parse::<portolan_model::Namespace>().unwrap()].len(),
        1
    );
    assert!(routes(&compiler, Face::Set).is_empty());
    assert_eq!(
        told(&compiler, "HTTPRoute", "shop/producer"),
        [ACCEPTED, RESOLVED]
    );

    // A ServiceImport is there when somebody exports the service.
    declare(
        &mut compiler,
        [route("HTTPRoute", "shop/import", IMPORT, TO_ORDERS, 1)],
    );
    let missing = "Accepted/False/NoMatchingParent";
    assert_eq!(
        told(&compiler, "HTTPRoute", "shop/import"),
        [missing, RESOLVED]
    );
    declare(&mut compiler, [export("orders", 1)]);
    assert_eq!(
        told(&compiler, "HTTPRoute", "shop/import"),
        [ACCEPTED, RESOLVED]
    );
    assert_eq!(names(routes(&compiler, Face::Set)), ["import"]);
    assert_eq!(names(routes(&compiler, Face::Cluster)), ["producer"]);

    let gone =
        ResourceKey::namespaced(ResourceKind::HttpRoute, "shop".parse().unwrap(), "producer");
    apply(&mut compiler, [Change::Deleted(gone.clone())]);
    assert_eq!(names(routes(&compiler, Face::Cluster)), [""; 0]);
    assert_eq!(compiler.status(&gone), None);
}

#[test]
fn ports_are_named_by_number_or_name() {
    let mut compiler = with_orders();
    let of = |name: &str, more: &str| {
        route(
            "HTTPRoute",
            name,
            &format!("{SERVICE}, {more}"),
            TO_ORDERS,
            1,
        )
    };
    declare(
        &mut compiler,
        [
            of("shop/by-name", "sectionName: http"),
            of("shop/by-number", "port: 80"),
            of("shop/wrong-name", "sectionName: admin"),
            of("shop/wrong-number", "port: 81"),
            of("shop/at-odds", "port: 81, sectionName: http"),
        ],
    );
    let found = &routes(&compiler, Face::Cluster).producer;
    let ports: Vec<_> = found
        .iter()
        .map(|it| (it.key.name.as_str(), it.port))
        .collect();
    assert_eq!(ports, [("by-name", Some(80)), ("by-number", Some(80))]);
    for name in ["shop/wrong-name", "shop/wrong-number", "shop/at-odds"] {
        assert_eq!(
            told(&compiler, "HTTPRoute", name)[0],
            "Accepted/False/NoMatchingParent"
        );
    }
}

#[test]
fn kinds_outrank_each_other_on_the_same_port_of_the_same_namespace() {
    let mut compiler = with_orders();
    let grpc = || {
        route(
            "GRPCRoute",
            "shop/grpc",
            &format!("{SERVICE}, port: 80"),
            TO_ORDERS,
            9,
        )
    };
    declare(
        &mut compiler,
        [
            route("HTTPRoute", "shop/http", SERVICE, TO_ORDERS, 1),
            route("HTTPRoute", "web/http", SERVICE, TO_ORDERS, 1),
            route("TLSRoute", "shop/tls", SERVICE, TO_ORDERS, 1),
        ],
    );
    assert_eq!(names(routes(&compiler, Face::Cluster)), ["http"]);
    let conflicted = "Accepted/False/Conflicted";
    assert_eq!(told(&compiler, "TLSRoute", "shop/tls")[0], conflicted);
    declare(&mut compiler, [grpc()]);
    // What HTTP lost, TLS does not win: GRPC has it.
    assert_eq!(names(routes(&compiler, Face::Cluster)), ["grpc"]);
    assert_eq!(told(&compiler, "HTTPRoute", "shop/http")[0], conflicted);
    assert_eq!(told(&compiler, "HTTPRoute", "web/http")[0], ACCEPTED);
    assert_eq!(told(&compiler, "TLSRoute", "shop/tls")[0], conflicted);
    apply(&mut compiler, [Change::Deleted(grpc().key)]);
    assert_eq!(told(&compiler, "HTTPRoute", "shop/http")[0], ACCEPTED);
}

#[test]
fn other_namespaces_cannot_fill_a_service_with_routes() {
    let mut compiler = with_orders();
    let long = "x".repeat(300 * 1024);
    let rule = format!(
        "{{matches: [{{headers: [{{name: a, value: {long}}}]}}], backendRefs: [{{name: orders, namespace: shop, port: 80}}]}}"
    );
    declare(
        &mut compiler,
        [
            route("HTTPRoute", "a/first", SERVICE, &rule, 1),
            route("HTTPRoute", "b/second", SERVICE, &rule, 1),
            route("HTTPRoute", "shop/own", SERVICE, &rule, 1),
        ],
    );
    assert_eq!(told(&compiler, "HTTPRoute", "a/first")[0], ACCEPTED);
    assert_eq!(told(&compiler, "HTTPRoute", "shop/own")[0], ACCEPTED);
    let refused = "Accepted/False/UnsupportedValue";
    assert_eq!(told(&compiler, "HTTPRoute", "b/second")[0], refused);
}

#[test]
fn references_are_told_apart_and_followed_when_they_change() {
    let mut compiler = with_orders();
    let to = |name: &str, backend: &str| {
        let rule = format!("{{backendRefs: [{{name: orders, port: 80}}, {{{backend}}}]}}");
        route("HTTPRoute", name, SERVICE, &rule, 1)
    };
    declare(
        &mut compiler,
        [
            to("shop/missing", "name: payments, port: 80"),
            to("shop/port", "name: orders, port: 81"),
            to(
                "shop/kind",
                "group: apps, kind: Deployment, name: a, port: 80",
            ),
            to(
                "shop/import",
                "group: multicluster.x-k8s.io, kind: ServiceImport, name: payments, port: 80",
            ),
        ],
    );
    let refs = |compiler: &Compiler, name: &str| told(compiler, "HTTPRoute", name)[1].clone();
    let not_found = "ResolvedRefs/False/BackendNotFound";
    assert_eq!(refs(&compiler, "shop/missing"), not_found);
    assert_eq!(refs(&compiler, "shop/port"), not_found);
    assert_eq!(refs(&compiler, "shop/import"), not_found);
    assert_eq!(
        refs(&compiler, "shop/kind"),
        "ResolvedRefs/False/InvalidKind"
    );
    assert_eq!(told(&compiler, "HTTPRoute", "shop/missing")[0], ACCEPTED);
    declare(&mut compiler, [simple_service("payments", "payments")]);
    assert_eq!(refs(&compiler, "shop/missing"), RESOLVED);
    assert_eq!(refs(&compiler, "shop/import"), not_found);
    declare(&mut compiler, [export("payments", 1)]);
    assert_eq!(refs(&compiler, "shop/import"), RESOLVED);
}

#[test]
fn a_stored_route_that_is_partly_wrong_says_which_part() {
    let mut compiler = with_orders();
    let stored = |name: &str, rules: Value| {
        let document = serde_json::json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
            "metadata": { "name": name, "namespace": "shop" },
            "spec": { "parentRefs": [{ "group": "", "kind": "Service", "name": "orders" }], "rules": rules },
        });
        crate::parse_document(&document).unwrap()
    };
    let wrong = serde_json::json!({ "matches": [{ "path": { "value": "a" } }] });
    let unknown = serde_json::json!({ "matches": [{ "path": { "type": "Glob" } }] });
    declare(
        &mut compiler,
        [
            stored("partly", serde_json::json!([{}, wrong])),
            stored("wholly", serde_json::json!([wrong])),
            stored("unknown", serde_json::json!([{}, unknown])),
        ],
    );
    assert_eq!(
        told(&compiler, "HTTPRoute", "shop/partly"),
        [ACCEPTED, RESOLVED, "PartiallyInvalid/True/UnsupportedValue"]
    );
    for name in ["shop/wholly", "shop/unknown"] {
        assert_eq!(
            told(&compiler, "HTTPRoute", name)[0],
            "Accepted/False/UnsupportedValue"
        );
    }
    assert_eq!(names(routes(&compiler, Face::Cluster)), ["partly"]);
}
