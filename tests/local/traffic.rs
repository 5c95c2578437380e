//! Every traffic policy that is shown, in force: each example is applied to a running demo, and changes
//! what callers see. What those do that choose among endpoints is in [`super::crowd`], and what happens above
//! an app's capacity in [`super::overload`].

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use super::call::{Answer, call, get, get_now, request, runtime};
use super::demo::{Demo, eventually};
use super::load::Load;

const ORDERS: &str = "http://orders.shop.svc.clusterset.local/";
const LOCAL: &str = "http://orders.shop.svc.cluster.local/";

/// What an app does wrong until told otherwise.
fn misbehave(app: SocketAddr, how: &str) {
    let answer = get_now(app, &format!("http://app/__fail?{how}")).unwrap();
    assert_eq!(answer.status, 200);
}

/// The name of every example of a traffic policy.
fn examples() -> Vec<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/examples");
    let files = std::fs::read_dir(folder).unwrap().flatten();
    let names = files.map(|file| file.file_name().into_string().unwrap());
    let mut names: Vec<String> = names
        .filter_map(|name| {
            Some(
                name.strip_prefix("traffic-")?
                    .strip_suffix(".yaml")?
                    .to_owned(),
            )
        })
        .collect();
    names.sort();
    names
}

struct Stage {
    demo: Demo,
    frontend: SocketAddr,
    orders: SocketAddr,
}

impl Stage {
    fn set() -> Self {
        let demo = Demo::start();
        Self {
            frontend: demo.frontend(),
            orders: demo.cluster("us-east").workload("orders").app,
            demo,
        }
    }

    /// Applies an example, and waits until the frontend's sidecar obeys it.
    fn apply(&self, name: &str, told: &str) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/examples");
        let file = folder.join(format!("traffic-{name}.yaml"));
        self.demo
            .portolan("us-east", &["apply", "-f", file.to_str().unwrap()])
            .ok();
        eventually(&format!("{name} is in force"), || {
            self.explain().contains(told)
        });
        let status = self.demo.portolan(
            "us-east",
            &["get", "trafficpolicy", "orders", "-n", "shop", "-o", "yaml"],
        );
        let status = status.ok();
        assert!(status.contains("reason: Accepted"), "{name}: {status}");
    }

    /// What the frontend's sidecar says of a call to orders.
    fn explain(&self) -> String {
        let admin = self
            .demo
            .cluster("us-east")
            .workload("frontend")
            .admin
            .to_string();
        let ran = self
            .demo
            .portolan("us-east", &["explain", "--sidecar", &admin, ORDERS]);
        ran.ok()
    }

    /// How often each cluster answers so many calls, one after the other.
    fn clusters(&self, calls: usize) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        runtime().block_on(async {
            for _ in 0..calls {
                let answer = get(self.frontend, ORDERS).await.unwrap();
                assert_eq!(answer.status, 200, "{}", answer.refusal());
                *counts.entry(answer.cluster()).or_default() += 1;
            }
        });
        counts
    }

    fn all_from(&self, cluster: &str) -> bool {
        self.clusters(5) == BTreeMap::from([(cluster.to_owned(), 5)])
    }

    /// So many calls at once to the own cluster, each of which takes a while.
    fn at_once(&self, calls: usize, url: &str) -> Vec<Answer> {
        runtime().block_on(async {
            let mut tasks = tokio::task::JoinSet::new();
            for _ in 0..calls {
                let (frontend, request) = (self.frontend, request("GET", url));
                tasks.spawn(async move { call(frontend, request).await.unwrap() });
            }
            tasks.join_all().await
        })
    }
}

#[test]
#[expect(
    clippy::too_many_lines,
    reason = "one demo serves one example after the other"
)]
fn every_example_changes_what_it_says() {
    let stage = Stage::set();
    let mut shown = examples();
    let mut show = |name: &str, told: &str| {
        stage.apply(name, told);
        shown.retain(|it| it != name);
    };
    assert!(stage.all_from("us-east"));

    show("listed", "clusters in the order eu-west");
    // It may have been left alone for a second, while the links were new.
    eventually("eu-west answers", || stage.all_from("eu-west"));
    show("pinned", "only eu-west");
    assert!(stage.all_from("eu-west"));
    show("nearest", "overprovisioning");
    assert!(stage.all_from("us-east"));
    show("weighted", "by weight: eu-west 10, us-east 90");
    let counts = stage.clusters(400);
    // 40 are expected; one in a million runs is outside of this.
    assert!((12..=75).contains(&counts["eu-west"]), "{counts:?}");
    assert_eq!(counts["eu-west"] + counts["us-east"], 400, "{counts:?}");
    show("min-healthy", "2 healthy endpoints");
    let counts = stage.clusters(200);
    assert!((60..=140).contains(&counts["us-east"]), "{counts:?}");
    show("latency", "answers are fastest");
    misbehave(stage.orders, "delay=400");
    eventually("slow answers send calls elsewhere", || {
        get_now(stage.frontend, ORDERS).unwrap().cluster() != "us-east"
    });
    misbehave(stage.orders, "");
    show("return", "time to return");

    for (name, told) in [
        ("least-request", "fewer requests under way"),
        ("round-robin", "one after the other"),
        ("random", "any, by weight"),
        (
            "ring-hash",
            "on a hash ring, by header x-user, else cookie session",
        ),
        (
            "maglev",
            "by a Maglev table, by query parameter user, else caller",
        ),
        ("slow-start", "slow start"),
        ("success-rate", "outlier detection"),
        ("latency-outlier", "outlier detection"),
        ("connection-age", "timeouts"),
        ("adaptive-concurrency", "adaptive concurrency"),
        ("health-check", "health checks"),
    ] {
        show(name, told);
        eventually("us-east answers", || stage.all_from("us-east"));
    }

    show("circuit-breaker", "circuit breaker");
    let answers = stage.at_once(8, &format!("{LOCAL}delay/500"));
    let refused = answers
        .iter()
        .filter(|it| it.refusal().starts_with("overloaded"));
    assert!((1..=6).contains(&refused.count()), "two of them fit");
    show("endpoint-limit", "circuit breaker");
    let answers = stage.at_once(3, &format!("{LOCAL}delay/1500"));
    let refused = answers
        .iter()
        .filter(|it| it.refusal().starts_with("overloaded"));
    assert!((1..=2).contains(&refused.count()), "one of them fits");

    show("retries", "retries");
    misbehave(stage.orders, "status=500");
    assert_eq!(
        get_now(stage.frontend, ORDERS).unwrap().status,
        200,
        "from elsewhere"
    );
    misbehave(stage.orders, "delay=5000");
    show("per-try-timeout", "retries");
    let quickly = |what: &str| {
        eventually(what, || {
            let begin = Instant::now();
            let answer = get_now(stage.frontend, ORDERS).unwrap();
            answer.status == 200 && begin.elapsed() < Duration::from_secs(4)
        });
    };
    quickly("a try that takes too long is given up");
    show("hedging", "hedging");
    quickly("a second sending is faster");
    show("timeouts", "timeouts");
    let answer = get_now(stage.frontend, LOCAL).unwrap();
    assert_eq!(answer.status, 504, "{}", answer.refusal());
    assert!(
        answer.refusal().starts_with("timeout"),
        "{}",
        answer.refusal()
    );
    misbehave(stage.orders, "");
    show("outlier", "outlier detection");
    assert_eq!(shown, [""; 0], "every example is shown");
}

