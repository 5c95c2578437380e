//! Declared routes: the canary, and every example of a route, applied and used as people would.

use std::net::SocketAddr;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::call::{Answer, call, get_now, request, runtime};
use super::demo::{Demo, Ran, eventually};
use super::grpc::{PAYMENTS, call_payments};

const ORDERS: &str = "http://orders.shop.svc.clusterset.local";

fn example(name: &str) -> String {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/examples");
    std::fs::read_to_string(format!("{folder}/{name}.yaml")).unwrap()
}

fn apply(demo: &Demo, name: &str) {
    let Ran { code, out, err } = demo.apply("us-east", &example(name));
    assert_eq!(code, 0, "{name}: {out}{err}");
}

fn delete(demo: &Demo, namespace: &str, kind: &str, name: &str) {
    demo.portolan("us-east", &["delete", kind, name, "-n", namespace])
        .ok();
}

/// One request with headers.
fn ask(proxy: SocketAddr, method: &str, url: &str, headers: &[(&'static str, &str)]) -> Answer {
    let mut request = request(method, url);
    for (name, value) in headers {
        request.headers_mut().insert(*name, value.parse().unwrap());
    }
    runtime().block_on(call(proxy, request)).unwrap()
}

fn version(answer: &Answer) -> String {
    answer.json()["version"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

fn header(answer: &Answer, name: &str) -> String {
    let value = answer.headers.get(name);
    value.map_or("", |value| value.to_str().unwrap()).to_owned()
}

#[test]
fn the_canary_takes_a_tenth_and_testers_and_gives_it_back() {
    let demo = Demo::start();
    let frontend = demo.frontend();
    let url = format!("{ORDERS}/");
    assert_eq!(version(&get_now(frontend, &url).unwrap()), "v1");
    apply(&demo, "canary");
    eventually("testers are answered by v2", || {
        version(&ask(frontend, "GET", &url, &[("x-tester", "yes")])) == "v2"
    });
    let tester = ask(frontend, "GET", &url, &[("x-tester", "yes")]);
    assert_eq!(
        (tester.cluster().as_str(), version(&tester).as_str()),
        ("us-west", "v2")
    );
    let calls = 600;
    let mut of_v2 = 0;
    for _ in 0..calls {
        let answer = get_now(frontend, &url).unwrap();
        assert_eq!(answer.status, 200);
        of_v2 += usize::from(version(&answer) == "v2");
    }
    println!("canary: {of_v2} of {calls} calls were answered by v2");
    // 60 expected, σ = 7.3: five of them.
    assert!((23..=97).contains(&of_v2), "{of_v2} of {calls}");

    let told = demo
        .portolan("us-east", &["get", "httproutes", "-n", "shop"])
        .ok();
    assert!(
        told.contains("orders-canary") && told.contains("True"),
        "{told}"
    );
    let described = ["describe", "httproute", "orders-canary", "-n", "shop"];
    let told = demo.portolan("us-east", &described).ok();
    for word in [
        "Accepted",
        "ResolvedRefs",
        "ServiceImport shop/orders",
        "weight: 10",
    ] {
        assert!(told.contains(word), "{word} is missing: {told}");
    }
    let explain = |more: &[&str]| {
        let mut words = vec!["explain", "--from", "shop/frontend", "orders.shop.global"];
        words.extend(more);
        demo.portolan("us-east", &words).ok()
    };
    let told = explain(&[]);
    assert!(
        told.contains("shop/orders-canary/everybody") && told.contains("10.0 %"),
        "{told}"
    );
    let told = explain(&["--header", "x-tester: yes"]);
    assert!(
        told.contains("shop/orders-canary/testers") && told.contains("us-west"),
        "{told}"
    );

    delete(&demo, "shop", "httproute", "orders-canary");
    eventually("testers are answered by v1 again", || {
        version(&ask(frontend, "GET", &url, &[("x-tester", "yes")])) == "v1"
    });
}

/// An example, the route in it, and how its effect is seen.
type Case = (&'static str, &'static str, fn(SocketAddr));

#[test]
fn every_example_of_a_route_does_what_it_says() {
    let demo = Demo::start();
    let frontend = demo.frontend();
    let cases: [Case; 9] = [
        ("route-match", "httproute", matches),
        ("route-headers", "httproute", changes_headers),
        ("route-redirect", "httproute", redirects),
        ("route-rewrite", "httproute", rewrites),
        ("route-cors", "httproute", crosses_origins),
        ("route-timeouts", "httproute", ends_in_time),
        ("route-session", "httproute", keeps_sessions),
        ("route-grpc", "grpcroute", serves_one_method),
        ("route-tls", "tlsroute", refuses_other_names),
    ];
    for (name, kind, look) in cases {
        apply(&demo, name);
        accepted(&demo, "shop", kind, name);
        look(frontend);
        if kind == "tlsroute" {
            explains_server_names(&demo);
        }
        delete(&demo, "shop", kind, name);
    }
    apply(&demo, "route-mirror");
    accepted(&demo, "shop", "httproute", "route-mirror");
    mirrors(&demo, frontend);
    delete(&demo, "shop", "httproute", "route-mirror");
    apply(&demo, "route-tcp");
    accepted(&demo, "shop", "tcproute", "route-tcp");
    eventually("connections are shared out", || answered(frontend));
    delete(&demo, "shop", "tcproute", "route-tcp");
    apply(&demo, "route-retry");
    accepted(&demo, "shop", "httproute", "route-retry");
    retries(&demo, frontend);
    delete(&demo, "shop", "httproute", "route-retry");
    apply(&demo, "route-consumer");
    accepted(&demo, "web", "httproute", "route-consumer");
    counts_for_its_namespace(&demo);
}

/// Waits until the route's status says that it is in force.
fn accepted(demo: &Demo, namespace: &str, kind: &str, name: &str) {
    let words = ["get", kind, name, "-n", namespace, "-o", "json"];
    let document: Value = serde_json::from_str(&demo.portolan("us-east", &words).ok()).unwrap();
    let parent = &document["status"]["parents"][0];
    assert_eq!(parent["controllerName"], "portolan.dev/mesh", "{document}");
    for condition in parent["conditions"].as_array().unwrap() {
        assert_eq!(condition["status"], "True", "{name}: {condition}");
        assert_eq!(condition["observedGeneration"], 1, "{name}: {condition}");
        assert!(
            condition["lastTransitionTime"].is_string(),
            "{name}: {condition}"
        );
    }
}

fn matches(frontend: SocketAddr) {
    let ask = |method: &str, path: &str| ask(frontend, method, &format!("{ORDERS}{path}"), &[]);
    eventually("the route is obeyed", || ask("GET", "/other").status == 404);
    assert_eq!(ask("GET", "/other").refusal(), "no_route; hop=outbound");
    for (method, path, expected) in [
        ("GET", "/search?version=v2", "v2"),
        ("POST", "/search?version=v2", "v1"),
        ("GET", "/search/a?version=v1", "v1"),
        ("GET", "/healthz", "v1"),
        ("GET", "/orders/17", "v1"),
        ("GET", "/orders/seventeen", ""),
        ("GET", "/searching", ""),
    ] {
        assert_eq!(version(&ask(method, path)), expected, "{method} {path}");
    }
}

fn changes_headers(frontend: SocketAddr) {
    let headers = [("x-way", "app"), ("x-debug", "1")];
    let ask = || ask(frontend, "GET", &format!("{ORDERS}/"), &headers);
    eventually("the route is obeyed", || {
        header(&ask(), "cache-control") == "no-store"
    });
    let seen = &ask().json()["headers"];
    assert_eq!(seen["x-tier"], "gold");
    assert_eq!(seen["x-way"], "app,mesh");
    assert_eq!(seen.get("x-debug"), None);
}

fn redirects(frontend: SocketAddr) {
    let ask = |path: &str| ask(frontend, "GET", &format!("{ORDERS}{path}"), &[]);
    eventually("the route is obeyed", || ask("/old/a").status == 301);
    let location = header(&ask("/old/a?b=c"), "location");
    assert_eq!(location, "https://shop.example.com/new/a?b=c");
    assert_eq!(ask("/older").status, 200);
}

fn rewrites(frontend: SocketAddr) {
    let ask = |path: &str| ask(frontend, "GET", &format!("{ORDERS}{path}"), &[]);
    eventually("the route is obeyed", || ask("/").status == 404);
    let seen = ask("/api/orders/7").json();
    assert_eq!(
        (&seen["path"], &seen["headers"]["host"]),
        (&"/7".into(), &"orders.internal".into())
    );
}

fn crosses_origins(frontend: SocketAddr) {
    let url = format!("{ORDERS}/");
    let preflight = [
        ("origin", "https://www.shop.example.com"),
        ("access-control-request-method", "PUT"),
    ];
    eventually("the route is obeyed", || {
        ask(frontend, "OPTIONS", &url, &preflight).status == 204
    });
    let answer = ask(frontend, "OPTIONS", &url, &preflight);
    assert_eq!(header(&answer, "access-control-allow-methods"), "GET, PUT");
    assert_eq!(header(&answer, "access-control-max-age"), "600");
    let answer = ask(frontend, "GET", &url, &preflight[..1]);
    let allowed = header(&answer, "access-control-allow-origin");
    assert_eq!(
        (answer.status, allowed.as_str()),
        (200, "https://www.shop.example.com")
    );
    let stranger = ask(frontend, "GET", &url, &[("origin", "https://evil.example")]);
    assert_eq!(header(&stranger, "access-control-allow-origin"), "");
}

fn ends_in_time(frontend: SocketAddr) {
    eventually("the route is obeyed", || {
        get_now(frontend, &format!("{ORDERS}/delay/3000"))
            .unwrap()
            .status
            == 504
    });
    assert_eq!(
        get_now(frontend, &format!("{ORDERS}/delay/1"))
            .unwrap()
            .status,
        200
    );
}

fn keeps_sessions(frontend: SocketAddr) {
    let url = format!("{ORDERS}/");
    eventually("the route is obeyed", || {
        get_now(frontend, &url)
            .unwrap()
            .headers
            .contains_key("set-cookie")
    });
    let mut seen = std::collections::BTreeSet::new();
    eventually("both versions begin sessions", || {
        let first = get_now(frontend, &url).unwrap();
        let cookie = header(&first, "set-cookie");
        let cookie = cookie.split(';').next().unwrap();
        for _ in 0..10 {
            let next = ask(frontend, "GET", &url, &[("cookie", cookie)]);
            assert_eq!(version(&next), version(&first), "{cookie}");
        }
        seen.insert(version(&first));
        seen.len() == 2
    });
}

fn serves_one_method(frontend: SocketAddr) {
    let call = |method: &'static str| runtime().block_on(call_payments(frontend, method));
    eventually("the route is obeyed", || {
        call("/portolan.demo.v1.Echo/Other")
            .is_err_and(|it| it.code() == tonic::Code::Unimplemented)
    });
    let seen = call("/portolan.demo.v1.Echo/Call").unwrap();
    let seen: Value = serde_json::from_str(&seen).unwrap();
    assert_eq!(seen["headers"]["x-routed"], "grpc", "{PAYMENTS}: {seen}");
    // Another port of the same service knows nothing of it.
    let other = get_now(frontend, "http://payments.shop.svc.clusterset.local/").unwrap();
    assert_eq!(other.status, 200);
}

/// Whether the ledger answers a line on a connection opened by CONNECT.
pub(crate) fn answered(frontend: SocketAddr) -> bool {
    let target = "ledger.shop.svc.clusterset.local:7000";
    let greeting = async {
        let mut stream = tokio::net::TcpStream::connect(frontend).await?;
        let connect = format!("CONNECT {target} HTTP/1.1\r\nhost: {target}\r\n\r\nhello\n");
        stream.write_all(connect.as_bytes()).await?;
        let mut heard = Vec::new();
        while !heard.ends_with(b"}\n") {
            if stream.read_buf(&mut heard).await? == 0 {
                break;
            }
        }
        Ok::<_, std::io::Error>(String::from_utf8_lossy(&heard).contains("ledger"))
    };
    let limit = std::time::Duration::from_secs(20);
    let greeting = async { tokio::time::timeout(limit, greeting).await };
    matches!(runtime().block_on(greeting), Ok(Ok(true)))
}

fn explains_server_names(demo: &Demo) {
    let told = |name: &str| {
        let host = "ledger.shop.svc.clusterset.local:7000";
        let words = ["explain", "--from", "shop/frontend", "--sni", name, host];
        demo.portolan("us-east", &words).ok()
    };
    let good = told("a.ledger.example.com");
    let rule = "TLSRoute shop/route-tls/0 is for server name `*.ledger.example.com`";
    assert!(good.contains(rule), "{good}");
    let bad = told("example.com");
    assert!(bad.contains("refused: no_route"), "{bad}");
}

fn refuses_other_names(frontend: SocketAddr) {
    let refused = || {
        runtime().block_on(async {
            let target = "ledger.shop.svc.clusterset.local:7000";
            let mut stream = tokio::net::TcpStream::connect(frontend).await.unwrap();
            // What follows is no ClientHello, so that no name leads anywhere.
            let words = format!("CONNECT {target} HTTP/1.1\r\nhost: {target}\r\n\r\nhello there\n");
            stream.write_all(words.as_bytes()).await.unwrap();
            let mut heard = Vec::new();
            let limit = std::time::Duration::from_secs(20);
            let reading = stream.read_to_end(&mut heard);
            let ended = tokio::time::timeout(limit, reading).await.is_ok();
            ended && !String::from_utf8_lossy(&heard).contains("ledger\"")
        })
    };
    eventually("the route is obeyed", refused);
}

fn mirrors(demo: &Demo, frontend: SocketAddr) {
    let received = || {
        let path = demo.dir.path().join("demo/logs/us-west-orders-v2.log");
        let log = std::fs::read_to_string(path).unwrap();
        let mut lines = log.lines();
        lines
            .by_ref()
            .filter(|line| line.contains("direction=\"inbound\""))
            .count()
    };
    let before = received();
    eventually(
        "copies reach orders-v2, and answers are those of orders",
        || {
            assert_eq!(
                version(&get_now(frontend, &format!("{ORDERS}/")).unwrap()),
                "v1"
            );
            received() >= before + 3
        },
    );
}

fn retries(demo: &Demo, frontend: SocketAddr) {
    let explained = [
        "explain",
        "-o",
        "json",
        "--from",
        "shop/frontend",
        "orders.shop.global",
    ];
    let told: Value = serde_json::from_str(&demo.portolan("us-east", &explained).ok()).unwrap();
    assert_eq!(told["retry"]["attempts"], 3);
    assert_eq!(told["retry"]["statuses"], serde_json::json!([500, 503]));
    let log = || {
        let path = demo.dir.path().join("demo/logs/us-east-frontend.log");
        std::fs::read_to_string(path).unwrap()
    };
    eventually("a failing request is tried four times", || {
        let answer = get_now(frontend, &format!("{ORDERS}/status/500")).unwrap();
        assert_eq!(answer.status, 500);
        log().lines().any(|line| {
            line.contains("/status/500") && line.contains("route-retry") && line.contains("tries=4")
        })
    });
}

fn counts_for_its_namespace(demo: &Demo) {
    let rule = |from: &str| {
        let words = [
            "explain",
            "-o",
            "json",
            "--from",
            from,
            "orders.shop.global",
        ];
        let told: Value = serde_json::from_str(&demo.portolan("us-east", &words).ok()).unwrap();
        told["rule"]["name"].as_str().unwrap_or("none").to_owned()
    };
    assert_eq!(rule("web/pages"), "web/route-consumer/patient");
    assert_eq!(rule("shop/frontend"), "none");
}
