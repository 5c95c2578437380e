//! Limits and drills, as the examples declare them.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::Full;

use super::call::{Answer, call, get_now, request, runtime};
use super::demo::{Demo, Workload, eventually};
use super::routes::answered;

const ORDERS: &str = "http://orders.shop.us-east.global/";

fn example(name: &str) -> String {
    format!(
        "{}/../deploy/examples/{name}.yaml",
        env!("CARGO_MANIFEST_DIR")
    )
}

fn apply(demo: &Demo, name: &str) {
    demo.portolan("us-east", &["apply", "-f", &example(name)])
        .ok();
}

fn delete(demo: &Demo, name: &str) {
    demo.portolan("us-east", &["delete", "-f", &example(name)])
        .ok();
}

fn ask(proxy: SocketAddr, method: &str, path: &str, header: (&'static str, &str)) -> Answer {
    let mut request = request(method, &format!("{ORDERS}{path}"));
    request
        .headers_mut()
        .insert(header.0, header.1.parse().unwrap());
    runtime().block_on(call(proxy, request)).unwrap()
}

fn header<'a>(answer: &'a Answer, name: &str) -> &'a str {
    answer
        .headers
        .get(name)
        .map_or("", |value| value.to_str().unwrap())
}

/// Waits until a limit counts: answers tell of it.
fn counted(proxy: SocketAddr, limit: &str) {
    eventually("the limit counts", || {
        get_now(proxy, ORDERS).is_ok_and(|answer| header(&answer, "ratelimit-limit") == limit)
    });
}

/// Sends requests as fast as they are answered, from several clients, and says how many were served and how long
/// it took.
fn flood(proxies: &[SocketAddr], time: Duration) -> (usize, usize, Duration) {
    let begin = Instant::now();
    let clients: Vec<_> = proxies
        .iter()
        .flat_map(|proxy| [*proxy; 3])
        .map(|proxy| {
            std::thread::spawn(move || {
                let (mut served, mut limited) = (0, 0);
                while begin.elapsed() < time {
                    let answer = get_now(proxy, ORDERS).unwrap();
                    match answer.status {
                        200 => served += 1,
                        429 => {
                            assert_eq!(answer.refusal(), "rate_limited; hop=inbound");
                            assert_eq!(header(&answer, "retry-after"), "1");
                            assert_eq!(header(&answer, "ratelimit-remaining"), "0");
                            limited += 1;
                        }
                        other => panic!("{other}: {}", answer.refusal()),
                    }
                }
                (served, limited)
            })
        })
        .collect();
    let mut sum = (0, 0);
    for client in clients {
        let (served, limited) = client.join().unwrap();
        sum = (sum.0 + served, sum.1 + limited);
    }
    (sum.0, sum.1, begin.elapsed())
}

fn most(count: f64, burst: usize, elapsed: Duration) -> usize {
    burst + (count * elapsed.as_secs_f64()).ceil() as usize
}

/// Starts a second sidecar for the app of a workload: another instance of its service.
fn second_instance(demo: &mut Demo, workload: &Workload) {
    let config = workload
        .argv
        .sidecar
        .iter()
        .find(|word| word.ends_with(".yaml"));
    let config = config.unwrap().clone();
    let mut text = std::fs::read_to_string(&config).unwrap();
    for port in [workload.outbound, workload.inbound, workload.admin] {
        let other = format!("{}:{}", port.ip(), port.port() + 1000);
        text = text.replace(&port.to_string(), &other);
    }
    let text = text
        .replace("name: orders", "name: orders-2")
        .replace("us-east/orders", "us-east/orders-2");
    let path = demo.dir.path().join("orders-2.yaml");
    std::fs::write(&path, text).unwrap();
    let argv: Vec<String> = workload
        .argv
        .sidecar
        .iter()
        .map(|word| {
            if *word == config {
                path.display().to_string()
            } else {
                word.clone()
            }
        })
        .collect();
    demo.restart(&argv);
    eventually("both instances are ready", || {
        let told = demo
            .portolan(
                "us-east",
                &[
                    "explain",
                    "--from",
                    "shop/frontend",
                    "orders.shop.us-east.global",
                ],
            )
            .out;
        told.contains("2/2")
    });
}

