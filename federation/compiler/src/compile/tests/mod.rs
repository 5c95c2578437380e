//! Scenarios, and random histories judged against compiling from scratch.

mod affinity;
mod conflicts;
mod history;
mod policies;
mod routes;
mod scale;
mod scenarios;
mod serving;

use super::*;
use crate::audit::audit;
use crate::read::read;
use portolan_model::sharing::LocalityHealth;
use portolan_model::snapshot::{LinkState, Service};
use portolan_model::{
    Locality, Port, Protocol, ServiceKind, SessionAffinity, SpiffeId, WorkloadKey,
};

fn identity() -> ClusterIdentity {
    ClusterIdentity {
        name: "east".parse().unwrap(),
        set: "acme".parse().unwrap(),
        region: "us".parse().unwrap(),
        zones: vec![],
        trust_domain: "east.acme".parse().unwrap(),
    }
}

fn pools(v4: &str) -> VipPools {
    VipPools {
        v4: v4.parse().unwrap(),
        v6: Some("fd24::/96".parse().unwrap()),
    }
}

fn compiler() -> Compiler {
    Compiler::new(identity(), pools("240.241.0.0/16"))
}

/// Reads one declaration, first stored at `created_ms`.
fn declared(text: &str, created_ms: u64) -> Declared {
    let mut result = read("-", text, &"shop".parse().unwrap());
    assert!(!result.has_errors(), "{:?}", result.problems);
    Declared {
        created_ms,
        ..result.declared.remove(0).0
    }
}

fn service(name: &str, spec: &str) -> Declared {
    declared(
        &format!("{{apiVersion: v1, kind: Service, metadata: {{name: {name}}}, spec: {spec}}}"),
        1,
    )
}

/// A Service of one port, 80 named http, that selects `app: <app>`.
fn simple_service(name: &str, app: &str) -> Declared {
    service(
        name,
        &format!(
            "{{selector: {{app: {app}}}, ports: [{{name: http, port: 80, targetPort: http}}]}}"
        ),
    )
}

fn export(name: &str, created_ms: u64) -> Declared {
    export_to(name, "*", created_ms)
}

fn export_to(name: &str, peers: &str, created_ms: u64) -> Declared {
    declared(
        &format!(
            "{{apiVersion: multicluster.x-k8s.io/v1beta1, kind: ServiceExport, metadata: {{name: {name}, annotations: {{portolan.dev/export-to: \"{peers}\"}}}}}}"
        ),
        created_ms,
    )
}

fn workload(name: &str, app: &str, more: &str) -> Declared {
    let host: u32 = name.bytes().map(u32::from).sum();
    declared(
        &format!(
            "{{apiVersion: portolan.dev/v1alpha1, kind: Workload, metadata: {{name: {name}, labels: {{app: {app}}}}}, spec: {{address: 10.0.{}.{}, serviceAccount: {app}, ports: {{http: 8080}}{more}}}}}",
            host / 256,
            host % 256
        ),
        1,
    )
}

fn peer(name: &str, domain: &str, created_ms: u64) -> Declared {
    declared(
        &format!(
            "{{apiVersion: portolan.dev/v1alpha1, kind: Peer, metadata: {{name: {name}}}, spec: {{trustDomain: {domain}, region: eu}}}}"
        ),
        created_ms,
    )
}

fn port(name: &str, number: u16, protocol: Protocol) -> Port {
    Port {
        name: Some(name.parse().unwrap()),
        number,
        protocol,
    }
}

/// What a peer of the trust domain `domain` may say of a service that is like `simple_service`.
fn entry(name: &str, domain: &str, exported_ms: u64) -> CatalogueEntry {
    CatalogueEntry {
        key: key(name),
        kind: ServiceKind::Virtual,
        ports: vec![port("http", 80, Protocol::Http)],
        localities: vec![LocalityHealth {
            locality: Locality {
                region: "eu".parse().unwrap(),
                zone: None,
            },
            ready: 2,
            total: 3,
        }],
        identities: vec![SpiffeId::parse(&format!("spiffe://{domain}/ns/shop/sa/a")).unwrap()],
        exported_ms,
        hosts: vec![],
        affinity: SessionAffinity::None,
    }
}

fn offer(peer: &str, entries: Vec<CatalogueEntry>) -> Change {
    Change::Catalogue {
        peer: peer.parse().unwrap(),
        full: false,
        upserts: entries,
        removals: vec![],
    }
}

fn key(name: &str) -> ServiceKey {
    format!("shop/{name}").parse().unwrap()
}

fn cluster(name: &str) -> ClusterName {
    name.parse().unwrap()
}

fn workload_key(name: &str) -> WorkloadKey {
    format!("shop/{name}").parse().unwrap()
}

/// Applies changes of which nothing is refused, compiles, and audits the snapshot.
#[track_caller]
fn apply(compiler: &mut Compiler, changes: impl IntoIterator<Item = Change>) -> Output {
    for change in changes {
        assert_eq!(compiler.apply(change), []);
    }
    compile(compiler)
}

#[track_caller]
fn compile(compiler: &mut Compiler) -> Output {
    let output = compiler.compile();
    assert_eq!(audit(compiler.snapshot()), Vec::<String>::new());
    output
}

#[track_caller]
fn declare(compiler: &mut Compiler, all: impl IntoIterator<Item = Declared>) -> Output {
    apply(compiler, all.into_iter().map(Change::Declared))
}

#[track_caller]
fn compiled<'a>(compiler: &'a Compiler, name: &str) -> &'a Service {
    &compiler.snapshot().services[&key(name)]
}

fn export_key(name: &str) -> ResourceKey {
    facts::export_resource(&key(name))
}

/// A condition of a resource, as `status/reason`.
fn condition(compiler: &Compiler, resource: &ResourceKey, kind: &str) -> String {
    let conditions = &compiler.status(resource).unwrap()["conditions"];
    let conditions = conditions.as_array().unwrap();
    let found = conditions.iter().find(|one| one["type"] == kind).unwrap();
    format!(
        "{}/{}",
        found["status"].as_str().unwrap(),
        found["reason"].as_str().unwrap()
    )
}
