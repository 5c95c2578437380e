//! One cluster's own services, its workloads, exports and peers.

use super::*;
use portolan_model::declared::ExportTo;
use portolan_model::snapshot::Gateway;

#[test]
fn a_service_has_its_ready_workloads_as_endpoints() {
    let mut compiler = compiler();
    declare(
        &mut compiler,
        [
            simple_service("orders", "a"),
            workload("w1", "a", ", weight: 7, hostname: h, inboundPort: 4000"),
            workload("w2", "b", ""),
        ],
    );
    let service = compiled(&compiler, "orders");
    let local = service.local.as_ref().unwrap();
    assert_eq!(local.endpoints.len(), 1);
    let endpoint = &local.endpoints[0];
    assert_eq!(
        endpoint.identity.to_string(),
        "spiffe://east.acme/ns/shop/sa/a"
    );
    assert_eq!(endpoint.inbound.port(), 4000);
    assert_eq!(endpoint.weight, 7);
    assert_eq!(endpoint.locality.region, identity().region);
    assert_eq!(endpoint.ports, [(80, 8080)].into());
    assert!(endpoint.ready);
    assert!(!service.imported && service.vips.set.is_empty());
    assert_eq!(service.vips.local.len(), 2);
    assert_eq!(local.exported, ExportTo::Nobody);
    let inbound = &compiler.snapshot().inbound[&workload_key("w1")];
    assert_eq!(
        (inbound.ports[0].port, inbound.ports[0].app_port),
        (80, 8080)
    );
    assert_eq!(compiler.snapshot().inbound[&workload_key("w2")].ports, []);
}

#[test]
fn readiness_is_what_was_reported_last() {
    let mut compiler = compiler();
    declare(
        &mut compiler,
        [
            simple_service("orders", "a"),
            workload("declared", "a", ""),
            workload("leased", "a", ", leased: true"),
        ],
    );
    let ready = |compiler: &Compiler| -> Vec<bool> {
        let local = compiled(compiler, "orders").local.as_ref().unwrap();
        local.endpoints.iter().map(|one| one.ready).collect()
    };
    assert_eq!(ready(&compiler), [true, false]);
    let say = |name: &str, ready| Change::Liveness {
        workload: workload_key(name),
        ready,
    };
    apply(
        &mut compiler,
        [say("declared", Some(false)), say("leased", Some(true))],
    );
    assert_eq!(ready(&compiler), [false, true]);
    let output = apply(&mut compiler, [say("leased", Some(true))]);
    assert_eq!((output.recompiled, output.is_empty()), (0, true));
    let output = apply(&mut compiler, [say("declared", None), say("leased", None)]);
    assert_eq!(ready(&compiler), [true, false]);
    assert!(output.delta.inbound.is_empty());
    apply(&mut compiler, [say("early", Some(true))]);
    declare(&mut compiler, [workload("early", "a", ", leased: true")]);
    assert_eq!(ready(&compiler), [true, true, false]);
}

#[test]
fn a_workload_without_the_named_port_is_no_endpoint_for_it() {
    let mut compiler = compiler();
    let two = "{selector: {app: a}, ports: [{name: x, port: 1, targetPort: http}, {name: y, port: 2, targetPort: other}]}";
    declare(
        &mut compiler,
        [
            service("two", two),
            service(
                "none",
                "{selector: {app: a}, ports: [{port: 2, targetPort: other}]}",
            ),
            workload("w", "a", ""),
        ],
    );
    let endpoints = |name| &compiled(&compiler, name).local.as_ref().unwrap().endpoints;
    assert_eq!(endpoints("two")[0].ports, [(1, 8080)].into());
    assert_eq!(endpoints("none").len(), 0);
}

