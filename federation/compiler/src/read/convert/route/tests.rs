//! The specification's rules for what may be written, as tables.

use portolan_model::declared::{Declared, DeclaredSpec};
use portolan_model::route::{
    BackendRef, Filter, Match, PathMatch, Rejection, RouteSpec, SessionCarrier,
};
use portolan_model::snapshot::Scope;
use serde_json::{Value, json};
use std::time::Duration;

use crate::read::{ReadResult, parse_document, read};

fn document(kind: &str, rule: Value) -> Value {
    json!({
        "apiVersion": if kind == "TCPRoute" { "gateway.networking.k8s.io/v1alpha2" } else { "gateway.networking.k8s.io/v1" },
        "kind": kind,
        "metadata": { "name": "route", "namespace": "shop" },
        "spec": {
            "parentRefs": [{ "group": "", "kind": "Service", "name": "orders" }],
            "rules": [rule],
        },
    })
}

fn reading(kind: &str, rule: Value) -> ReadResult {
    let text = document(kind, rule).to_string();
    read("route.yaml", &text, &"shop".parse().unwrap())
}

#[track_caller]
fn good(kind: &str, rule: Value) -> RouteSpec {
    let mut result = reading(kind, rule);
    assert!(!result.has_errors(), "{:#?}", result.problems);
    spec(result.declared.remove(0).0)
}

fn spec(declared: Declared) -> RouteSpec {
    let DeclaredSpec::Route(spec) = declared.spec else {
        panic!("{declared:?}")
    };
    spec
}

/// Asserts that exactly one error is found, at this path and with these words.
#[track_caller]
fn bad(kind: &str, rule: Value, path: &str, words: &str) {
    let shown = rule.to_string();
    let result = reading(kind, rule);
    let errors: Vec<_> = result
        .problems
        .iter()
        .filter(|problem| problem.severity == portolan_model::Severity::Error)
        .collect();
    assert_eq!(errors.len(), 1, "{shown}: {:#?}", result.problems);
    let problem = errors[0];
    assert_eq!(problem.path, format!("spec.rules[0]{path}"), "{shown}");
    assert!(
        format!("{} {}", problem.message, problem.remedy).contains(words),
        "{problem:?}"
    );
}

fn on_path(kind: &str, value: &str) -> Value {
    json!({ "matches": [{ "path": { "type": kind, "value": value } }] })
}

#[test]
fn an_http_route_is_read_whole() {
    let rule = json!({
        "name": "canary",
        "matches": [{
            "path": { "type": "PathPrefix", "value": "/a/" },
            "method": "GET",
            "headers": [{ "name": "X-Tester", "value": "yes" }, { "name": "x-tester", "value": "no" }],
            "queryParams": [{ "type": "RegularExpression", "name": "q", "value": "[0-9]+" }],
        }],
        "filters": [
            { "type": "RequestHeaderModifier", "requestHeaderModifier": { "set": [{ "name": "X-A", "value": "1" }] } },
            { "type": "RequestMirror", "requestMirror": { "backendRef": { "name": "copies", "port": 80 }, "percent": 5 } },
        ],
        "backendRefs": [
            { "name": "orders", "port": 80, "weight": 90 },
            { "group": "multicluster.x-k8s.io", "kind": "ServiceImport", "name": "orders-v2", "namespace": "other", "port": 80, "weight": 10 },
        ],
        "timeouts": { "request": "10s", "backendRequest": "2s" },
        "retry": { "codes": [500, 503], "attempts": 3, "backoff": "100ms" },
        "sessionPersistence": { "type": "Cookie", "cookie": { "name": "s", "path": "/a", "lifetimeType": "Permanent" }, "absoluteTimeout": "1h" },
    });
    let route = good("HTTPRoute", rule);
    let rule = &route.rules[0];
    assert_eq!(rule.name.as_deref(), Some("canary"));
    let Match::Http(by) = &rule.matches[0] else {
        panic!("{rule:?}")
    };
    assert_eq!(by.path, PathMatch::Prefix("/a".to_owned()));
    assert_eq!(
        (by.headers.len(), by.headers[0].name.as_str()),
        (1, "x-tester")
    );
    assert_eq!(rule.filters.len(), 2);
    let to = |at: usize| match &rule.backends[at].to {
        BackendRef::Service(target) => (target.service.to_string(), target.scope.clone()),
        BackendRef::Invalid(why) => panic!("{why}"),
    };
    assert_eq!(to(0), ("shop/orders".to_owned(), Scope::Cluster));
    assert_eq!(to(1), ("other/orders-v2".to_owned(), Scope::Set));
    assert_eq!(rule.backends[1].weight, 10);
    assert_eq!(rule.timeouts.backend_request, Some(Duration::from_secs(2)));
    let retry = rule.retry.as_ref().unwrap();
    assert_eq!(
        (retry.attempts, retry.codes.as_slice()),
        (Some(3), &[500, 503][..])
    );
    let session = rule.session.as_ref().unwrap();
    assert_eq!(
        session.carrier,
        SessionCarrier::Cookie {
            name: "s".to_owned(),
            path: "/a".to_owned(),
            permanent: true
        }
    );
}

