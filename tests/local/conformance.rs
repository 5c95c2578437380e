//! The Gateway API's conformance tests of the mesh profiles, replayed: each case in
//! `tests/local/conformance/*.yaml` says one upstream test anew, for the demo's apps. All are declared with
//! `portolan apply` in one demo, at services of their own, and played through real sidecars: with Services
//! as parents and backends, and again with ServiceImports, whose second version runs in another cluster.

mod case;
mod client;
mod mcs;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use self::case::{Case, FACES, Play, Route};
use self::client::World;
use super::demo::Demo;

/// How long one case may take until every one of its requests is answered as it must, in one go.
const CASE_PATIENCE: Duration = Duration::from_secs(15);

const FILES: [&str; 6] = [
    "mesh",
    "matching",
    "filters",
    "redirects",
    "backends",
    "grpc",
];

fn folder() -> std::path::PathBuf {
    concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/local/conformance").into()
}

fn cases() -> Vec<Case> {
    let read = |name: &&str| -> Vec<Case> {
        let text = std::fs::read_to_string(folder().join(format!("{name}.yaml"))).unwrap();
        serde_saphyr::from_multiple(&text).unwrap_or_else(|error| panic!("{name}.yaml: {error}"))
    };
    FILES.iter().flat_map(read).collect()
}

fn plays() -> Vec<Play> {
    let mut plays = Vec::new();
    for (case, number) in cases().iter().zip(1..) {
        let at = |face: &_| case.faces.is_empty() || case.faces.contains(face);
        let faces = FACES.into_iter().filter(at);
        plays.extend(faces.map(|face| Play::new(case, face, number)));
    }
    plays
}

#[test]
fn the_mesh_profiles_hold() {
    let mut demo = Demo::start();
    let pages = start_pages(&mut demo);
    let plays = plays();
    declare(&demo, "the shared services", case::shared());
    for play in &plays {
        declare(&demo, &play.title(), play.declarations());
    }
    let world = World { demo: &demo, pages };
    let mut failed = Vec::new();
    for play in plays {
        let (begin, title) = (Instant::now(), play.title());
        let features = play.case.features.join(", ");
        let outcome = until_it_holds(&world, &play, 1).and_then(|()| match play.changed() {
            Some(changed) => {
                declare(&demo, &title, changed.declarations());
                until_it_holds(&world, &changed, 2)
            }
            None => Ok(()),
        });
        let took = begin.elapsed().as_millis();
        match outcome {
            Ok(()) => println!("passed in {took} ms: {title}: {features}"),
            Err(why) => {
                println!("FAILED: {title}: {features}\n    {}", why.join("\n    "));
                failed.push(title);
            }
        }
    }
    assert!(failed.is_empty(), "{failed:?}");
}

#[test]
fn the_page_names_every_test_that_is_replayed_and_no_other() {
    let page = folder().join("../../../docs/reference/routes.md");
    let page = std::fs::read_to_string(page).unwrap();
    let (_, section) = page.split_once("\n## Conformance\n").unwrap();
    let section = section.split("\n## ").next().unwrap();
    let first_cells = section
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.split(" | ").next());
    let told: BTreeSet<String> = first_cells
        .flat_map(|cell| cell.split('`').skip(1).step_by(2))
        .map(str::to_owned)
        .collect();
    let replayed: BTreeSet<String> = cases().into_iter().map(|case| case.upstream).collect();
    assert_eq!(told, replayed);
}

fn declare(demo: &Demo, what: &str, [east, west]: [Value; 2]) {
    for (cluster, declarations) in [("us-east", east), ("us-west", west)] {
        if declarations["items"].as_array().is_some_and(Vec::is_empty) {
            continue;
        }
        let ran = demo.apply(cluster, &declarations.to_string());
        assert_eq!(ran.code, 0, "{what}: {}{}", ran.out, ran.err);
    }
}