#[test]
fn a_brown_out_moves_traffic_away_within_a_second_and_its_end_brings_it_back() {
    let stage = Stage::set();
    stage.apply("outlier", "outlier detection");
    let load = Load {
        proxy: stage.frontend,
        url: ORDERS,
        per_second: 200,
        total: 1_600,
    };
    let tally = load.run_while(400, || misbehave(stage.orders, "status=500"));
    let failures = tally.failures();
    let first = failures.first().unwrap().at;
    let soon = failures
        .iter()
        .filter(|it| it.at < first + Duration::from_secs(1))
        .count();
    println!(
        "brown-out: {} of {} failed, {soon} of them within a second; {} from us-east, {} from us-west",
        failures.len(),
        tally.sent.len(),
        tally.from("us-east"),
        tally.from("us-west"),
    );
    assert!(tally.from("us-west") > 400, "traffic left");
    let later = failures.len() - soon;
    // Each worker looks again after 1, 3, 6, … seconds, with what is under way then.
    assert!(
        later < 60,
        "{later} failed later than a second after the first"
    );
    let told = stage.explain();
    assert!(told.contains("ejected"), "{told}");

    misbehave(stage.orders, "");
    let back = eventually("a good part of the calls is back in us-east", || {
        stage
            .clusters(20)
            .get("us-east")
            .is_some_and(|count| *count >= 5)
    });
    println!("a quarter is back after {back:?}");
}

#[test]
fn a_bad_policy_changes_nothing_and_its_place_is_told() {
    let stage = Stage::set();
    stage.apply("listed", "clusters in the order eu-west");
    let bad = "apiVersion: portolan.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {name: orders, namespace: shop}\n\
               spec:\n  targetRefs: [{kind: Service, name: orders}]\n  failover: {mode: Neares}\n";
    let ran = stage.demo.apply("us-east", bad);
    assert_eq!(ran.code, 3, "{}", ran.err);
    for part in [":6:20", "spec.failover.mode", "did you mean `Nearest`?"] {
        assert!(ran.err.contains(part), "no {part}:\n{}", ran.err);
    }
    assert!(stage.all_from("eu-west"));
    stage.apply("nearest", "overprovisioning");
    let younger = bad.replace("name: orders, namespace", "name: younger, namespace");
    let younger = younger.replace("Neares}", "Latency}").replace(
        "kind: Service,",
        "kind: ServiceImport, group: multicluster.x-k8s.io,",
    );
    stage.demo.apply("us-east", &younger).ok();
    let status = stage.demo.portolan(
        "us-east",
        &[
            "get",
            "trafficpolicy",
            "younger",
            "-n",
            "shop",
            "-o",
            "yaml",
        ],
    );
    let status = status.ok();
    assert!(
        status.contains("Conflicted") && status.contains("shop/orders"),
        "{status}"
    );
    let told = stage.explain();
    assert!(told.contains("TrafficPolicy shop/orders"), "{told}");
}

#[test]
fn a_sidecar_that_is_restarted_under_load_loses_nothing() {
    let mut stage = Stage::set();
    let orders = stage.demo.cluster("us-east").workload("orders").clone();
    let load = Load {
        proxy: stage.frontend,
        url: ORDERS,
        per_second: 200,
        total: 1_600,
    };
    let tally = load.run_while(400, || {
        super::demo::signal(orders.pids.sidecar, rustix::process::Signal::TERM);
        eventually("the sidecar has ended", || {
            !Path::new(&format!("/proc/{}", orders.pids.sidecar)).exists()
        });
        stage.demo.restart(&orders.argv.sidecar);
    });
    assert!(tally.failures().is_empty(), "{:?}", tally.failures());
    assert_eq!(tally.sent.len(), 1_600);
    eventually("us-east answers again", || {
        get_now(stage.frontend, ORDERS).is_ok_and(|answer| answer.cluster() == "us-east")
    });
}
