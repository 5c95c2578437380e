//! Limits and drills: from their text to what workloads obey, and what their authors are told.

use portolan_model::limit::{Counted, LimitAmount, LimitPer};
use portolan_model::snapshot::InboundRules;

use super::*;

fn policy(kind: &str, name: &str, spec: &str, created_ms: u64) -> Declared {
    declared(
        &format!(
            "{{apiVersion: portolan.dev/v1alpha1, kind: {kind}, metadata: {{name: {name}}}, spec: {spec}}}"
        ),
        created_ms,
    )
}

fn limit(name: &str, target: &str) -> Declared {
    let spec = format!(
        "{{targetRefs: [{{kind: Service, {target}}}], limits: [{{name: all, per: Identity, requests: {{count: 7, per: 2s}}}}]}}"
    );
    policy("RateLimitPolicy", name, &spec, 1)
}

fn drill(name: &str, created_ms: u64) -> Declared {
    let spec = "{targetRefs: [{kind: Service, name: orders}], ends: \"2026-11-25T22:00:00Z\", faults: [{name: slow, delay: {fixed: 2s}}]}";
    policy("FaultPolicy", name, spec, created_ms)
}

fn rules(compiler: &Compiler) -> InboundRules {
    let inbound = &compiler.snapshot().inbound[&workload_key("orders-1")];
    inbound
        .rules
        .get(&key("orders"))
        .cloned()
        .unwrap_or_default()
}

fn shop() -> [Declared; 2] {
    [
        simple_service("orders", "orders"),
        workload("orders-1", "orders", ""),
    ]
}

#[test]
fn limits_reach_the_workloads_of_their_service_and_go_with_their_policy() {
    let mut compiler = compiler();
    declare(&mut compiler, shop());
    assert!(rules(&compiler).is_empty());
    let whole = limit("whole", "name: orders");
    let whole_key = whole.key.clone();
    declare(
        &mut compiler,
        [whole, limit("port", "name: orders, sectionName: http")],
    );
    let found = rules(&compiler).limits;
    let places: Vec<(u16, &str)> = found
        .iter()
        .map(|(port, limit)| (*port, limit.name.as_str()))
        .collect();
    assert_eq!(places, [(80, "shop/port/all"), (0, "shop/whole/all")]);
    assert_eq!(found[0].1.per, LimitPer::Identity);
    assert_eq!(found[0].1.counted, Counted::Instance);
    let amount = LimitAmount::Requests {
        count: 7,
        per: std::time::Duration::from_secs(2),
        burst: 7,
    };
    assert_eq!(found[0].1.amount, amount);
    assert_eq!(
        condition(&compiler, &whole_key, "Accepted"),
        "True/Accepted"
    );
    apply(&mut compiler, [Change::Deleted(whole_key)]);
    assert_eq!(rules(&compiler).limits.len(), 1);
}

#[test]
fn a_policy_waits_for_its_service_and_port() {
    let mut compiler = compiler();
    let (whole, port) = (
        limit("whole", "name: orders"),
        limit("port", "name: orders, sectionName: grpc"),
    );
    let keys = [whole.key.clone(), port.key.clone()];
    declare(&mut compiler, [whole, port]);
    let told = |compiler: &Compiler| {
        keys.clone()
            .map(|key| condition(compiler, &key, "Accepted"))
    };
    assert_eq!(told(&compiler), ["False/TargetNotFound"; 2]);
    declare(&mut compiler, shop());
    assert_eq!(told(&compiler), ["True/Accepted", "False/TargetNotFound"]);
    assert_eq!(rules(&compiler).limits.len(), 1);
}

#[test]
fn the_oldest_drill_comes_first_and_tells_when_it_ends() {
    let mut compiler = compiler();
    declare(&mut compiler, shop());
    declare(&mut compiler, [drill("a", 9), drill("b", 5)]);
    let found = rules(&compiler).faults;
    let names: Vec<&str> = found.iter().map(|(_, fault)| fault.name.as_str()).collect();
    assert_eq!(names, ["shop/b/slow", "shop/a/slow"]);
    assert_eq!(found[0].1.ends_ms, 1_795_644_000_000);
    let status = compiler.status(&drill("a", 9).key).unwrap();
    assert_eq!(status["ends"], "2026-11-25T22:00:00Z");
}

#[test]
fn a_fault_that_no_connection_can_meet_is_named_where_there_are_no_requests() {
    let mut compiler = compiler();
    let service = "{apiVersion: v1, kind: Service, metadata: {name: orders}, spec: {ports: [\
        {name: http, port: 80, appProtocol: http}, {name: db, port: 5432, appProtocol: tcp}], selector: {app: orders}}}";
    declare(&mut compiler, [declared(service, 1)]);
    for (port, fault, partial) in [
        (", sectionName: db", "abort: {httpStatus: 503}", true),
        (
            ", sectionName: db",
            "delay: {fixed: 1s}, match: [{method: GET}]",
            true,
        ),
        (
            ", sectionName: db",
            "delay: {fixed: 1s}, abort: {reset: true}",
            false,
        ),
        (", sectionName: http", "abort: {httpStatus: 503}", false),
        ("", "abort: {httpStatus: 503}", false),
    ] {
        let spec = format!(
            "{{targetRefs: [{{kind: Service, name: orders{port}}}], lasts: 1h, faults: [{{name: f, {fault}}}]}}"
        );
        let drill = policy("FaultPolicy", "drill", &spec, 1);
        let key = drill.key.clone();
        declare(&mut compiler, [drill]);
        let conditions = compiler.status(&key).unwrap()["conditions"].clone();
        let mut conditions = conditions.as_array().unwrap().iter();
        let found = conditions.any(|one| {
            one["type"] == "PartiallyInvalid"
                && one["status"] == "True"
                && one["reason"] == "UnsupportedValue"
        });
        assert_eq!(found, partial, "{port} {fault}");
        assert_eq!(condition(&compiler, &key, "Accepted"), "True/Accepted");
    }
}