/// Looks until all that the case expects holds at once, with its routes in this generation.
fn until_it_holds(world: &World<'_>, play: &Play, generation: u32) -> Result<(), Vec<String>> {
    let begin = Instant::now();
    loop {
        let mut wrong = Vec::new();
        for route in &play.case.routes {
            wrong.extend(status(world.demo, play, route, generation).err());
        }
        for request in &play.case.requests {
            let outcome = world.play(play, request);
            let asked = request.grpc.as_ref().unwrap_or(&request.path);
            wrong.extend(outcome.err().map(|why| {
                let headers = json!(request.headers);
                format!("{} {asked} {headers}: {why}", request.method)
            }));
        }
        if wrong.is_empty() {
            return Ok(());
        }
        if begin.elapsed() > CASE_PATIENCE {
            return Err(wrong);
        }
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

/// Whether each parent's status is as expected.
fn status(demo: &Demo, play: &Play, route: &Route, generation: u32) -> Result<(), String> {
    let name = play.named(&route.name);
    let words = [
        "get",
        &route.kind,
        &name,
        "-n",
        &route.namespace,
        "-o",
        "json",
    ];
    let document: Value = serde_json::from_str(&demo.portolan("us-east", &words).ok()).unwrap();
    let parents = document["status"]["parents"].as_array();
    let parents = parents.ok_or_else(|| format!("{name} has no status"))?;
    if parents.len() != route.parents.len() {
        return Err(format!("{name} has {} statuses", parents.len()));
    }
    let expect = |of: &BTreeMap<&str, &Value>, kind: &str, no: Option<&String>| {
        let Some(condition) = of.get(kind) else {
            return Err(format!("{name} has no {kind}"));
        };
        let reason = no.map_or(kind, String::as_str);
        let status = if no.is_none() { "True" } else { "False" };
        let expected = [json!(status), json!(reason), json!(generation)];
        let found =
            ["status", "reason", "observedGeneration"].map(|field| condition[field].clone());
        (expected == found)
            .then_some(())
            .ok_or_else(|| format!("{name}: expected {kind} {expected:?}, found {condition}"))
    };
    for parent in parents {
        if parent["controllerName"] != "portolan.dev/mesh" {
            return Err(format!("{name}: {parent}"));
        }
        let conditions = parent["conditions"].as_array().unwrap();
        let conditions: BTreeMap<&str, &Value> = conditions
            .iter()
            .filter_map(|it| Some((it["type"].as_str()?, it)))
            .collect();
        expect(&conditions, "Accepted", route.not_accepted.as_ref())?;
        expect(&conditions, "ResolvedRefs", route.not_resolved.as_ref())?;
    }
    Ok(())
}

/// Adds a workload in another namespace, `web/pages`; where it sends its calls.
fn start_pages(demo: &mut Demo) -> std::net::SocketAddr {
    let east = demo.cluster("us-east").clone();
    let frontend = east.workload("frontend");
    let config = frontend.argv.sidecar.last().unwrap();
    let text = std::fs::read_to_string(config).unwrap();
    let mut settings: Value = serde_saphyr::from_str(&text).unwrap();
    let own = |of: std::net::SocketAddr| {
        let std::net::IpAddr::V4(ip) = of.ip() else {
            return of;
        };
        let [a, b, c, _] = ip.octets();
        std::net::SocketAddr::from(([a, b, c, 31], of.port()))
    };
    let outbound = own(frontend.outbound);
    settings["outbound"] = json!(outbound);
    settings["inbound"] = json!(own(frontend.inbound));
    settings["admin"] = json!(own(frontend.admin));
    settings["stateDir"] = json!(demo.dir.path().join("pages"));
    settings["workload"] = json!({
        "namespace": "web",
        "name": "pages",
        "serviceAccount": "pages",
        "labels": { "app": "pages" },
        "ports": {},
        "address": outbound.ip(),
    });
    let path = demo.dir.path().join("pages.yaml");
    std::fs::write(&path, settings.to_string()).unwrap();
    let mut argv = frontend.argv.sidecar.clone();
    *argv.last_mut().unwrap() = path.display().to_string();
    demo.restart(&argv);
    outbound
}