#[test]
fn limits_are_kept_and_told() {
    let mut demo = Demo::start();
    let abroad = demo.cluster("us-west").workload("frontend").outbound;
    one_instance_alone(&demo, abroad);
    each_caller(&demo, abroad);
    each_tenant(&demo);
    two_instances_together(&mut demo, abroad);
    connections(&demo, abroad);
}

fn one_instance_alone(demo: &Demo, abroad: SocketAddr) {
    let frontend = demo.frontend();
    apply(demo, "limit-requests");
    counted(frontend, "20");
    let listed = demo
        .portolan("us-east", &["get", "ratelimitpolicies", "-n", "shop"])
        .ok();
    assert!(
        listed.contains("orders") && listed.contains("True"),
        "{listed}"
    );
    let told = demo
        .portolan(
            "us-east",
            &[
                "explain",
                "--from",
                "shop/frontend",
                "orders.shop.us-east.global",
            ],
        )
        .ok();
    assert!(told.contains("shop/orders/all"), "{told}");
    let (served, limited, elapsed) = flood(&[frontend, abroad], Duration::from_secs(2));
    println!("alone: {served} served, {limited} refused in {elapsed:?}");
    assert!(served <= most(20.0, 5, elapsed), "{served} in {elapsed:?}");
    assert!(served > 10 && limited > 0);
    delete(demo, "limit-requests");
}

fn each_caller(demo: &Demo, abroad: SocketAddr) {
    let frontend = demo.frontend();
    apply(demo, "limit-per-caller");
    eventually("the limit counts", || {
        header(
            &ask(frontend, "GET", "reports", ("x", "y")),
            "ratelimit-limit",
        ) == "10"
    });
    let statuses: Vec<u16> = (0..12)
        .map(|_| ask(frontend, "GET", "reports/1", ("x", "y")).status)
        .collect();
    assert!(
        statuses.iter().filter(|status| **status == 200).count() <= 10,
        "{statuses:?}"
    );
    assert!(statuses.contains(&429), "{statuses:?}");
    assert_eq!(
        ask(abroad, "GET", "reports", ("x", "y")).status,
        200,
        "another identity"
    );
    assert_eq!(
        ask(frontend, "GET", "other", ("x", "y")).status,
        200,
        "another path"
    );
    delete(demo, "limit-per-caller");
}

fn each_tenant(demo: &Demo) {
    let frontend = demo.frontend();
    apply(demo, "limit-per-header");
    let post = |tenant: &str| ask(frontend, "POST", "", ("x-tenant", tenant));
    eventually("the limit counts", || {
        header(&post("probe"), "ratelimit-limit") == "5"
    });
    for tenant in ["blue", "red"] {
        let served = (0..7).filter(|_| post(tenant).status == 200).count();
        assert_eq!(served, 5, "{tenant}");
    }
    delete(demo, "limit-per-header");
}

fn two_instances_together(demo: &mut Demo, abroad: SocketAddr) {
    let frontend = demo.frontend();
    let orders = demo.cluster("us-east").workload("orders").clone();
    second_instance(demo, &orders);
    apply(demo, "limit-shared");
    counted(frontend, "40");
    let (served, limited, elapsed) = flood(&[frontend, abroad], Duration::from_secs(3));
    println!("together: {served} served, {limited} refused in {elapsed:?}");
    assert!(served <= most(40.0, 40, elapsed), "{served} in {elapsed:?}");
    assert!(served > 20 && limited > 0);
    delete(demo, "limit-shared");
}

fn connections(demo: &Demo, abroad: SocketAddr) {
    apply(demo, "limit-connections");
    eventually("one connection too many is refused", || {
        // Four requests share a connection to another cluster, so that many at once open many: more than two new ones
        // for each of the two instances, also beside those that stood before there was a limit.
        let clients: Vec<_> = (0..48)
            .map(|_| {
                let (proxy, url) = (abroad, format!("{ORDERS}delay/300"));
                std::thread::spawn(move || get_now(proxy, &url).unwrap().refusal())
            })
            .collect();
        let refusals: Vec<String> = clients.into_iter().map(|it| it.join().unwrap()).collect();
        refusals.iter().any(|it| it == "rate_limited; hop=inbound")
    });
    delete(demo, "limit-connections");
    eventually("connections are let in again", || {
        get_now(abroad, ORDERS).is_ok_and(|answer| answer.status == 200)
    });
}

