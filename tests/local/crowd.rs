//! A service of ten instances: which of them answers, as the policy says. Every step fails if its feature did
//! nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use super::call::{Answer, call, get_now, request, runtime};
use super::demo::{Demo, Workload, eventually};

const ORDERS: &str = "http://orders.shop.svc.cluster.local/";
/// How many instances there are.
const CROWD: usize = 10;

/// Ten instances of orders in us-east, and the frontend that calls them.
struct Crowd {
    demo: Demo,
    frontend: Workload,
    members: Vec<Workload>,
}

impl Crowd {
    fn gather() -> Self {
        let mut demo = Demo::start();
        let first = demo.cluster("us-east").workload("orders").clone();
        let mut members = vec![first.clone()];
        members.extend((2..=CROWD).map(|number| demo.add("us-east", &first, number, 100)));
        let crowd = Self {
            frontend: demo.cluster("us-east").workload("frontend").clone(),
            demo,
            members,
        };
        crowd.apply("round-robin", &[], "one after the other");
        eventually("everybody answers", || {
            let answered: BTreeSet<String> = crowd.ask(CROWD).into_iter().collect();
            answered.len() == CROWD
        });
        crowd
    }

    /// Applies an example with some of its text changed, and waits until the frontend's sidecar obeys it.
    fn apply(&self, example: &str, changes: &[(&str, &str)], told: &str) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/examples");
        let file = folder.join(format!("traffic-{example}.yaml"));
        let mut text = std::fs::read_to_string(file).unwrap();
        for (old, new) in changes {
            assert!(text.contains(old), "no {old:?} in {example}");
            text = text.replace(old, new);
        }
        self.demo.apply("us-east", &text).ok();
        let admin = self.frontend.admin.to_string();
        eventually(&format!("{example} is in force"), || {
            let explained = ["explain", "--sidecar", &admin, ORDERS];
            self.demo
                .portolan("us-east", &explained)
                .ok()
                .contains(told)
        });
    }

    /// What a member does wrong until told otherwise.
    fn misbehave(&self, member: usize, how: &str) {
        let answer = get_now(
            self.members[member].app,
            &format!("http://app/__fail?{how}"),
        );
        assert_eq!(answer.unwrap().status, 200);
    }

    /// Who answers so many calls, one after the other.
    fn ask(&self, calls: usize) -> Vec<String> {
        runtime().block_on(async {
            let mut who = Vec::new();
            for _ in 0..calls {
                let answer = call(self.frontend.outbound, request("GET", ORDERS)).await;
                who.push(instance(&answer.unwrap()));
            }
            who
        })
    }

    /// How many of so many calls, a hundred a second, each member answers, whether or not those before it were
    /// answered.
    fn ask_steadily(&self, calls: u32) -> BTreeMap<String, usize> {
        steadily(self.frontend.outbound, ORDERS, calls)
    }

    /// How many calls a member got.
    fn of(&self, counts: &BTreeMap<String, usize>, member: usize) -> usize {
        let name = format!("us-east-{}", self.members[member].name);
        counts.get(&name).copied().unwrap_or(0)
    }

    /// Who answers each of forty users.
    fn users(
        &self,
        ask: impl Fn(usize) -> http::Request<http_body_util::Full<bytes::Bytes>>,
    ) -> Vec<String> {
        runtime().block_on(async {
            let mut who = Vec::new();
            for user in 0..40 {
                let answer = call(self.frontend.outbound, ask(user)).await.unwrap();
                who.push(instance(&answer));
            }
            who
        })
    }

    /// A counter of the frontend's sidecar, summed over the lines that contain all of `labels`.
    fn counter(&self, name: &str, labels: &[&str]) -> u64 {
        let admin = self.frontend.admin;
        let answer = get_now(admin, &format!("http://{admin}/metrics")).unwrap();
        let text = String::from_utf8(answer.body.to_vec()).unwrap();
        let lines = text.lines().filter(|line| {
            line.starts_with(name) && labels.iter().all(|label| line.contains(label))
        });
        lines
            .filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok())
            .sum()
    }

    /// Whether the control plane says that the first member is ready.
    fn first_is_ready(&self) -> bool {
        let asked = ["get", "workload", "orders", "-n", "shop", "-o", "json"];
        let told = self.demo.portolan("us-east", &asked).ok();
        let told: serde_json::Value = serde_json::from_str(&told).unwrap();
        let conditions = told["status"]["conditions"].as_array().unwrap().iter();
        let mut ready = conditions.filter(|it| it["type"] == "Ready");
        ready.any(|it| it["status"] == "True")
    }

    /// What the first member's sidecar logged.
    fn first_log(&self) -> String {
        let file = self.demo.dir.path().join("demo/logs/us-east-orders.log");
        std::fs::read_to_string(file).unwrap()
    }
}

