//! More calls than an app can take: it goes on doing what it can, and the rest is told so at once.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use super::call::{get, get_now, runtime};
use super::demo::{Demo, eventually};
use super::load::{Load, Sent, Tally};

const LOCAL: &str = "http://orders.shop.svc.cluster.local/";

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

fn example() -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/examples");
    std::fs::read_to_string(folder.join("traffic-adaptive-concurrency.yaml")).unwrap()
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

    demo.apply("us-east", &example()).ok();
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
