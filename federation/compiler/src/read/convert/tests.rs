//! Limits and drills as people write them, well and badly.

use portolan_model::fault::AbortWith;
use portolan_model::limit::{Alone, Counted, LimitAmount, LimitPer};
use portolan_model::route::{PathMatch, TextMatch};
use portolan_model::{Namespace, Severity};

use crate::read::{ReadResult, parse_document, read};

fn reading(kind: &str, spec: &str) -> ReadResult {
    let text = format!(
        "apiVersion: portolan.dev/v1alpha1\nkind: {kind}\nmetadata: {{name: drill, namespace: shop}}\nspec: {spec}\n"
    );
    read("a.yaml", &text, &Namespace::parse("shop").unwrap())
}

/// What is wrong with a limit or fault beside `more`.
#[track_caller]
fn refused(kind: &str, spec: &str, wanted: &str) {
    let found = reading(kind, spec).problems;
    let errors: Vec<String> = found
        .iter()
        .filter(|problem| problem.severity == Severity::Error)
        .map(ToString::to_string)
        .collect();
    assert!(
        errors.iter().any(|error| error.contains(wanted)),
        "no `{wanted}` in {errors:#?}"
    );
}

const TARGET: &str = "targetRefs: [{kind: Service, name: orders}]";

#[test]
fn a_limit_says_all_that_it_can() {
    let spec = format!(
        "{{{TARGET}, limits: [{{name: tenants, per: Header, header: X-Tenant, counted: Cluster, alone: Closed, \
         match: [{{path: {{value: /api/}}, method: POST, headers: [{{name: X-A, value: b}}], \
         queryParams: [{{type: RegularExpression, name: q, value: '[0-9]+'}}]}}], \
         requests: {{count: 10, per: 1m30s, burst: 4}}}}, \
         {{name: held, connections: 3}}, {{name: flow, per: Namespace, bytes: {{count: 5, per: 1s}}}}]}}"
    );
    let mut result = reading("RateLimitPolicy", &spec);
    assert_eq!(result.problems, []);
    let declared = result.declared.remove(0).0;
    let limits = &declared.spec.rate_limit().unwrap().limits;
    let first = &limits[0];
    assert_eq!(first.name, "shop/drill/tenants");
    assert_eq!(first.per, LimitPer::Header("x-tenant".to_owned()));
    let alone = Alone::Closed;
    assert_eq!(first.counted, Counted::Cluster { alone });
    let amount = LimitAmount::Requests {
        count: 10,
        per: std::time::Duration::from_secs(90),
        burst: 4,
    };
    assert_eq!(first.amount, amount);
    let one = &first.matches[0];
    assert_eq!(one.path, PathMatch::Prefix("/api".to_owned()));
    assert_eq!(one.headers[0].name, "x-a");
    assert!(matches!(one.query[0].value, TextMatch::Regex(_)));
    assert_eq!(limits[1].amount, LimitAmount::Connections(3));
    assert_eq!(limits[2].per, LimitPer::Namespace);
}

#[test]
fn limits_that_make_no_sense_are_refused() {
    let limit = |limit: &str, wanted: &str| {
        let spec = format!("{{{TARGET}, limits: [{limit}]}}");
        refused("RateLimitPolicy", &spec, wanted);
    };
    let requests = "requests: {count: 1, per: 1s}";
    for (text, wanted) in [
        ("{name: a}", "does not say how much"),
        (
            "{name: a, connections: 1, requests: {count: 1, per: 1s}}",
            "of one thing",
        ),
        (
            "{name: a, requests: {count: 1, per: soon}}",
            "is not a duration",
        ),
        (
            "{name: a, requests: {count: 1, per: 25h}}",
            "longer than a day",
        ),
        ("{name: a, requests: {count: 0, per: 1s}}", "count"),
        (
            "{name: a, per: Header, requests: {count: 1, per: 1s}}",
            "which header",
        ),
        (
            "{name: a, header: x, requests: {count: 1, per: 1s}}",
            "not per header",
        ),
        (
            "{name: a, alone: Open, requests: {count: 1, per: 1s}}",
            "for itself",
        ),
        (
            "{name: a, per: Header, header: x, connections: 1}",
            "have no headers",
        ),
        (
            "{name: a, match: [{method: GET}], connections: 1}",
            "by request",
        ),
        ("{name: A b, connections: 1}", "not a valid name"),
        ("{name: a, connections: 1, sometimes: true}", "sometimes"),
    ] {
        limit(text, wanted);
    }
    let twice = format!("{{name: a, {requests}}}, {{name: a, {requests}}}");
    limit(&twice, "used twice");
    limit(
        &format!("{{name: a, {requests}, match: [{{path: {{value: api}}}}]}}"),
        "does not begin with",
    );
    limit(
        &format!(
            "{{name: a, {requests}, match: [{{path: {{type: RegularExpression, value: '('}}}}]}}"
        ),
        "no regular expression",
    );
    let import = "{targetRefs: [{group: multicluster.x-k8s.io, kind: ServiceImport, name: orders}], limits: [{name: a, connections: 1}]}";
    refused("RateLimitPolicy", import, "where the service runs");
}