#[test]
fn what_is_left_out_has_the_specification_s_defaults() {
    let route = good("HTTPRoute", json!({}));
    let Match::Http(by) = &route.rules[0].matches[0] else {
        panic!("{route:?}")
    };
    assert_eq!(by.path, PathMatch::Prefix(String::new()));
    let weights = good(
        "TCPRoute",
        json!({ "backendRefs": [{ "name": "a", "port": 1 }] }),
    );
    assert_eq!(weights.rules[0].backends[0].weight, 1);
    assert!(weights.rules[0].matches.is_empty());
    let mut without_rules = document("HTTPRoute", json!({}));
    without_rules["spec"]
        .as_object_mut()
        .unwrap()
        .remove("rules");
    assert_eq!(spec(parse_document(&without_rules).unwrap()).rules.len(), 1);
}

#[test]
fn paths_are_those_that_requests_can_have() {
    for value in ["/", "/a", "/a/b/", "/a%20b", "/a:b@c", "/.hidden", "/a..b"] {
        good("HTTPRoute", on_path("PathPrefix", value));
        good("HTTPRoute", on_path("Exact", value));
    }
    let at = ".matches[0].path.value";
    for value in [
        "a", "/a//b", "/a/./b", "/a/../b", "/a%2fb", "/a%2Fb", "/a#b", "/a/.", "/a/..", "/a b",
        "/ä",
    ] {
        bad("HTTPRoute", on_path("PathPrefix", value), at, "path");
    }
    bad("HTTPRoute", on_path("RegularExpression", "("), at, "RE2");
}

#[test]
fn words_that_nobody_knows_are_told_with_those_that_are() {
    let at = ".matches[0].path.type";
    bad("HTTPRoute", on_path("Glob", "/"), at, "PathPrefix");
    let method = json!({ "matches": [{ "method": "get" }] });
    bad("HTTPRoute", method, ".matches[0].method", "GET");
    let filter = json!({ "filters": [{ "type": "Cors" }] });
    bad("HTTPRoute", filter, ".filters[0].type", "CORS");
    let grpc = json!({ "filters": [{ "type": "URLRewrite" }] });
    bad("GRPCRoute", grpc, ".filters[0].type", "RequestMirror");
    let status = json!({ "filters": [{ "type": "RequestRedirect", "requestRedirect": { "statusCode": 300 } }] });
    bad(
        "HTTPRoute",
        status,
        ".filters[0].requestRedirect.statusCode",
        "302",
    );
}

#[test]
fn filters_are_checked_one_by_one_and_together() {
    let headers = |changes: Value| json!({ "filters": [{ "type": "RequestHeaderModifier", "requestHeaderModifier": changes }] });
    let at = ".filters[0].requestHeaderModifier";
    let twice = json!({ "set": [{ "name": "x-a", "value": "1" }], "remove": ["X-A"] });
    bad(
        "HTTPRoute",
        headers(twice),
        &format!("{at}.remove[0]"),
        "two actions",
    );
    let own = json!({ "set": [{ "name": "X-Forwarded-Client-Cert", "value": "1" }] });
    bad(
        "HTTPRoute",
        headers(own),
        &format!("{at}.set[0].name"),
        "own",
    );
    let control = json!({ "add": [{ "name": "x-a", "value": "a\r\nb: c" }] });
    bad(
        "HTTPRoute",
        headers(control),
        &format!("{at}.add[0].value"),
        "value",
    );

    let modifier = json!({ "type": "ResponseHeaderModifier", "responseHeaderModifier": {} });
    let repeated = json!({ "filters": [modifier, modifier] });
    bad("HTTPRoute", repeated, ".filters[1]", "two filters");
    let without = json!({ "filters": [{ "type": "URLRewrite" }] });
    bad("HTTPRoute", without, ".filters[0]", "urlRewrite");

    let redirect = json!({ "type": "RequestRedirect", "requestRedirect": {} });
    let rewrite = json!({ "type": "URLRewrite", "urlRewrite": {} });
    bad(
        "HTTPRoute",
        json!({ "filters": [redirect, rewrite] }),
        ".filters",
        "exclude",
    );
    let onward = json!({ "filters": [redirect], "backendRefs": [{ "name": "a", "port": 1 }] });
    bad("HTTPRoute", onward, ".backendRefs", "redirects");

    let prefix = |matches: Value| json!({ "matches": matches, "filters": [{ "type": "URLRewrite", "urlRewrite": { "path": { "type": "ReplacePrefixMatch", "replacePrefixMatch": "/x" } } }] });
    good("HTTPRoute", prefix(json!([{ "path": { "value": "/a" } }])));
    let at = ".filters[0].urlRewrite.path.type";
    bad(
        "HTTPRoute",
        prefix(json!([{ "path": { "value": "/a" } }, { "path": { "value": "/b" } }])),
        at,
        "exactly one",
    );
    bad(
        "HTTPRoute",
        prefix(json!([{ "path": { "type": "Exact", "value": "/a" } }])),
        at,
        "PathPrefix",
    );
}

