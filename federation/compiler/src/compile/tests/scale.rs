//! A change costs what it touches, not what there is.

use super::*;

#[test]
fn one_change_among_ten_thousand_services_recompiles_one() {
    let mut compiler = compiler();
    let (template, other) = (simple_service("x", "x"), workload("x", "x", ""));
    for n in 0..10_000 {
        let mut service = template.clone();
        service.key.name = format!("s{n}");
        if let portolan_model::declared::DeclaredSpec::Service(spec) = &mut service.spec {
            spec.selector = [("app".to_owned(), format!("a{n}"))].into();
        }
        let mut workload = other.clone();
        workload.key.name = format!("w{n}");
        workload.labels = [("app".to_owned(), format!("a{n}"))].into();
        compiler.apply(Change::Declared(service));
        compiler.apply(Change::Declared(workload));
    }
    assert_eq!(compile(&mut compiler).recompiled, 10_000);
    let one_liveness = Change::Liveness {
        workload: workload_key("w77"),
        ready: Some(false),
    };
    let mut moved = other;
    moved.key.name = "w4711".into();
    let one_service_more = Change::Declared(export("s9", 1));
    for (change, recompiled) in [
        (one_liveness, 1),
        (one_service_more, 1),
        (Change::Declared(moved), 1),
        (Change::Gateways(vec![]), 0),
    ] {
        compiler.apply(change);
        let output = compiler.compile();
        assert_eq!(output.recompiled, recompiled);
        assert_eq!(output.delta.services.len(), recompiled);
    }
}