#[test]
fn bytes_slow_down() {
    let demo = Demo::start();
    let frontend = demo.frontend();
    let send = |bytes: usize| {
        let mut request = request("POST", ORDERS);
        *request.body_mut() = Full::new(Bytes::from(vec![b'x'; bytes]));
        let begin = Instant::now();
        let answer = runtime().block_on(call(frontend, request)).unwrap();
        assert_eq!(answer.status, 200);
        begin.elapsed()
    };
    apply(&demo, "limit-bytes");
    // 128 kB, of which 64 kB may come at once.
    let took = eventually("the limit slows down", || {
        send(128_000) > Duration::from_millis(900)
    });
    println!("slowed down after {took:?}");
    // Its bucket may have half a second's worth at most when the last one ended.
    let took = send(256_000);
    assert!(took > Duration::from_millis(2_900), "{took:?}");
}

#[test]
fn instances_share_bytes_and_connections() {
    let mut demo = Demo::start();
    let frontend = demo.frontend();
    let abroad = demo.cluster("eu-west").workload("frontend").outbound;
    let orders = demo.cluster("us-east").workload("orders").clone();
    second_instance(&mut demo, &orders);
    let shared = |amount: &str| {
        format!(
            "apiVersion: portolan.dev/v1alpha1\nkind: RateLimitPolicy\n\
             metadata: {{name: shared, namespace: shop}}\n\
             spec: {{targetRefs: [{{kind: Service, name: orders}}], \
             limits: [{{name: all, counted: Cluster, alone: Closed, {amount}}}]}}\n"
        )
    };
    let upload = |bytes: usize| {
        let mut request = request("POST", ORDERS);
        *request.body_mut() = Full::new(Bytes::from(vec![b'x'; bytes]));
        let answer = runtime().block_on(call(frontend, request)).unwrap();
        assert_eq!(answer.status, 200);
    };
    let count = 256_000;
    let bytes = shared(&format!("bytes: {{count: {count}, per: 1s}}"));
    demo.apply("us-east", &bytes).ok();
    eventually("the limit slows down", || {
        let begin = Instant::now();
        upload(128_000);
        begin.elapsed() > Duration::from_millis(400)
    });
    let begin = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| upload(320_000));
        }
    });
    let elapsed = begin.elapsed();
    println!("1.28 MB in {elapsed:?}");
    let most = count as f64 * (1.0 + elapsed.as_secs_f64());
    assert!(most >= 1_280_000.0, "both instances together: {elapsed:?}");

    demo.apply("us-east", &shared("connections: 2")).ok();
    eventually(
        "one connection too many is refused, and others serve",
        || {
            let clients: Vec<_> = (0..24)
                .map(|_| {
                    let url = format!("{ORDERS}delay/300");
                    std::thread::spawn(move || get_now(abroad, &url).unwrap())
                })
                .collect();
            let answers: Vec<Answer> = clients.into_iter().map(|it| it.join().unwrap()).collect();
            let refused = |it: &Answer| it.refusal() == "rate_limited; hop=inbound";
            answers.iter().any(refused) && answers.iter().any(|it| it.status == 200)
        },
    );
}

#[test]
fn drills_reach_connections_into_another_cluster_and_a_tunnel_has_one_name_everywhere() {
    let demo = Demo::start();
    let frontend = demo.frontend();
    eventually("the ledger answers", || answered(frontend));
    let names = |process: &str| -> BTreeSet<String> {
        let path = demo.dir.path().join(format!("demo/logs/{process}.log"));
        let log = std::fs::read_to_string(path).unwrap();
        let after = log.split("tunnel=").skip(1);
        after
            .filter_map(|rest| Some(rest.split_whitespace().next()?.to_owned()))
            .collect()
    };
    eventually("the tunnel is logged at each hop", || {
        let called = names("eu-west-ledger");
        let hops = ["us-east-gateway", "eu-west-gateway"].map(names);
        called
            .iter()
            .any(|name| hops.iter().all(|hop| hop.contains(name)))
    });
    let drill = "apiVersion: portolan.dev/v1alpha1\nkind: FaultPolicy\n\
        metadata: {name: cut, namespace: shop}\n\
        spec: {targetRefs: [{kind: Service, name: ledger}], lasts: 10m, faults: [\
        {name: cut, callers: {clusters: [us-east]}, abort: {reset: true}}]}\n";
    demo.apply("eu-west", drill).ok();
    eventually("connections are reset", || !answered(frontend));
    let near = demo.cluster("eu-west").workload("frontend").outbound;
    assert!(answered(near), "other clusters' connections are spared");
    let words = ["delete", "faultpolicy", "cut", "-n", "shop"];
    demo.portolan("eu-west", &words).ok();
    eventually("connections pass again", || answered(frontend));
    let senseless = drill.replace("abort: {reset: true}", "abort: {httpStatus: 503}");
    demo.apply("eu-west", &senseless).ok();
    let words = ["describe", "faultpolicy", "cut", "-n", "shop"];
    eventually("the policy's author is told", || {
        let told = demo.portolan("eu-west", &words).ok();
        told.contains("PartiallyInvalid") && told.contains("carries no requests")
    });
}