/// Who answers so many calls, a hundred a second, whether or not those before them were answered.
fn steadily(proxy: SocketAddr, url: &'static str, calls: u32) -> BTreeMap<String, usize> {
    runtime().block_on(async {
        let begin = Instant::now();
        let mut tasks = tokio::task::JoinSet::new();
        for number in 0..calls {
            let due = begin + Duration::from_millis(10) * number;
            tokio::time::sleep_until(due.into()).await;
            tasks.spawn(async move { instance(&call(proxy, request("GET", url)).await.unwrap()) });
        }
        count(tasks.join_all().await)
    })
}

fn instance(answer: &Answer) -> String {
    let json = answer.json();
    let name = json["instance"].as_str();
    name.unwrap_or_else(|| panic!("{}: {}", answer.status, answer.refusal()))
        .to_owned()
}

fn count(who: Vec<String>) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for name in who {
        *counts.entry(name).or_default() += 1;
    }
    counts
}

#[test]
fn each_algorithm_chooses_among_ten_as_it_says() {
    let mut crowd = Crowd::gather();
    round_robin(&crowd);
    session_affinity(&crowd);
    peak_ewma(&crowd);
    peak_ewma_elsewhere(&crowd);
    random(&crowd);
    least_request(&crowd);
    connection_age(&crowd);
    hashing(&mut crowd);
    slow_start_and_weight(&mut crowd);
}

fn round_robin(crowd: &Crowd) {
    let counts = count(crowd.ask(5 * CROWD));
    assert!(counts.values().all(|times| *times == 5), "{counts:?}");
}

fn session_affinity(crowd: &Crowd) {
    let declare = |affinity: &str, told: bool| {
        let words = ["get", "service", "orders", "-n", "shop", "-o", "json"];
        let service = crowd.demo.portolan("us-east", &words).ok();
        let mut service: serde_json::Value = serde_json::from_str(&service).unwrap();
        service["spec"]["sessionAffinity"] = affinity.into();
        crowd.demo.apply("us-east", &service.to_string()).ok();
        let admin = crowd.frontend.admin.to_string();
        eventually(&format!("the affinity {affinity} is in force"), || {
            let explained = ["explain", "--sidecar", &admin, ORDERS];
            let text = crowd.demo.portolan("us-east", &explained).ok();
            text.contains("by a Maglev table, by caller") == told
        });
    };
    declare("ClientIP", true);
    let answered = count(crowd.ask(4 * CROWD));
    assert_eq!(answered.len(), 1, "one caller, one endpoint: {answered:?}");
    declare("None", false);
    let answered = count(crowd.ask(CROWD));
    assert_eq!(
        answered.len(),
        CROWD,
        "the policy counts again: {answered:?}"
    );
}

fn random(crowd: &Crowd) {
    crowd.apply("random", &[], "any, by weight");
    let who = crowd.ask(4 * CROWD);
    let in_turn = who.iter().zip(&who[CROWD..]).filter(|(a, b)| a == b);
    assert!(in_turn.count() < 3 * CROWD, "that is one after the other");
    crowd.misbehave(3, "delay=1500");
    let counts = crowd.ask_steadily(300);
    // 30 are expected; one in 60,000 runs is below.
    assert!(crowd.of(&counts, 3) >= 10, "it does not look: {counts:?}");
    crowd.misbehave(3, "");
}

fn least_request(crowd: &Crowd) {
    crowd.apply("least-request", &[], "fewer requests under way");
    crowd.misbehave(3, "delay=50");
    let counts = count(crowd.ask(200));
    // One call at a time: nobody has any under way, and 20 are expected.
    assert!(
        crowd.of(&counts, 3) >= 6,
        "time does not matter: {counts:?}"
    );
    // Longer than the calls come: what it has under way, it keeps.
    crowd.misbehave(3, "delay=4000");
    let counts = crowd.ask_steadily(300);
    // Any would give it 30.
    assert!(crowd.of(&counts, 3) <= 12, "{counts:?}");
    crowd.misbehave(3, "");
}