#[test]
fn selectors_match_all_labels_within_the_namespace() {
    let mut compiler = compiler();
    let mut tagged = workload("w1", "a", "");
    tagged.labels.insert("tier".into(), "front".into());
    let mut elsewhere = workload("w1", "a", "");
    elsewhere.key.namespace = Some("other".parse().unwrap());
    let both = "{selector: {app: a, tier: front}, ports: [{port: 1}]}";
    declare(
        &mut compiler,
        [
            service("both", both),
            tagged,
            workload("w2", "a", ""),
            elsewhere,
        ],
    );
    let count = |compiler: &Compiler| {
        let local = compiled(compiler, "both").local.as_ref().unwrap();
        local.endpoints.len()
    };
    assert_eq!(count(&compiler), 1);
    declare(
        &mut compiler,
        [service("both", "{selector: {app: a}, ports: [{port: 1}]}")],
    );
    assert_eq!(count(&compiler), 2);
    declare(&mut compiler, [workload("w2", "b", "")]);
    assert_eq!(count(&compiler), 1);
    declare(&mut compiler, [service("both", "{ports: [{port: 1}]}")]);
    assert_eq!(count(&compiler), 0);
}

#[test]
fn an_export_is_offered_to_whom_it_names() {
    let mut compiler = compiler();
    let output = declare(
        &mut compiler,
        [
            simple_service("orders", "a"),
            workload("w", "a", ""),
            export_to("orders", "west", 5),
            peer("west", "west.acme", 1),
            peer("north", "north.acme", 1),
        ],
    );
    let entry = &compiler.catalogue_for(&cluster("west"))[0];
    assert_eq!((entry.exported_ms, entry.ready(), entry.total()), (5, 1, 1));
    assert_eq!(
        output.catalogue_delta(&cluster("west")).upserts,
        std::slice::from_ref(entry)
    );
    assert_eq!(compiler.catalogue_for(&cluster("north")), []);
    assert_eq!(
        output.catalogue_delta(&cluster("north")),
        CatalogueDelta::default()
    );
    let service = compiled(&compiler, "orders");
    assert!(service.imported);
    assert_eq!(service.vips.set.len(), 2);
    assert_eq!(
        service.vips.pinned.keys().collect::<Vec<_>>(),
        [&cluster("east")]
    );
    let inbound = &compiler.snapshot().inbound[&workload_key("w")];
    assert!(inbound.ports[0].exported.allows(&cluster("west")));
    assert_eq!(
        condition(&compiler, &export_key("orders"), "Ready"),
        "True/Exported"
    );

    let output = declare(&mut compiler, [export_to("orders", "north", 5)]);
    assert_eq!(
        output.catalogue_delta(&cluster("west")).removals,
        [key("orders")]
    );
    assert_eq!(output.catalogue_delta(&cluster("north")).upserts.len(), 1);
    let output = apply(&mut compiler, [Change::Deleted(export_key("orders"))]);
    assert_eq!(
        output.catalogue_delta(&cluster("north")).removals,
        [key("orders")]
    );
    assert_eq!(
        output.catalogue_delta(&cluster("west")),
        CatalogueDelta::default()
    );
    assert_eq!(output.imports, [(key("orders"), None)].into());
    assert_eq!(output.statuses[&export_key("orders")], None);
}

#[test]
fn an_export_says_when_it_is_not_valid() {
    let mut compiler = compiler();
    let valid = |compiler: &Compiler| condition(compiler, &export_key("a"), "Valid");
    declare(&mut compiler, [export("a", 1)]);
    assert_eq!(valid(&compiler), "False/NoService");
    assert_eq!(compiler.problems()[&export_key("a")].len(), 1);
    assert!(compiler.snapshot().services.is_empty());
    declare(
        &mut compiler,
        [service("a", "{type: ExternalName, externalName: x.y}")],
    );
    assert_eq!(valid(&compiler), "False/InvalidServiceType");
    assert!(compiler.snapshot().services.is_empty() && compiler.imports().is_empty());
    let output = declare(&mut compiler, [simple_service("a", "a")]);
    assert_eq!(valid(&compiler), "True/Valid");
    assert_eq!(output.problems, [(export_key("a"), vec![])].into());
    assert_eq!(
        condition(&compiler, &export_key("a"), "Conflict"),
        "False/NoConflicts"
    );
}