#[test]
fn what_instances_cannot_share_is_refused() {
    for (text, wanted) in [
        (
            "{name: a, counted: Cluster, connections: 1000001}",
            "more than 1000000 connections",
        ),
        (
            "{name: a, counted: Cluster, bytes: {count: 1000, per: 1s}}",
            "at least 65536 bytes",
        ),
        (
            "{name: a, counted: Cluster, bytes: {count: 1000000, per: 500ms}}",
            "at least `1s`",
        ),
        (
            "{name: a, counted: Cluster, requests: {count: 10, per: 1s, burst: 2}}",
            "at least 10",
        ),
    ] {
        let spec = format!("{{{TARGET}, limits: [{text}]}}");
        refused("RateLimitPolicy", &spec, wanted);
    }
}

#[test]
fn a_drill_ends_when_it_says() {
    let stored = |end: &str| {
        let text = format!(
            "{{\"apiVersion\": \"portolan.dev/v1alpha1\", \"kind\": \"FaultPolicy\", \"metadata\": {{\"name\": \"drill\", \"namespace\": \"shop\", \"creationTimestamp\": \"2026-11-25T22:00:00Z\"}}, \"spec\": {{\"targetRefs\": [{{\"kind\": \"Service\", \"name\": \"orders\"}}], {end}, \"faults\": [{{\"name\": \"a\", \"abort\": {{\"grpcStatus\": 14, \"percent\": 0.5}}}}]}}}}"
        );
        let value = serde_json::from_str(&text).unwrap();
        let declared = parse_document(&value).unwrap();
        declared.spec.fault().unwrap().faults[0].clone()
    };
    let lasting = stored("\"lasts\": \"10m\"");
    assert_eq!(lasting.ends_ms, 1_795_644_600_000);
    let abort = lasting.abort.unwrap();
    assert_eq!(abort.with, AbortWith::GrpcStatus(14));
    assert_eq!(abort.share_milli_percent, 500);
    let ending = stored("\"ends\": \"2026-11-25T23:00:00+01:00\"");
    assert_eq!(ending.ends_ms, 1_795_644_000_000);
}

#[test]
fn drills_that_make_no_sense_are_refused() {
    let fault = |end: &str, fault: &str, wanted: &str| {
        let spec = format!("{{{TARGET}, {end} faults: [{fault}]}}");
        refused("FaultPolicy", &spec, wanted);
    };
    let good = "{name: a, abort: {httpStatus: 503}}";
    fault("", good, "has no end");
    fault("lasts: 1m, ends: \"2026-11-25T22:00:00Z\",", good, "twice");
    fault("ends: tomorrow,", good, "is not a moment");
    for (text, wanted) in [
        ("{name: a}", "does nothing"),
        ("{name: a, abort: {percent: 5}}", "exactly one way"),
        (
            "{name: a, abort: {httpStatus: 503, reset: true}}",
            "exactly one way",
        ),
        ("{name: a, abort: {httpStatus: 99}}", "httpStatus"),
        ("{name: a, delay: {fixed: 2h}}", "longer than an hour"),
        ("{name: a, delay: {fixed: 1s, percent: 101}}", "percent"),
        (
            "{name: a, callers: {clusters: [\"No Cluster\"]}, delay: {fixed: 1s}}",
            "not a valid",
        ),
    ] {
        fault("lasts: 1m,", text, wanted);
    }
}