#[test]
fn limits_of_time_fit_together() {
    let timeouts = |request: &str, each: &str| json!({ "timeouts": { "request": request, "backendRequest": each } });
    good("HTTPRoute", timeouts("1s", "1s"));
    good("HTTPRoute", timeouts("0s", "1h"));
    bad(
        "HTTPRoute",
        timeouts("1s", "1001ms"),
        ".timeouts.backendRequest",
        "longer",
    );
    bad(
        "HTTPRoute",
        timeouts("1.5s", "1s"),
        ".timeouts.request",
        "10s",
    );
    bad(
        "HTTPRoute",
        json!({ "retry": { "codes": [399] } }),
        ".retry.codes[0]",
        "400",
    );
    let permanent = json!({ "sessionPersistence": { "cookie": { "lifetimeType": "Permanent" } } });
    bad(
        "HTTPRoute",
        permanent,
        ".sessionPersistence",
        "absoluteTimeout",
    );
    let both = json!({ "sessionPersistence": { "type": "Header", "header": {}, "cookie": {} } });
    bad(
        "HTTPRoute",
        both,
        ".sessionPersistence.cookie",
        "does not belong",
    );
}

#[test]
fn backends_of_other_kinds_are_kept_as_invalid_and_ports_are_needed() {
    let stranger = json!({ "backendRefs": [{ "group": "apps", "kind": "Deployment", "name": "a", "port": 1 }] });
    let route = good("HTTPRoute", stranger);
    assert!(
        matches!(&route.rules[0].backends[0].to, BackendRef::Invalid(why) if why.contains("Deployment"))
    );
    let extension = json!({ "filters": [{ "type": "ExtensionRef", "extensionRef": { "group": "a", "kind": "b", "name": "c" } }] });
    let route = good("HTTPRoute", extension);
    assert!(matches!(&route.rules[0].filters[0], Filter::Unsupported(_)));
    let portless = json!({ "backendRefs": [{ "name": "a" }] });
    bad("HTTPRoute", portless, ".backendRefs[0]", "port");
}

#[test]
fn rules_have_names_of_their_own_and_routes_a_bound() {
    let mut twice = document("HTTPRoute", json!({ "name": "a" }));
    let rules = twice["spec"]["rules"].as_array_mut().unwrap();
    rules.push(json!({ "name": "a" }));
    let result = read("-", &twice.to_string(), &"shop".parse().unwrap());
    assert_eq!(result.problems[0].path, "spec.rules[1].name");
    let many = json!({ "matches": vec![json!({}); 64] });
    let mut route = document("HTTPRoute", many.clone());
    route["spec"]["rules"] = json!([many, many, many]);
    let result = read("-", &route.to_string(), &"shop".parse().unwrap());
    assert!(
        result.problems[0].message.contains("192 matches"),
        "{:?}",
        result.problems
    );
}

#[test]
fn a_stored_route_keeps_its_good_rules_and_tells_of_unknown_words() {
    let mut route = document("HTTPRoute", json!({ "name": "good" }));
    let rules = route["spec"]["rules"].as_array_mut().unwrap();
    rules.push(on_path("PathPrefix", "/a//b"));
    let read = spec(parse_document(&route).unwrap());
    assert_eq!((read.rules.len(), read.dropped.len()), (1, 1));
    assert!(
        read.dropped[0].contains("spec.rules[1]"),
        "{:?}",
        read.dropped
    );
    assert_eq!(read.rejected, None);
    let unknown = spec(parse_document(&document("HTTPRoute", on_path("Glob", "/"))).unwrap());
    assert!(matches!(
        unknown.rejected,
        Some((Rejection::UnsupportedValue, _))
    ));
    let both = json!({ "filters": [
        { "type": "RequestRedirect", "requestRedirect": {} },
        { "type": "URLRewrite", "urlRewrite": {} },
    ] });
    let both = spec(parse_document(&document("HTTPRoute", both)).unwrap());
    assert!(matches!(
        both.rejected,
        Some((Rejection::IncompatibleFilters, _))
    ));
}

#[test]
fn a_tls_route_is_for_its_server_names() {
    let mut route = document(
        "TLSRoute",
        json!({ "backendRefs": [{ "name": "a", "port": 443 }] }),
    );
    route["spec"]["hostnames"] = json!(["a.example.com", "*.b.example.com"]);
    let read = spec(parse_document(&route).unwrap());
    assert_eq!(
        read.rules[0].matches,
        [
            Match::Sni("a.example.com".to_owned()),
            Match::Sni("*.b.example.com".to_owned())
        ]
    );
}