/// One slow endpoint of ten gets a tenth of its share at most.
fn peak_ewma(crowd: &Crowd) {
    let changes = [("LeastRequest", "PeakEwma")];
    crowd.apply("least-request", &changes, "faster of two");
    crowd.misbehave(3, "delay=1000");
    // Until now it was as fast as the others: this is how callers learn.
    crowd.ask_steadily(100);
    let counts = crowd.ask_steadily(400);
    println!(
        "the slow one of ten got {} of 400 calls",
        crowd.of(&counts, 3)
    );
    assert!(
        crowd.of(&counts, 3) <= 4,
        "40 would be its share: {counts:?}"
    );
    assert!(
        counts.len() > CROWD / 2,
        "the others share the calls: {counts:?}"
    );
    crowd.misbehave(3, "");
}

/// Gateways read no requests, and callers in another cluster leave a slow endpoint to the others all the same.
fn peak_ewma_elsewhere(crowd: &Crowd) {
    let caller = crowd.demo.cluster("us-west").workload("frontend").outbound;
    let ask = |calls| steadily(caller, "http://orders.shop.us-east.global/", calls);
    let before = ask(200);
    assert!(before.len() > 1, "connections lead to several: {before:?}");
    let (busiest, times) = before.iter().max_by_key(|(_, times)| **times).unwrap();
    let named = |member: &Workload| format!("us-east-{}", member.name) == *busiest;
    let member = crowd.members.iter().position(named).unwrap();
    crowd.misbehave(member, "delay=1000");
    ask(100);
    let after = ask(200);
    println!(
        "the busiest got {times} of 200 calls, and {} when slow",
        crowd.of(&after, member)
    );
    assert!(
        crowd.of(&after, member) * 5 <= *times,
        "{before:?}, then {after:?}"
    );
    crowd.misbehave(member, "");
}

fn connection_age(crowd: &Crowd) {
    crowd.apply("round-robin", &[], "one after the other");
    crowd.ask(CROWD);
    let connects = || {
        let result = ["destination_cluster=\"us-east\"", "result=\"ok\""];
        crowd.counter("portolan_upstream_connects_total", &result)
    };
    let busy_for = |time: Duration| {
        let begin = Instant::now();
        while begin.elapsed() < time {
            crowd.ask(CROWD);
        }
    };
    let before = connects();
    busy_for(Duration::from_secs(2));
    assert_eq!(connects(), before, "connections stay");
    let changes = [(
        "connectionAge: 1s",
        "connectionAge: 1s\n  loadBalancing:\n    algorithm: Random",
    )];
    crowd.apply("connection-age", &changes, "any, by weight");
    let before = connects();
    busy_for(Duration::from_secs(3));
    assert!(connects() >= before + CROWD as u64, "each was renewed");
}

fn hashing(crowd: &mut Crowd) {
    let by_header = |user: usize| {
        let mut request = request("GET", ORDERS);
        let name = format!("user-{user}").parse().unwrap();
        request.headers_mut().insert("x-user", name);
        request
    };
    let by_query = |user: usize| request("GET", &format!("{ORDERS}?user={user}"));
    crowd.apply("maglev", &[], "by a Maglev table");
    let users = crowd.users(by_query);
    assert_eq!(users, crowd.users(by_query), "users stay where they are");
    let places: BTreeSet<&String> = users.iter().collect();
    assert!(places.len() >= CROWD / 2, "users are spread: {places:?}");

    crowd.apply("ring-hash", &[], "on a hash ring");
    let users = crowd.users(by_header);
    assert_eq!(users, crowd.users(by_header), "users stay where they are");
    let places: BTreeSet<&String> = users.iter().collect();
    assert!(places.len() >= CROWD / 2, "users are spread: {places:?}");
    // The first member is gone, and only its users move; when it is back, they return.
    let first = crowd.members[0].clone();
    crowd.demo.kill(first.pids.app);
    eventually("its end is known", || !crowd.first_is_ready());
    let gone = "us-east-orders";
    let moved = crowd.users(by_header);
    for (before, now) in users.iter().zip(&moved) {
        assert!(
            now != gone && (before == now || before == gone),
            "{before} {now}"
        );
    }
    crowd.demo.restart(&first.argv.app);
    eventually("its users are back", || crowd.users(by_header) == users);
}

