//! Session affinity: merged over clusters, and what callers obey because of it.

use super::*;
use portolan_model::declared::Face;
use portolan_model::traffic::{Algorithm, HashKey, HashOn, TrafficPolicy};
use serde_json::json;

fn sticky(name: &str, more: &str) -> Declared {
    service(
        name,
        &format!(
            "{{selector: {{app: a}}, ports: [{{name: http, port: 80}}], sessionAffinity: ClientIP{more}}}"
        ),
    )
}

fn by_caller() -> Algorithm {
    Algorithm::Maglev(HashOn {
        keys: vec![HashKey::Source],
    })
}

fn client(timeout_seconds: u32) -> SessionAffinity {
    SessionAffinity::ClientIp { timeout_seconds }
}

/// What callers of a face obey, with what tells policies apart: the algorithm and the retries.
#[track_caller]
fn obeyed(compiler: &Compiler, face: Face, port: u16) -> (Algorithm, u8) {
    let traffic = &compiled(compiler, "a").traffic;
    let policy = traffic.policy(face, port).cloned().unwrap_or_default();
    (policy.balancing.algorithm, policy.retries.attempts)
}

fn policy(name: &str, target: &str, body: &str) -> Declared {
    declared(
        &format!(
            "{{apiVersion: portolan.dev/v1alpha1, kind: TrafficPolicy, metadata: {{name: {name}, namespace: shop}}, spec: {{targetRefs: [{target}], {body}}}}}"
        ),
        1,
    )
}

const SERVICE: &str = "{kind: Service, name: a}";
const PORT: &str = "{kind: Service, name: a, sectionName: http}";
const IMPORT: &str = "{group: multicluster.x-k8s.io, kind: ServiceImport, name: a}";

#[test]
fn a_service_with_affinity_is_called_by_a_hash_of_the_caller() {
    let mut compiler = compiler();
    let usual = TrafficPolicy::default().retries.attempts;
    declare(&mut compiler, [simple_service("a", "a")]);
    assert_eq!(
        compiled(&compiler, "a").traffic.policy(Face::Cluster, 80),
        None
    );
    let output = declare(&mut compiler, [sticky("a", "")]);
    assert_eq!(output.delta.services.len(), 1);
    for face in [Face::Cluster, Face::Set] {
        assert_eq!(obeyed(&compiler, face, 80), (by_caller(), usual));
    }
    declare(&mut compiler, [simple_service("a", "a")]);
    assert_eq!(
        compiled(&compiler, "a").traffic.policy(Face::Cluster, 80),
        None
    );
}

#[test]
fn a_policy_keeps_what_it_says_and_one_that_hashes_keeps_its_key() {
    let mut compiler = compiler();
    let hashed = "loadBalancing: {algorithm: RingHash, hashOn: [{header: x-user}]}";
    declare(
        &mut compiler,
        [
            sticky("a", ""),
            policy(
                "all",
                SERVICE,
                "retries: {attempts: 1}, loadBalancing: {algorithm: RoundRobin}",
            ),
        ],
    );
    for face in [Face::Cluster, Face::Set] {
        assert_eq!(obeyed(&compiler, face, 80), (by_caller(), 1));
    }
    declare(&mut compiler, [policy("port", PORT, hashed)]);
    for face in [Face::Cluster, Face::Set] {
        let (algorithm, _) = obeyed(&compiler, face, 80);
        assert!(matches!(algorithm, Algorithm::RingHash(_)), "{algorithm:?}");
        assert_eq!(obeyed(&compiler, face, 81), (by_caller(), 1));
    }
    // The set's own policy outranks all that is declared for the Service.
    declare(
        &mut compiler,
        [policy("set", IMPORT, "retries: {attempts: 5}")],
    );
    assert_eq!(obeyed(&compiler, Face::Set, 80), (by_caller(), 5));
    let (algorithm, _) = obeyed(&compiler, Face::Cluster, 80);
    assert!(matches!(algorithm, Algorithm::RingHash(_)), "{algorithm:?}");
}

#[test]
fn each_face_has_the_affinity_of_its_own() {
    let mut compiler = compiler();
    declare(
        &mut compiler,
        [
            peer("west", "west.acme", 1),
            sticky("a", ""),
            export("a", 5),
            policy("all", SERVICE, "retries: {attempts: 1}"),
        ],
    );
    apply(
        &mut compiler,
        [offer("west", vec![entry("a", "west.acme", 3)])],
    );
    assert_eq!(obeyed(&compiler, Face::Cluster, 80), (by_caller(), 1));
    assert_eq!(obeyed(&compiler, Face::Set, 80), (Algorithm::PeakEwma, 1));
    let conflict = condition(&compiler, &export_key("a"), "Conflict");
    assert_eq!(conflict, "True/SessionAffinityConflict");

    let mut older = entry("a", "west.acme", 3);
    older.affinity = client(60);
    declare(&mut compiler, [simple_service("a", "a")]);
    let output = apply(&mut compiler, [offer("west", vec![older])]);
    assert_eq!(
        obeyed(&compiler, Face::Cluster, 80),
        (Algorithm::PeakEwma, 1)
    );
    assert_eq!(obeyed(&compiler, Face::Set, 80), (by_caller(), 1));
    let import = output.imports[&key("a")].as_ref().unwrap();
    assert_eq!(import["spec"]["sessionAffinity"], "ClientIP");
    assert_eq!(
        import["spec"]["sessionAffinityConfig"],
        json!({ "clientIP": { "timeoutSeconds": 60 } })
    );

    declare(&mut compiler, [sticky("a", "")]);
    let conflict = condition(&compiler, &export_key("a"), "Conflict");
    assert_eq!(conflict, "True/SessionAffinityConfigConflict");
}

#[test]
fn peers_are_told_and_believed_within_bounds() {
    let mut compiler = compiler();
    let config = ", sessionAffinityConfig: {clientIP: {timeoutSeconds: 60}}";
    let own = [
        peer("west", "west.acme", 1),
        sticky("a", config),
        export("a", 5),
    ];
    let output = declare(&mut compiler, own);
    let told = output.exports[&key("a")].entry.as_ref().unwrap();
    assert_eq!(told.affinity, client(60));

    for seconds in [0, 86_401] {
        let mut entry = entry("b", "west.acme", 3);
        entry.affinity = client(seconds);
        let refused = compiler.apply(offer("west", vec![entry]));
        assert!(refused[0].reason.contains("1 to 86400"), "{refused:?}");
    }
    let mut headless = entry("c", "west.acme", 3);
    headless.kind = ServiceKind::Headless;
    headless.affinity = client(60);
    let output = apply(&mut compiler, [offer("west", vec![headless])]);
    let import = output.imports[&key("c")].as_ref().unwrap();
    assert_eq!(import["spec"]["sessionAffinity"], "None");
    assert_eq!(compiled(&compiler, "c").traffic.policy(Face::Set, 80), None);
}
