//! More calls than an app can take: it goes on doing what it can, and the rest is told so at once.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use super::call::{get, get_now, runtime};
use super::demo::{Demo, eventually};
use super::load::{Load, Sent, Tally};

const LOCAL: &str = "http://orders.shop.svc.cluster.local/";
const SET: &str = "http://orders.shop.svc.clusterset.local/";

/// What the app can do: so many requests at a time, and each takes so long.
const PLACES: u32 = 4;
const WORK_MS: u32 = 40;
/// A caller that waited longer than this has no use for its answer.
const IN_TIME: Duration = Duration::from_millis(500);

/// How many answers a second come when callers wait for each other: twice as many callers as places,
/// so that no place is ever empty.
fn capacity(proxy: SocketAddr) -> f64 {
    let length = Duration::from_secs(2);
    runtime().block_on(async {
        let begin = Instant::now();
        let mut callers = tokio::task::JoinSet::new();
        for _ in 0..2 * PLACES {
            callers.spawn(async move {
                let mut answers = 0_u32;
                while begin.elapsed() < length {
                    assert_eq!(get(proxy, LOCAL).await.unwrap().status, 200);
                    answers += 1;
                }
                answers
            });
        }
        let answers: u32 = callers.join_all().await.into_iter().sum();
        f64::from(answers) / begin.elapsed().as_secs_f64()
    })
}

/// Twice the capacity, for so many seconds.
fn overload(proxy: SocketAddr, capacity: f64, seconds: u32) -> Tally {
    let per_second = (2.0 * capacity).ceil() as u32;
    let load = Load {
        proxy,
        url: LOCAL,
        per_second,
        total: per_second * seconds,
    };
    load.run_while(0, || ())
}

/// How much of the capacity was answered in time. What came after the last call was sent does not count.
fn goodput(tally: &Tally, capacity: f64, seconds: u32) -> f64 {
    let end = Duration::from_secs(seconds.into());
    let good =
        |sent: &&Sent| sent.outcome.is_ok() && sent.took <= IN_TIME && sent.at + sent.took <= end;
    tally.sent.iter().filter(good).count() as f64 / (capacity * f64::from(seconds))
}

fn example(name: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/examples");
    std::fs::read_to_string(folder.join(format!("traffic-{name}.yaml"))).unwrap()
}

#[test]
fn at_twice_its_capacity_an_app_does_nine_tenths_of_it_and_the_rest_is_refused_at_once() {
    let demo = Demo::start();
    let frontend = demo.frontend();
    let app = demo.cluster("us-east").workload("orders").app;
    let limited = format!("http://app/__fail?places={PLACES}&delay={WORK_MS}");
    assert_eq!(get_now(app, &limited).unwrap().status, 200);
    let capacity = capacity(frontend);

    let without = goodput(&overload(frontend, capacity, 3), capacity, 3);
    eventually("the queue is gone", || {
        let begin = Instant::now();
        get_now(frontend, LOCAL).is_ok_and(|it| it.status == 200) && begin.elapsed() < IN_TIME / 2
    });

    demo.apply("us-east", &example("adaptive-concurrency")).ok();
    let admin = demo.cluster("us-east").workload("frontend").admin;
    eventually("the policy is in force", || {
        let explained = ["explain", "--sidecar", &admin.to_string(), LOCAL];
        let told = demo.portolan("us-east", &explained).ok();
        told.contains("adaptive concurrency")
    });
    let tally = overload(frontend, capacity, 6);
    let with = goodput(&tally, capacity, 6);
    let refused = tally.failures();
    let longest = refused.iter().map(|it| it.took).max().unwrap_or_default();
    let mut times: Vec<Duration> = refused.iter().map(|it| it.took).collect();
    times.sort_unstable();
    println!(
        "capacity {capacity:.0}/s; of it in time at twice as much: {without:.2} without, {with:.2} with; \
         {} of {} refused, after {:?} in the middle and {longest:?} at most",
        refused.len(),
        tally.sent.len(),
        times.get(times.len() / 2),
    );
    assert!(without < 0.6, "the overload is one: {without}");
    assert!(with > 0.9, "{with} of the capacity");
    for sent in &refused {
        let why = sent.outcome.as_ref().unwrap_err();
        assert!(why.starts_with("503: overloaded; hop=inbound"), "{why}");
    }
    assert!(
        refused.len() * 10 > tally.sent.len() * 3,
        "{}",
        refused.len()
    );
    assert!(
        times[times.len() / 2] < Duration::from_millis(100),
        "{times:?}"
    );
    assert!(longest < Duration::from_secs(2), "{longest:?}");
}

