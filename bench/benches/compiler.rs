//! What one change costs among ten thousand services.

#![expect(
    clippy::unwrap_used,
    reason = "a benchmark that cannot be set up has nothing to measure"
)]

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use portolan_compiler::{Change, Compiler, VipPools, read};
use portolan_model::declared::Declared;
use serde_json::json;

/// Fewer where it is only to be seen whether it runs.
const SERVICES: usize = if cfg!(debug_assertions) { 500 } else { 10_000 };

fn declared(text: &str) -> Declared {
    let mut result = read("-", text, &"shop".parse().unwrap());
    assert!(result.problems.is_empty(), "{:?}", result.problems);
    result.declared.remove(0).0
}

fn service(number: usize, port: u16) -> Declared {
    declared(&format!(
        "{{apiVersion: v1, kind: Service, metadata: {{name: s{number}}}, spec: {{selector: {{app: a{number}}}, ports: [{{name: http, port: {port}, targetPort: http}}]}}}}"
    ))
}

/// So many services, each with one live workload.
fn compiler() -> Compiler {
    let identity = json!({ "name": "east", "set": "acme", "region": "us", "zones": [], "trust_domain": "east.acme" });
    let pools = VipPools {
        v4: "240.241.0.0/16".parse().unwrap(),
        v6: None,
    };
    let mut compiler = Compiler::new(serde_json::from_value(identity).unwrap(), pools);
    for number in 0..SERVICES {
        compiler.apply(Change::Declared(service(number, 80)));
        let (high, low) = (number / 250, number % 250);
        compiler.apply(Change::Declared(declared(&format!(
            "{{apiVersion: portolan.dev/v1alpha1, kind: Workload, metadata: {{name: w{number}, labels: {{app: a{number}}}}}, spec: {{address: 10.0.{high}.{low}, serviceAccount: a, ports: {{http: 8080}}}}}}"
        ))));
        compiler.apply(liveness(number, true));
    }
    assert_eq!(compiler.compile().recompiled, SERVICES);
    compiler
}

fn liveness(number: usize, ready: bool) -> Change {
    Change::Liveness {
        workload: format!("shop/w{number}").parse().unwrap(),
        ready: Some(ready),
    }
}

fn one_change(criterion: &mut Criterion) {
    let mut compiler = compiler();
    let mut group = criterion.benchmark_group("one change");
    group.bench_function("a workload goes or comes", |bencher| {
        let mut ready = true;
        bencher.iter(|| {
            ready = !ready;
            compiler.apply(liveness(77, ready));
            black_box(compiler.compile())
        });
    });
    group.bench_function("a service changes", |bencher| {
        let versions = [service(4711, 80), service(4711, 81)];
        let mut turn = 0;
        bencher.iter(|| {
            turn += 1;
            compiler.apply(Change::Declared(versions[turn % 2].clone()));
            let output = compiler.compile();
            assert_eq!(output.recompiled, 1);
            output
        });
    });
    group.finish();
}

criterion_group!(benches, one_change);
criterion_main!(benches);