#[test]
fn a_headless_service_lists_ready_hosts_and_has_no_virtual_ip() {
    let mut compiler = compiler();
    let headless =
        "{clusterIP: None, selector: {app: a}, ports: [{name: http, port: 80, targetPort: http}]";
    declare(
        &mut compiler,
        [
            service("db", &format!("{headless}}}")),
            export("db", 1),
            workload("w1", "a", ", hostname: db-0"),
            workload("w2", "a", ", hostname: db-1, leased: true"),
            peer("west", "west.acme", 1),
        ],
    );
    let hosts = |compiler: &Compiler| compiler.catalogue_for(&cluster("west"))[0].hosts.clone();
    assert_eq!(hosts(&compiler), ["db-0".parse().unwrap()]);
    declare(&mut compiler, [workload("w3", "a", "")]);
    let local = compiled(&compiler, "db").local.clone().unwrap();
    let label = local.endpoints[2].address.to_string().replace('.', "-");
    assert_eq!(
        hosts(&compiler),
        [label.parse().unwrap(), "db-0".parse().unwrap()],
        "who has no host name is known by its address"
    );
    let service_now = compiled(&compiler, "db");
    assert_eq!(service_now.vips, portolan_model::snapshot::Vips::default());
    assert_eq!(compiler.imports()[&key("db")]["spec"]["type"], "Headless");
    declare(
        &mut compiler,
        [service(
            "db",
            &format!("{headless}, publishNotReadyAddresses: true}}"),
        )],
    );
    assert_eq!(hosts(&compiler).len(), 3);
}

#[test]
fn declared_cluster_ips_belong_to_the_oldest_service() {
    let mut compiler = compiler();
    let with = |name: &str, ip: &str, at| Declared {
        created_ms: at,
        ..service(
            name,
            &format!("{{selector: {{app: a}}, ports: [{{port: 1}}], clusterIP: {ip}}}"),
        )
    };
    declare(
        &mut compiler,
        [
            with("a", "10.9.0.1", 2),
            with("b", "10.9.0.1", 1),
            with("c", "240.241.0.9", 1),
        ],
    );
    let local = |compiler: &Compiler, name| compiled(compiler, name).vips.local.clone();
    let wanted: Vec<IpAddr> = vec!["10.9.0.1".parse().unwrap()];
    assert_eq!(local(&compiler, "b"), wanted);
    assert_eq!(local(&compiler, "a").len(), 2);
    assert_eq!(compiler.problems().len(), 2);
    let output = apply(
        &mut compiler,
        [Change::Deleted(facts::service_resource(&key("b")))],
    );
    assert_eq!(local(&compiler, "a"), wanted);
    assert_eq!(output.vips_released, ["shop/a@cluster.local"]);
    assert_eq!(compiler.problems().len(), 1);
}

#[test]
fn a_broken_document_leaves_the_last_good_version_in_force() {
    let mut compiler = compiler();
    declare(&mut compiler, [simple_service("a", "a")]);
    let broken = problem(Severity::Error, "spec", "no".into(), "yes");
    let resource = facts::service_resource(&key("a"));
    let output = apply(
        &mut compiler,
        [Change::Broken {
            key: resource.clone(),
            problems: vec![broken],
        }],
    );
    assert!(output.delta.is_empty());
    assert_eq!(
        output.problems[&resource][0].resource.as_deref(),
        Some("Service shop/a")
    );
    assert!(compiler.snapshot().services.contains_key(&key("a")));
    let output = declare(&mut compiler, [simple_service("a", "a")]);
    assert_eq!(output.problems, [(resource, vec![])].into());
}

