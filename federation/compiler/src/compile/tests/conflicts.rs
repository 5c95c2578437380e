//! What peers offer: accepted, merged or refused.

use super::*;
use portolan_model::sharing::ENTRY_PORTS_MAX;

fn linked() -> Compiler {
    let mut compiler = compiler();
    declare(
        &mut compiler,
        [peer("west", "west.acme", 1), peer("north", "north.acme", 2)],
    );
    compiler
}

#[test]
fn an_offered_service_is_imported() {
    let mut compiler = linked();
    let output = apply(
        &mut compiler,
        [offer("west", vec![entry("a", "west.acme", 3)])],
    );
    let service = compiled(&compiler, "a");
    assert!(service.imported && service.local.is_none());
    assert_eq!(service.remote[0].region, "eu".parse().unwrap());
    assert_eq!(
        (service.remote[0].ready(), service.remote[0].total()),
        (2, 3)
    );
    assert_eq!(service.vips.local.len(), 0);
    let import = output.imports[&key("a")].as_ref().unwrap();
    assert_eq!(import["spec"]["type"], "ClusterSetIP");
    assert_eq!(import["spec"]["ips"], serde_json::json!(service.vips.set));
    assert_eq!(
        import["spec"]["ipFamilies"],
        serde_json::json!(["IPv4", "IPv6"])
    );
    assert_eq!(import["spec"]["sessionAffinity"], "None");
    assert_eq!(
        import["spec"]["ports"],
        serde_json::json!([{"name": "http", "port": 80, "protocol": "TCP", "appProtocol": "http"}])
    );
    assert_eq!(
        import["status"]["clusters"],
        serde_json::json!([{"cluster": "west"}])
    );
    assert_eq!(import["status"]["conditions"][0]["reason"], "Ready");
}

#[test]
fn what_is_not_exported_here_stays_out_of_the_set() {
    let mut compiler = linked();
    let mut remote = entry("a", "west.acme", 3);
    remote.ports = vec![port("other", 99, Protocol::Tcp)];
    declare(
        &mut compiler,
        [simple_service("a", "a"), workload("w", "a", "")],
    );
    let local_vips = compiled(&compiler, "a").vips.local.clone();
    apply(&mut compiler, [offer("west", vec![remote.clone()])]);
    let service = compiled(&compiler, "a");
    assert_eq!(service.ports, remote.ports);
    assert_eq!(service.local.as_ref().unwrap().ports[0].number, 80);
    assert_eq!(service.vips.local, local_vips);
    assert!(!service.vips.pinned.contains_key(&cluster("east")));
}

#[test]
fn the_oldest_export_wins_and_every_export_hears_of_the_conflict() {
    let mut compiler = linked();
    let mut older = entry("a", "west.acme", 3);
    older.ports = vec![
        port("http", 8080, Protocol::Http),
        port("extra", 90, Protocol::Tcp),
    ];
    declare(&mut compiler, [simple_service("a", "a"), export("a", 5)]);
    let set = compiled(&compiler, "a").vips.set.clone();
    apply(&mut compiler, [offer("west", vec![older.clone()])]);
    let service = compiled(&compiler, "a");
    assert_eq!(service.ports, older.ports);
    assert_eq!(service.vips.set, set);
    assert_eq!(
        condition(&compiler, &export_key("a"), "Conflict"),
        "True/PortConflict"
    );

    older.kind = ServiceKind::Headless;
    apply(&mut compiler, [offer("west", vec![older.clone()])]);
    assert_eq!(compiled(&compiler, "a").kind, ServiceKind::Headless);
    assert!(compiled(&compiler, "a").vips.set.is_empty());
    assert_eq!(compiled(&compiler, "a").vips.local.len(), 2);
    let conflict = condition(&compiler, &export_key("a"), "Conflict");
    assert_eq!(conflict, "True/PortConflict,TypeConflict");

    older.exported_ms = 9;
    apply(&mut compiler, [offer("west", vec![older])]);
    let service = compiled(&compiler, "a");
    assert_eq!(service.kind, ServiceKind::Virtual);
    assert_eq!(
        service.vips.set, set,
        "a returning import has its old address"
    );
    assert_eq!(
        service
            .ports
            .iter()
            .map(|port| port.number)
            .collect::<Vec<_>>(),
        [80, 90]
    );

    let gone = Change::Catalogue {
        peer: cluster("west"),
        full: true,
        upserts: vec![],
        removals: vec![],
    };
    apply(&mut compiler, [gone]);
    assert_eq!(
        condition(&compiler, &export_key("a"), "Conflict"),
        "False/NoConflicts"
    );
}

