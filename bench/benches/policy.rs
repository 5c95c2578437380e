//! What deciding about one request costs: from a host name to an endpoint, or to a cluster far away.

#![expect(
    clippy::unwrap_used,
    reason = "a benchmark that cannot be set up has nothing to measure"
)]

use std::collections::BTreeMap;
use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use portolan_compiler::{Change, Compiler, VipPools, read};
use portolan_model::snapshot::{LinkState, Snapshot};
use portolan_policy::balance::pick_two;
use portolan_policy::failover::{NothingEjected, candidates, choose_cluster, own_endpoints};
use portolan_policy::route::destination_by_host;
use serde_json::json;

/// How many services there are besides the one that is called; fewer where it is only to be seen whether it
/// runs.
const SERVICES: usize = if cfg!(debug_assertions) { 50 } else { 1_000 };
const ENDPOINTS: usize = 5;
const HOST: &str = "orders.shop.svc.clusterset.local";

/// A service with five endpoints here and three in each of two other clusters, among many.
fn snapshot(own_ready: bool) -> Snapshot {
    let identity = json!({ "name": "east", "set": "acme", "region": "us", "zones": [], "trust_domain": "east.acme" });
    let pools = VipPools {
        v4: "240.241.0.0/16".parse().unwrap(),
        v6: None,
    };
    let mut compiler = Compiler::new(serde_json::from_value(identity).unwrap(), pools);
    let names = (0..SERVICES).map(|number| format!("s{number}"));
    for name in names.chain(["orders".to_owned()]) {
        declare(
            &mut compiler,
            &format!(
                "{{apiVersion: v1, kind: Service, metadata: {{name: {name}}}, spec: {{selector: {{app: {name}}}, ports: [{{name: http, port: 80, targetPort: http}}]}}}}"
            ),
        );
        declare(
            &mut compiler,
            &format!(
                "{{apiVersion: multicluster.x-k8s.io/v1beta1, kind: ServiceExport, metadata: {{name: {name}}}}}"
            ),
        );
    }
    for number in 0..ENDPOINTS {
        declare(
            &mut compiler,
            &format!(
                "{{apiVersion: portolan.dev/v1alpha1, kind: Workload, metadata: {{name: orders-{number}, labels: {{app: orders}}}}, spec: {{address: 10.0.0.{number}, serviceAccount: orders, ports: {{http: 8080}}}}}}"
            ),
        );
        compiler.apply(Change::Liveness {
            workload: format!("shop/orders-{number}").parse().unwrap(),
            ready: Some(own_ready),
        });
    }
    let mut links = BTreeMap::new();
    for (peer, region, rtt_us) in [("west", "us", 60_000), ("central", "eu", 90_000)] {
        declare(
            &mut compiler,
            &format!(
                "{{apiVersion: portolan.dev/v1alpha1, kind: Peer, metadata: {{name: {peer}}}, spec: {{trustDomain: {peer}.acme, region: {region}}}}}"
            ),
        );
        let entry = json!({
            "key": "shop/orders",
            "kind": "virtual",
            "ports": [{ "name": "http", "number": 80, "protocol": "http" }],
            "localities": [{ "locality": { "region": region, "zone": null }, "ready": 3, "total": 3 }],
            "identities": [format!("spiffe://{peer}.acme/ns/shop/sa/orders")],
            "exported_ms": 1,
        });
        let refused = compiler.apply(Change::Catalogue {
            peer: peer.parse().unwrap(),
            full: true,
            upserts: vec![serde_json::from_value(entry).unwrap()],
            removals: vec![],
        });
        assert!(refused.is_empty(), "{refused:?}");
        links.insert(peer.parse().unwrap(), LinkState::Up { rtt_us });
    }
    compiler.apply(Change::Links(links));
    compiler.compile();
    compiler.snapshot().clone()
}

fn declare(compiler: &mut Compiler, text: &str) {
    let result = read("-", text, &"shop".parse().unwrap());
    assert!(result.problems.is_empty(), "{:?}", result.problems);
    for (declared, _) in result.declared {
        compiler.apply(Change::Declared(declared));
    }
}

/// All decisions about a request, as the sidecar makes them; returns how far it goes.
fn decide(snapshot: &Snapshot, host: &str) -> bool {
    let route = destination_by_host(snapshot, host, None).unwrap().unwrap();
    let mesh = snapshot.mesh.as_ref().unwrap();
    let candidates = candidates(&route, mesh, &NothingEjected);
    let chosen = choose_cluster(&candidates, &[], 0.5).unwrap();
    if chosen.health.own {
        let endpoints = own_endpoints(&route, &NothingEjected);
        let cost = |_: &&_| 1.0;
        black_box(pick_two(&endpoints, cost, |endpoint| endpoint.weight, (7, 11)).unwrap());
    }
    chosen.health.own
}

fn policy(criterion: &mut Criterion) {
    let (near, far) = (snapshot(true), snapshot(false));
    assert!(decide(&near, HOST) && !decide(&far, HOST));
    let mut group = criterion.benchmark_group("policy");
    group.bench_function("destination_by_host", |bencher| {
        bencher.iter(|| destination_by_host(black_box(&near), black_box(HOST), None));
    });
    group.bench_function("candidates of three clusters", |bencher| {
        let route = destination_by_host(&near, HOST, None).unwrap().unwrap();
        let mesh = near.mesh.clone().unwrap();
        bencher.iter(|| candidates(black_box(&route), &mesh, &NothingEjected));
    });
    group.bench_function("a request to an endpoint here", |bencher| {
        bencher.iter(|| decide(black_box(&near), black_box(HOST)));
    });
    group.bench_function("a request to another cluster", |bencher| {
        bencher.iter(|| decide(black_box(&far), black_box(HOST)));
    });
    group.finish();
}

criterion_group!(benches, policy);
criterion_main!(benches);