/// So many calls at once; how many are answered well.
fn at_once(proxy: SocketAddr, url: &'static str, calls: usize) -> usize {
    runtime().block_on(async {
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..calls {
            tasks.spawn(async move { get(proxy, url).await.unwrap().status == 200 });
        }
        tasks
            .join_all()
            .await
            .into_iter()
            .filter(|good| *good)
            .count()
    })
}

#[test]
fn what_bounds_a_sidecar_bounds_all_its_workers_together() {
    const WORKERS: u32 = 4;
    /// What a port is given while nothing is known of it.
    const FIRST: usize = 32;
    let mut demo = Demo::start();
    let frontend = demo.cluster("us-east").workload("frontend").clone();
    let orders = demo.cluster("us-east").workload("orders").clone();
    // Who calls comes last, and calls nobody before all are there: it would spend its budget, and remember.
    for workload in [&orders, &frontend] {
        demo.reconfigure("us-east", workload, |config| {
            config["workers"] = WORKERS.into()
        });
        eventually("the sidecar is ready", || {
            get_now(workload.admin, "http://sidecar/readyz").is_ok_and(|it| it.status == 200)
        });
    }
    eventually("the way is known", || {
        let admin = frontend.admin.to_string();
        demo.portolan("us-east", &["explain", "--sidecar", &admin, LOCAL])
            .code
            == 0
    });
    let apply = |text: &str, told: &str| {
        demo.apply("us-east", text).ok();
        eventually("the policy is in force", || {
            let admin = frontend.admin.to_string();
            let told_now = demo.portolan("us-east", &["explain", "--sidecar", &admin, LOCAL]);
            told_now.code == 0 && told_now.out.contains(told)
        });
        eventually("us-east answers", || {
            get_now(frontend.outbound, LOCAL).is_ok_and(|it| it.status == 200)
        });
    };
    let wrong = |how: &str| {
        let answer = get_now(orders.app, &format!("http://app/__fail?{how}"));
        assert_eq!(answer.unwrap().status, 200);
    };

    let policy = "apiVersion: portolan.dev/v1alpha1\nkind: TrafficPolicy\n\
        metadata: {name: orders, namespace: shop}\nspec:\n  \
        targetRefs: [{kind: Service, name: orders}]\n";
    let retries = "  retries: {attempts: 1, budget: {percent: 0, perSecond: 1}}\n  \
        outlierDetection: {enabled: false}\n";
    apply(&format!("{policy}{retries}"), "retries");
    wrong("status=503");
    let retried = at_once(frontend.outbound, SET, 100);
    println!("{retried} of 100 were tried again");
    assert!((5..=10).contains(&retried), "ten in ten seconds: {retried}");

    wrong("");
    apply(&example("circuit-breaker"), "circuit breaker");
    wrong("delay=1500");
    let admitted = at_once(frontend.outbound, LOCAL, 60);
    assert!((1..=2).contains(&admitted), "two of them fit: {admitted}");

    wrong("");
    apply(&example("adaptive-concurrency"), "adaptive concurrency");
    wrong("delay=3000");
    let admitted = at_once(frontend.outbound, LOCAL, 160);
    println!("{admitted} of 160 were let in");
    assert!((1..=FIRST).contains(&admitted), "{admitted}");
}