#[test]
fn drills_are_done_marked_and_over() {
    let demo = Demo::start();
    let frontend = demo.frontend();
    let abroad = demo.cluster("eu-west").workload("frontend").outbound;

    apply(&demo, "fault-delay");
    eventually("calls are slow, and say why", || {
        let begin = Instant::now();
        let answer = get_now(frontend, ORDERS).unwrap();
        header(&answer, "x-portolan-fault") == "shop/slow-orders/slow"
            && begin.elapsed() >= Duration::from_millis(300)
    });
    let listed = demo
        .portolan("us-east", &["get", "faultpolicies", "-n", "shop"])
        .ok();
    assert!(
        listed.contains("slow-orders") && listed.contains("True"),
        "{listed}"
    );
    let told = demo
        .portolan(
            "us-east",
            &[
                "explain",
                "--from",
                "shop/frontend",
                "orders.shop.us-east.global",
            ],
        )
        .ok();
    assert!(told.contains("shop/slow-orders/slow"), "{told}");
    delete(&demo, "fault-delay");
    eventually("calls are not slow", || {
        header(&get_now(frontend, ORDERS).unwrap(), "x-portolan-fault").is_empty()
    });

    apply(&demo, "fault-abort");
    let drill = |proxy, method| ask(proxy, method, "", ("x-drill", "yes"));
    eventually("half of the calls fail", || {
        drill(frontend, "POST").status == 503
    });
    let failed = drill_until(|| drill(frontend, "POST"), 503);
    assert_eq!(
        header(&failed, "x-portolan-fault"),
        "shop/failing-orders/unavailable"
    );
    assert_eq!(failed.refusal(), "", "it is the app's answer");
    drill_until(|| drill(frontend, "POST"), 200);
    assert_eq!(
        get_now(frontend, ORDERS).unwrap().status,
        200,
        "nobody asked for a drill"
    );
    let reset = drill_until(|| drill(abroad, "POST"), 502);
    assert_eq!(reset.refusal(), "reset; hop=outbound");
    delete(&demo, "fault-abort");
}

#[test]
fn a_drill_ends_by_itself_and_must_have_an_end() {
    let demo = Demo::start();
    let frontend = demo.frontend();
    let mine = "apiVersion: portolan.dev/v1alpha1\nkind: FaultPolicy\n\
        metadata: {name: short, namespace: shop}\n\
        spec: {targetRefs: [{kind: Service, name: orders}], lasts: 3s, \
        faults: [{name: teapot, abort: {httpStatus: 418}}]}\n";
    demo.apply("us-east", mine).ok();
    let begin = Instant::now();
    eventually("the drill is on", || {
        get_now(frontend, ORDERS).unwrap().status == 418
    });
    eventually("the drill ends by itself", || {
        get_now(frontend, ORDERS).unwrap().status == 200
    });
    println!("over after {:?}", begin.elapsed());
    let endless = mine.replace("lasts: 3s, ", "");
    let refused = demo.apply("us-east", &endless);
    assert_ne!(refused.code, 0);
    assert!(
        refused.err.contains("the drill has no end")
            || refused.out.contains("the drill has no end")
    );
}

/// Asks until the answer has this status.
fn drill_until(ask: impl Fn() -> Answer, status: u16) -> Answer {
    let mut found = None;
    eventually("the drill's dice fall so", || {
        let answer = ask();
        let wanted = answer.status == status;
        found = Some(answer);
        wanted
    });
    found.unwrap()
}