#[test]
fn entries_are_refused_one_by_one_with_their_reasons() {
    let good = || entry("good", "west.acme", 1);
    let named = |name: &str, change: fn(&mut CatalogueEntry)| {
        let mut entry = entry(name, "west.acme", 1);
        change(&mut entry);
        entry
    };
    let entries = vec![
        named("foreign", |entry| {
            entry.identities = vec![SpiffeId::parse("spiffe://north.acme/ns/shop/sa/a").unwrap()];
        }),
        good(),
        named("control", |entry| {
            entry.identities =
                vec![SpiffeId::parse("spiffe://west.acme/portolan/control/west").unwrap()];
        }),
        named("many", |entry| {
            entry.ports = (1..)
                .take(ENTRY_PORTS_MAX + 1)
                .map(|n| port(&format!("p{n}"), n, Protocol::Tcp))
                .collect();
        }),
        named("twice", |entry| entry.ports.push(entry.ports[0].clone())),
        named("ready", |entry| entry.localities[0].ready = 4),
        named("hosts", |entry| entry.hosts = vec!["h".parse().unwrap()]),
        named("zero", |entry| entry.ports[0].number = 0),
    ];
    let mut compiler = linked();
    let refused = compiler.apply(offer("west", entries));
    let names: Vec<_> = refused
        .iter()
        .map(|one| one.service.clone().unwrap().name.to_string())
        .collect();
    assert_eq!(
        names,
        [
            "foreign", "control", "many", "twice", "ready", "hosts", "zero"
        ]
    );
    assert!(refused[0].reason.contains("own trust domain `west.acme`"));
    compile(&mut compiler);
    assert_eq!(
        compiler.snapshot().services.keys().collect::<Vec<_>>(),
        [&key("good")]
    );
    assert_eq!(
        compiler.problems()[&peer_resource(&cluster("west"))].len(),
        7
    );

    let stranger = compiler.apply(offer("stranger", vec![good()]));
    assert_eq!((stranger.len(), &stranger[0].service), (1, &None));

    let mut turned = good();
    turned.identities = vec![SpiffeId::parse("spiffe://east.acme/ns/shop/sa/a").unwrap()];
    assert_eq!(compiler.apply(offer("west", vec![turned])).len(), 1);
    compile(&mut compiler);
    assert!(compiler.snapshot().services.is_empty());
}

#[test]
fn a_removed_peer_takes_its_parts_along() {
    let mut compiler = linked();
    apply(
        &mut compiler,
        [
            offer(
                "west",
                vec![entry("a", "west.acme", 1), entry("b", "west.acme", 1)],
            ),
            offer("north", vec![entry("b", "north.acme", 1)]),
        ],
    );
    let west = peer_resource(&cluster("west"));
    let output = apply(&mut compiler, [Change::Deleted(west)]);
    assert_eq!(
        compiler.snapshot().services.keys().collect::<Vec<_>>(),
        [&key("b")]
    );
    assert_eq!(compiled(&compiler, "b").remote[0].cluster, cluster("north"));
    assert_eq!(
        output.vips_released,
        ["shop/a", "shop/a@west", "shop/b@west"]
    );
    assert_eq!(output.delta.mesh.unwrap().peers.len(), 1);
}

#[test]
fn a_peer_with_a_new_trust_domain_must_say_everything_again() {
    let mut compiler = linked();
    apply(
        &mut compiler,
        [offer("west", vec![entry("a", "west.acme", 1)])],
    );
    let moved = Change::Declared(peer("west", "far-west.acme", 1));
    assert_eq!(compiler.apply(moved).len(), 1);
    compile(&mut compiler);
    assert!(compiler.snapshot().services.is_empty());
    apply(
        &mut compiler,
        [offer("west", vec![entry("a", "far-west.acme", 1)])],
    );
    assert_eq!(compiler.snapshot().services.len(), 1);
}

#[test]
fn peers_that_cannot_be_are_kept_out_of_the_mesh() {
    let mut compiler = linked();
    declare(
        &mut compiler,
        [
            peer("east", "x", 1),
            peer("own", "east.acme", 1),
            peer("late", "west.acme", 9),
        ],
    );
    let mesh = compiler.snapshot().mesh.clone().unwrap();
    let names: Vec<_> = mesh.peers.iter().map(|peer| peer.name.as_str()).collect();
    assert_eq!(names, ["north", "west"]);
    for name in ["east", "own", "late"] {
        let resource = peer_resource(&cluster(name));
        assert_eq!(condition(&compiler, &resource, "Accepted"), "False/Invalid");
        assert_eq!(compiler.problems()[&resource].len(), 1, "{name}");
    }
    apply(
        &mut compiler,
        [Change::Deleted(peer_resource(&cluster("west")))],
    );
    let late = peer_resource(&cluster("late"));
    assert_eq!(condition(&compiler, &late, "Accepted"), "True/Accepted");
    assert!(!compiler.problems().contains_key(&late));
}