#[test]
fn mesh_and_trust_come_out_when_they_change() {
    let mut compiler = compiler();
    let mesh = compile(&mut compiler).delta.mesh.unwrap();
    assert_eq!(mesh.cluster, identity());
    assert!(compile(&mut compiler).is_empty());
    let gateway = |name: &str| Gateway {
        name: name.into(),
        tcp: "127.0.0.1:1".parse().unwrap(),
        quic: "127.0.0.1:2".parse().unwrap(),
    };
    let trust = Trust {
        roots: vec![vec![1]],
    };
    let up = LinkState::Up { rtt_us: 9 };
    let changes = [
        Change::Gateways(vec![gateway("b"), gateway("a")]),
        Change::Control(vec!["127.0.0.1:3".parse().unwrap()]),
        Change::Declared(peer("west", "west.acme", 1)),
        Change::Links([(cluster("west"), up), (cluster("stranger"), up)].into()),
        Change::Trust(trust.clone()),
    ];
    let output = apply(&mut compiler, changes);
    let mesh = output.delta.mesh.unwrap();
    assert_eq!(mesh.gateways, [gateway("a"), gateway("b")]);
    assert_eq!(mesh.peers.len(), 1);
    assert_eq!(mesh.peers[0].link, up);
    assert_eq!(output.delta.trust.as_deref(), Some(&trust));
    assert_eq!(output.delta.generation, compiler.snapshot().generation);
    let resource = peer_resource(&cluster("west"));
    assert_eq!(condition(&compiler, &resource, "Linked"), "True/Up");
    assert_eq!(condition(&compiler, &resource, "Accepted"), "True/Accepted");
    apply(&mut compiler, [Change::Links(BTreeMap::new())]);
    assert_eq!(condition(&compiler, &resource, "Linked"), "Unknown/Pending");
    let gone = apply(&mut compiler, [Change::Deleted(resource.clone())]);
    assert_eq!(gone.statuses, [(resource, None)].into());
}

#[test]
fn a_full_pool_is_a_problem_and_heals() {
    let mut compiler = Compiler::new(identity(), pools("10.7.0.0/30"));
    declare(
        &mut compiler,
        [
            simple_service("a", "a"),
            simple_service("b", "a"),
            simple_service("c", "a"),
        ],
    );
    let without = |compiler: &Compiler| -> Vec<String> {
        let services = compiler.snapshot().services.values();
        let without = services.filter(|service| service.vips.local.is_empty());
        without.map(|service| service.key.to_string()).collect()
    };
    assert_eq!(without(&compiler), ["shop/c"]);
    let starved = facts::service_resource(&key("c"));
    assert!(
        compiler.problems()[&starved][0]
            .message
            .contains("no virtual IP is free")
    );
    let output = apply(
        &mut compiler,
        [Change::Deleted(facts::service_resource(&key("a")))],
    );
    assert_eq!(without(&compiler), Vec::<String>::new());
    assert_eq!(output.problems, [(starved, vec![])].into());
    assert_eq!(output.vips_released, ["shop/a@cluster.local"]);
    assert_eq!(
        output.vips_assigned.keys().collect::<Vec<_>>(),
        ["shop/c@cluster.local"]
    );
}

#[test]
fn restored_virtual_ips_are_used_again() {
    let mut first = compiler();
    let output = declare(&mut first, [simple_service("a", "a"), export("a", 1)]);
    assert_eq!(
        output.vips_assigned.keys().collect::<Vec<_>>(),
        ["shop/a", "shop/a@cluster.local", "shop/a@east"]
    );
    let mut moved = output.vips_assigned;
    moved.insert(
        "shop/a".into(),
        vec![
            "240.241.9.9".parse().unwrap(),
            "fd24::f0f1:909".parse().unwrap(),
        ],
    );
    let mut second = compiler();
    let output = apply(
        &mut second,
        [
            Change::VipAssigned(moved.clone()),
            Change::Declared(simple_service("a", "a")),
            Change::Declared(export("a", 1)),
        ],
    );
    assert_eq!(compiled(&second, "a").vips.set, moved["shop/a"]);
    assert_eq!(output.vips_assigned, BTreeMap::new());
}
