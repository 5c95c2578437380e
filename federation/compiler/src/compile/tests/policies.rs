//! Traffic policies: which one counts where, and what its author is told.

use super::*;
use portolan_model::declared::{Face, ResourceKind};
use portolan_model::traffic::HealthProbe;

fn policy(name: &str, created_ms: u64, target: &str, body: &str) -> Declared {
    declared(
        &format!(
            "{{apiVersion: portolan.dev/v1alpha1, kind: TrafficPolicy, metadata: {{name: {name}, namespace: shop}}, spec: {{targetRefs: [{target}], {body}}}}}"
        ),
        created_ms,
    )
}

fn resource(name: &str) -> ResourceKey {
    ResourceKey::namespaced(ResourceKind::TrafficPolicy, "shop".parse().unwrap(), name)
}

fn attempts(compiler: &Compiler, face: Face, port: u16) -> Option<u8> {
    let policy = compiled(compiler, "orders").traffic.policy(face, port);
    policy.map(|policy| policy.retries.attempts)
}

fn told(compiler: &Compiler, name: &str) -> String {
    condition(compiler, &resource(name), "Accepted")
}

const SERVICE: &str = "{kind: Service, name: orders}";
const IMPORT: &str = "{group: multicluster.x-k8s.io, kind: ServiceImport, name: orders}";
const PORT: &str = "{kind: Service, name: orders, sectionName: http}";

#[test]
fn a_policy_changes_its_service_and_its_removal_changes_it_back() {
    let mut compiler = compiler();
    let one = policy("one", 5, SERVICE, "retries: {attempts: 1}");
    declare(&mut compiler, [one]);
    assert_eq!(told(&compiler, "one"), "False/TargetNotFound");
    let output = declare(&mut compiler, [simple_service("orders", "a")]);
    assert_eq!(output.delta.services.len(), 1);
    assert_eq!(attempts(&compiler, Face::Cluster, 80), Some(1));
    assert_eq!(attempts(&compiler, Face::Set, 80), Some(1));
    assert_eq!(told(&compiler, "one"), "True/Accepted");
    apply(&mut compiler, [Change::Deleted(resource("one"))]);
    assert_eq!(attempts(&compiler, Face::Cluster, 80), None);
}

#[test]
fn of_two_on_one_target_the_older_counts_and_the_other_is_told_its_name() {
    let mut compiler = compiler();
    declare(
        &mut compiler,
        [
            simple_service("orders", "a"),
            policy("young", 9, SERVICE, "retries: {attempts: 7}"),
            policy("old", 5, SERVICE, "retries: {attempts: 1}"),
            policy("other-face", 9, IMPORT, "retries: {attempts: 3}"),
            policy("of-port", 9, PORT, "retries: {attempts: 4}"),
        ],
    );
    assert_eq!(
        attempts(&compiler, Face::Cluster, 80),
        Some(4),
        "a port's own goes first"
    );
    assert_eq!(attempts(&compiler, Face::Cluster, 81), Some(1));
    assert_eq!(attempts(&compiler, Face::Set, 80), Some(3));
    assert_eq!(told(&compiler, "old"), "True/Accepted");
    assert_eq!(told(&compiler, "young"), "False/Conflicted");
    let status = compiler.status(&resource("young")).unwrap().to_string();
    assert!(status.contains("TrafficPolicy shop/old"), "{status}");
    let problems = &compiler.problems()[&resource("young")];
    assert!(
        problems[0].to_string().contains("spec.targetRefs[0]"),
        "{problems:?}"
    );
    apply(&mut compiler, [Change::Deleted(resource("old"))]);
    assert_eq!(
        attempts(&compiler, Face::Cluster, 81),
        Some(7),
        "the other takes over"
    );
    assert_eq!(told(&compiler, "young"), "True/Accepted");
}

#[test]
fn a_policy_for_an_imported_service_counts_although_there_is_none_here() {
    let mut compiler = compiler();
    let west = peer("west", "west.acme", 1);
    let with_port =
        "{group: multicluster.x-k8s.io, kind: ServiceImport, name: orders, sectionName: http}";
    declare(
        &mut compiler,
        [west, policy("one", 5, with_port, "retries: {attempts: 0}")],
    );
    apply(
        &mut compiler,
        [offer("west", vec![entry("orders", "west.acme", 1)])],
    );
    assert_eq!(attempts(&compiler, Face::Set, 80), Some(0));
    assert_eq!(told(&compiler, "one"), "True/Accepted");
}

#[test]
fn health_checks_reach_the_sidecars_beside_the_apps() {
    let mut compiler = compiler();
    declare(
        &mut compiler,
        [
            simple_service("orders", "a"),
            workload("w1", "a", ""),
            policy("all", 5, SERVICE, "healthChecks: [{tcp: {}}]"),
            policy("port", 5, PORT, "healthChecks: [{http: {path: /healthz}}]"),
        ],
    );
    let checks = |compiler: &Compiler| {
        let inbound = &compiler.snapshot().inbound[&workload_key("w1")];
        let rules = inbound.rules.get(&key("orders"));
        rules.map_or(vec![], |rules| rules.health_checks.clone())
    };
    let found = checks(&compiler);
    assert!(
        matches!(found[0].probe, HealthProbe::Http { .. }),
        "{found:?}"
    );
    assert_eq!((found[0].port, found[1].port), (Some(80), None));
    let gone = ["all", "port"].map(|name| Change::Deleted(resource(name)));
    apply(&mut compiler, gone);
    assert_eq!(checks(&compiler), []);
}