fn slow_start_and_weight(crowd: &mut Crowd) {
    let changes = [("slowStart:", "algorithm: RoundRobin\n    slowStart:")];
    crowd.apply("slow-start", &changes, "slow start");
    let first = crowd.members[0].clone();
    let heavy = crowd.demo.add("us-east", &first, CROWD + 1, 300);
    let name = format!("us-east-{}", heavy.name);
    eventually("the new one answers", || crowd.ask(CROWD).contains(&name));
    let calls = CROWD + 3;
    let counts = count(crowd.ask(5 * calls));
    assert!(counts[&name] * 2 < 15, "15 would be its share: {counts:?}");
    crowd.apply("round-robin", &[], "one after the other");
    eventually("slow start is over", || {
        let counts = count(crowd.ask(calls));
        counts.get(&name) == Some(&3)
    });
    let counts = count(crowd.ask(5 * calls));
    let share = |(who, times): (&String, &usize)| *times == if *who == name { 15 } else { 5 };
    assert!(counts.iter().all(share), "three times as many: {counts:?}");
}

#[test]
fn who_is_not_fit_is_left_alone() {
    let crowd = Crowd::gather();
    let nobody_asks = |member: usize| crowd.of(&crowd.ask_steadily(100), member) == 0;
    let rules = "outlierDetection:";
    let alone =
        "loadBalancing: {algorithm: Random}\n  outlierDetection:\n    consecutiveFailures: 1000";
    let changes = [
        (rules, alone),
        ("interval: 10s", "interval: 1s"),
        ("Requests: 50", "Requests: 5"),
    ];
    crowd.apply("success-rate", &changes, "any, by weight");
    crowd.misbehave(8, "status=500");
    eventually("who seldom succeeds is ejected", || nobody_asks(8));
    let ejections = |cause: &str| crowd.counter("portolan_ejections_total", &[cause]);
    assert_eq!(ejections("\"success_rate\""), 1);
    assert_eq!(ejections("\"answers\"") + ejections("\"latency\""), 0);

    crowd.apply("round-robin", &[], "one after the other");
    crowd.apply("latency-outlier", &[(rules, alone)], "any, by weight");
    crowd.misbehave(9, "delay=300");
    eventually("who is much slower is ejected", || nobody_asks(9));
    assert!(ejections("\"latency\"") >= 1);

    checked(&crowd, "http:\n      path: /healthz", "it answered 503");
    checked(&crowd, "grpc: {}", "it does not say SERVING");
    // The app fails still, and that does not matter to a check that only connects.
    crowd.misbehave(0, "status=503");
    check(&crowd, "tcp: {}");
    crowd.demo.kill(crowd.members[0].pids.app);
    eventually("the check fails", || {
        let log = crowd.first_log();
        log.contains("the health check of port 8080 fails: Connection refused")
    });
    eventually("it is not ready", || !crowd.first_is_ready());
}

/// Has the members checked so, and waits until the first one, which fails no check, is ready.
fn check(crowd: &Crowd, how: &str) {
    let often = [
        ("http:\n      path: /healthz", how),
        ("interval: 1s", "interval: 200ms"),
        (
            "healthChecks:",
            "loadBalancing: {algorithm: RoundRobin}\n  healthChecks:",
        ),
    ];
    crowd.apply("health-check", &often, "one after the other");
    eventually("the first member is ready", || crowd.first_is_ready());
}

/// Checks of a kind take out the first member while it fails, before anybody has called it.
fn checked(crowd: &Crowd, how: &str, why: &str) {
    crowd.misbehave(0, "");
    check(crowd, how);
    assert!(!crowd.first_log().contains(why));
    crowd.misbehave(0, "status=503");
    eventually("it is not ready", || !crowd.first_is_ready());
    assert!(crowd.first_log().contains(why), "{}", crowd.first_log());
    eventually("nobody calls it", || {
        !crowd
            .ask(2 * CROWD)
            .iter()
            .any(|who| who == "us-east-orders")
    });
    crowd.misbehave(0, "");
    eventually("it is ready", || crowd.first_is_ready());
    eventually("it is called", || {
        crowd
            .ask(2 * CROWD)
            .iter()
            .any(|who| who == "us-east-orders")
    });
}
