//! What declared routes do to requests and connections.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{Request, Response};
use portolan_model::ServiceKey;
use portolan_model::declared::{ResourceKey, ResourceKind};
use portolan_model::route::{
    Backend, BackendRef, BackendTarget, Cors, Filter, HeaderChanges, HttpMatch, Match, Mirror,
    PathChange, PathMatch, Redirect, Rewrite, Route, Routes, Rule, RuleRetry, RuleTimeouts,
    SessionCarrier, SessionPersistence, TextMatch, ValueMatch,
};
use portolan_model::snapshot::{Scope, Service};
use portolan_transport::mtls::TlsContext;

use super::super::fixtures::*;

fn to(service: &str, scope: Scope, port: u16, weight: u32) -> Backend {
    Backend {
        to: BackendRef::Service(BackendTarget {
            service: service.parse().unwrap(),
            scope,
            port,
        }),
        weight,
        filters: vec![],
    }
}

fn v1(weight: u32) -> Backend {
    to("shop/orders", Scope::Set, HTTP, weight)
}

fn v2(weight: u32) -> Backend {
    to("shop/orders-v2", Scope::Cluster, HTTP, weight)
}

fn on(prefix: &str) -> HttpMatch {
    HttpMatch {
        path: PathMatch::Prefix(prefix.to_owned()),
        method: None,
        headers: vec![],
        query: vec![],
    }
}

fn rule(by: HttpMatch, filters: Vec<Filter>, backends: Vec<Backend>) -> Rule {
    Rule {
        name: None,
        matches: vec![Match::Http(by)],
        filters,
        backends,
        timeouts: RuleTimeouts::default(),
        retry: None,
        session: None,
    }
}

fn routes(rules: Vec<Rule>) -> Routes {
    let key = ResourceKey::namespaced(ResourceKind::HttpRoute, "shop".parse().unwrap(), "route");
    Routes {
        producer: vec![Arc::new(Route {
            key,
            created_ms: 1,
            port: None,
            rules,
        })],
        ..Routes::default()
    }
}

/// A sidecar in this scene, where `shop/orders` has these routes in the set, and `shop/orders-v2` these
/// endpoints.
fn routed(world: &World, scene: &Scene, v2: &[SocketAddr], routes: Routes) -> Subject {
    let subject = Subject::start(world, scene);
    let mut snapshot = scene.snapshot(2);
    let key: ServiceKey = "shop/orders".parse().unwrap();
    let orders = Arc::make_mut(snapshot.services.get_mut(&key).unwrap());
    let template = Scene {
        own: v2.to_vec(),
        ..Scene::default()
    };
    let mut of_v2 = Service::clone(&template.snapshot(1).services[&key]);
    of_v2.key = "shop/orders-v2".parse().unwrap();
    for endpoint in &mut of_v2.local.as_mut().unwrap().endpoints {
        let name = format!("{}-v2", endpoint.workload);
        endpoint.workload = name.parse().unwrap();
    }
    orders.traffic.set.routes = routes;
    snapshot.services.insert(of_v2.key.clone(), Arc::new(of_v2));
    subject.snapshot.store(Arc::new(snapshot));
    subject.changed.send_replace(2);
    subject
}

/// One endpoint of each version, and a sidecar that obeys these rules.
struct Versions {
    v1: Listening,
    v2: Listening,
    subject: Subject,
}

async fn versions(world: &World, rules: Vec<Rule>) -> Versions {
    let context = world.context(ORDERS);
    let (v1, v2) = (echo(&context, "v1").await, echo(&context, "v2").await);
    let scene = Scene {
        own: vec![v1.addr],
        ..Scene::default()
    };
    let subject = routed(world, &scene, &[v2.addr], routes(rules));
    Versions { v1, v2, subject }
}

fn header<'a, B>(response: &'a Response<B>, name: &str) -> Option<&'a str> {
    let value = response.headers().get(name)?;
    Some(value.to_str().unwrap())
}

#[test]
fn rules_decide_by_header_share_and_path_and_nothing_else_passes() {
    run(async {
        let world = World::new();
        let tester = HttpMatch {
            headers: vec![ValueMatch {
                name: "x-tester".to_owned(),
                value: TextMatch::Exact("yes".to_owned()),
            }],
            ..on("/shop")
        };
        let rules = vec![
            rule(on("/shop"), vec![], vec![v1(80), v2(20)]),
            rule(tester, vec![], vec![v2(1)]),
        ];
        let it = versions(&world, rules).await;
        let mut client = it.subject.client().await;
        for _ in 0..20 {
            let request = Request::get(url("/shop/a")).header("x-tester", "yes");
            assert_eq!(header(&client.send(request).await, "x-from"), Some("v2"));
        }
        let before = it.v2.hits.get();
        for _ in 0..400 {
            assert_eq!(client.send(Request::get(url("/shop"))).await.status(), 200);
        }
        // 80 expected, σ = 8: five of them.
        let share = it.v2.hits.get() - before;
        assert!((40..=120).contains(&share), "{share} of 400");
        for path in ["/", "/shopping"] {
            let response = client.send(Request::get(url(path))).await;
            assert_eq!(response.status(), 404, "{path}");
            assert_eq!(
                header(&response, "x-portolan-error"),
                Some("no_route; hop=outbound")
            );
        }
        // By virtual IP, with any Host, the same rules hold; a name that pins a cluster knows none.
        let request = Request::get("http://240.241.0.1/other").header("host", "any.example");
        assert_eq!(client.send(request).await.status(), 404);
        let pinned = Request::get("http://orders.shop.us-east.global/other");
        assert_eq!(client.send(pinned).await.status(), 200);
    });
}

#[test]
fn filters_change_requests_and_answers() {
    run(async {
        let world = World::new();
        let pairs = |name: &str, value: &str| vec![(name.to_owned(), value.to_owned())];
        let filters = vec![
            Filter::RequestHeaders(HeaderChanges {
                set: pairs("x-set", "1"),
                add: pairs("x-add", "b"),
                remove: vec!["x-gone".to_owned()],
            }),
            Filter::ResponseHeaders(HeaderChanges {
                set: pairs("x-from", "rule"),
                ..HeaderChanges::default()
            }),
            Filter::Rewrite(Rewrite {
                hostname: Some("inside.example".to_owned()),
                path: Some(PathChange::Prefix("/new".to_owned())),
            }),
        ];
        let of_backend = Backend {
            filters: vec![Filter::RequestHeaders(HeaderChanges {
                set: pairs("x-backend", "v1"),
                ..HeaderChanges::default()
            })],
            ..v1(1)
        };
        let it = versions(&world, vec![rule(on("/old"), filters, vec![of_backend])]).await;
        let request = Request::get(url("/old/a?q=1"))
            .header("x-add", "a")
            .header("x-gone", "1");
        let response = it.subject.client().await.send(request).await;
        for (name, expected) in [
            ("x-got-x-set", Some("1")),
            ("x-got-x-add", Some("a,b")),
            ("x-got-x-gone", None),
            ("x-got-x-backend", Some("v1")),
            ("x-path", Some("http://inside.example/new/a?q=1")),
            ("x-from", Some("rule")),
        ] {
            assert_eq!(header(&response, name), expected, "{name}");
        }
    });
}

#[test]
fn redirections_and_preflights_are_answered_here() {
    run(async {
        let world = World::new();
        let redirect = Filter::Redirect(Redirect {
            scheme: Some("https".to_owned()),
            hostname: Some("shop.example".to_owned()),
            path: Some(PathChange::Full("/moved".to_owned())),
            port: None,
            status: 308,
        });
        let cors = Filter::Cors(Cors {
            allow_origins: vec!["https://*.example".to_owned()],
            allow_credentials: false,
            allow_methods: vec!["PUT".to_owned()],
            allow_headers: vec![],
            expose_headers: vec![],
            max_age_s: 5,
        });
        let rules = vec![
            rule(on("/gone"), vec![redirect], vec![]),
            rule(on("/api"), vec![cors], vec![v1(1)]),
        ];
        let it = versions(&world, rules).await;
        let mut client = it.subject.client().await;
        let moved = client.send(Request::get(url("/gone?q=1"))).await;
        assert_eq!(moved.status(), 308);
        assert_eq!(
            header(&moved, "location"),
            Some("https://shop.example/moved?q=1")
        );
        let preflight = Request::options(url("/api"))
            .header("origin", "https://web.example")
            .header("access-control-request-method", "PUT");
        let answer = client.send(preflight).await;
        assert_eq!(answer.status(), 204);
        assert_eq!(header(&answer, "access-control-allow-methods"), Some("PUT"));
        assert_eq!(it.v1.hits.get(), 0);
        let actual = Request::get(url("/api")).header("origin", "https://web.example");
        let answer = client.send(actual).await;
        let allowed = header(&answer, "access-control-allow-origin");
        assert_eq!(
            (answer.status().as_u16(), allowed),
            (200, Some("https://web.example"))
        );
    });
}

fn cors_for_browsers() -> Filter {
    Filter::Cors(Cors {
        allow_origins: vec!["https://web.example".to_owned()],
        allow_credentials: false,
        allow_methods: vec![],
        allow_headers: vec![],
        expose_headers: vec!["x-portolan-error".to_owned()],
        max_age_s: 5,
    })
}

fn setting_a_header() -> Filter {
    Filter::ResponseHeaders(HeaderChanges {
        set: vec![("x-shop".to_owned(), "1".to_owned())],
        ..HeaderChanges::default()
    })
}

#[test]
fn browsers_can_read_what_the_proxy_itself_answers() {
    run(async {
        let world = World::new();
        let redirect = Filter::Redirect(Redirect {
            scheme: None,
            hostname: None,
            path: Some(PathChange::Full("/moved".to_owned())),
            port: None,
            status: 302,
        });
        let (cors, set) = (cors_for_browsers(), setting_a_header());
        let for_browsers = || vec![set.clone(), cors.clone()];
        let missing = to("shop/nothing", Scope::Cluster, HTTP, 1);
        let mut of_backend = v2(1);
        of_backend.filters = vec![set.clone()];
        let rules = vec![
            rule(on("/down"), for_browsers(), vec![v2(1)]),
            rule(on("/missing"), for_browsers(), vec![missing]),
            rule(on("/zero"), for_browsers(), vec![v1(0)]),
            rule(
                on("/unknown"),
                {
                    let unknown = Filter::Unsupported("X".to_owned());
                    [vec![unknown], for_browsers()].concat()
                },
                vec![v1(1)],
            ),
            rule(
                on("/gone"),
                [vec![redirect], for_browsers()].concat(),
                vec![],
            ),
            rule(on("/backend"), vec![cors.clone()], vec![of_backend]),
        ];
        let it = versions(&world, rules).await;
        it.v2.kill().await;
        let mut client = it.subject.client().await;
        let down = "connect_failed; hop=outbound";
        let invalid = "invalid_backend; hop=outbound";
        for (path, status, reason) in [
            ("/down", 503, Some(down)),
            ("/backend", 503, Some(down)),
            ("/missing", 500, Some(invalid)),
            ("/zero", 500, Some(invalid)),
            ("/unknown", 500, Some(invalid)),
            ("/gone", 302, None),
        ] {
            let asked = Request::get(url(path)).header("origin", "https://web.example");
            let answer = client.send(asked).await;
            assert_eq!(answer.status(), status, "{path}");
            for (name, expected) in [
                ("x-portolan-error", reason),
                ("access-control-allow-origin", Some("https://web.example")),
                ("access-control-expose-headers", Some("x-portolan-error")),
                ("x-shop", Some("1")),
            ] {
                assert_eq!(header(&answer, name), expected, "{path} {name}");
            }
        }
        // No rule was for it: nobody asked for anything.
        let asked = Request::get(url("/else")).header("origin", "https://web.example");
        let answer = client.send(asked).await;
        assert_eq!(answer.status(), 404);
        assert_eq!(header(&answer, "access-control-allow-origin"), None);
        assert_eq!(header(&answer, "x-shop"), None);
    });
}

#[test]
fn rules_that_lead_nowhere_say_so_and_the_rest_goes_on() {
    run(async {
        let world = World::new();
        let missing = || to("shop/nothing", Scope::Cluster, HTTP, 1);
        let rules = vec![
            rule(on("/missing"), vec![], vec![missing()]),
            rule(
                on("/port"),
                vec![],
                vec![to("shop/orders", Scope::Set, 81, 1)],
            ),
            rule(on("/none"), vec![], vec![]),
            rule(on("/zero"), vec![], vec![v1(0), v2(0)]),
            rule(
                on("/filter"),
                vec![Filter::Unsupported("X".to_owned())],
                vec![v1(1)],
            ),
            rule(on("/half"), vec![], vec![missing(), v1(1)]),
        ];
        let it = versions(&world, rules).await;
        let mut client = it.subject.client().await;
        for path in ["/missing", "/port", "/none", "/zero", "/filter"] {
            let response = client.send(Request::get(url(path))).await;
            let reason = header(&response, "x-portolan-error");
            let expected = (500, Some("invalid_backend; hop=outbound"));
            assert_eq!((response.status().as_u16(), reason), expected, "{path}");
        }
        let grpc = Request::post(url("/missing/M")).header("content-type", "application/grpc");
        assert_eq!(header(&client.send(grpc).await, "grpc-status"), Some("14"));
        let mut statuses = std::collections::BTreeSet::new();
        while statuses.len() < 2 {
            statuses.insert(
                client
                    .send(Request::get(url("/half")))
                    .await
                    .status()
                    .as_u16(),
            );
        }
        assert_eq!(statuses, [200, 500].into());
    });
}

/// An endpoint that never answers.
async fn silent(context: &TlsContext) -> Listening {
    sidecar(context, |_| std::future::pending()).await
}

#[test]
fn a_rule_s_limits_end_tries_and_requests() {
    run(async {
        let world = World::new();
        let context = world.context(ORDERS);
        let (stuck, good) = (silent(&context).await, echo(&context, "good").await);
        let ms = |ms| Some(Duration::from_millis(ms));
        let within = |request, backend_request, backend: Backend| Rule {
            timeouts: RuleTimeouts {
                request,
                backend_request,
            },
            ..rule(
                on(if request.is_some() { "/whole" } else { "/each" }),
                vec![],
                vec![backend],
            )
        };
        let mut each = within(None, ms(300), v1(1));
        each.retry = Some(RuleRetry {
            attempts: Some(3),
            ..RuleRetry::default()
        });
        let scene = Scene {
            own: vec![stuck.addr, good.addr],
            ..Scene::default()
        };
        let rules = routes(vec![within(ms(300), None, v2(1)), each]);
        let subject = routed(&world, &scene, &[stuck.addr], rules);
        let mut client = subject.client().await;
        let begun = Instant::now();
        let response = client.send(Request::get(url("/whole"))).await;
        let reason = header(&response, "x-portolan-error");
        assert_eq!(response.status(), 504);
        assert_eq!(reason, Some("timeout; hop=outbound"));
        // Our own limit for headers is 15 s.
        assert!(
            begun.elapsed() < Duration::from_secs(10),
            "{:?}",
            begun.elapsed()
        );
        // A try that is cut goes on at the other endpoint; nothing of it is seen.
        for _ in 0..6 {
            let response = client.send(Request::get(url("/each"))).await;
            assert_eq!(header(&response, "x-from"), Some("good"));
        }
    });
}

#[test]
fn copies_are_sent_with_their_bodies_and_their_answers_ignored() {
    run(async {
        let world = World::new();
        let mirror = |to: Backend, numerator| {
            Filter::Mirror(Mirror {
                to: to.to,
                numerator,
                denominator: 100,
            })
        };
        let nowhere = to("shop/nothing", Scope::Cluster, HTTP, 1);
        let filters = vec![mirror(v2(1), 100), mirror(v1(1), 0), mirror(nowhere, 100)];
        let seen = Rc::new(std::cell::RefCell::new(Vec::new()));
        let context = world.context(ORDERS);
        let main = echo(&context, "v1").await;
        let noted = Rc::clone(&seen);
        let copies = sidecar(&context, move |request| {
            let noted = Rc::clone(&noted);
            async move {
                use http_body_util::BodyExt;
                let body = request.into_body().collect().await.unwrap().to_bytes();
                noted.borrow_mut().push(body);
                Response::builder().status(500).body(text("")).unwrap()
            }
        })
        .await;
        let scene = Scene {
            own: vec![main.addr],
            ..Scene::default()
        };
        let rules = routes(vec![rule(on(""), filters, vec![v1(1)])]);
        let subject = routed(&world, &scene, &[copies.addr], rules);
        let mut client = subject.client().await;
        for body in ["", "hello"] {
            let request = Request::post(url("/"));
            let response = client.send_body(request, text(body)).await;
            assert_eq!(
                (response.status().as_u16(), &response.body()[..]),
                (200, body.as_bytes())
            );
        }
        while seen.borrow().len() < 2 {
            tokio::task::yield_now().await;
        }
        let mut seen: Vec<_> = seen.borrow().clone();
        seen.sort();
        assert_eq!(seen, ["", "hello"]);
        assert_eq!(main.hits.get(), 2);
    });
}

#[test]
fn a_session_stays_where_it_began_until_that_is_gone() {
    run(async {
        let world = World::new();
        let context = world.context(ORDERS);
        let (a, b) = (echo(&context, "a").await, echo(&context, "b").await);
        let sticky = Rule {
            session: Some(SessionPersistence {
                carrier: SessionCarrier::Cookie {
                    name: "s".to_owned(),
                    path: "/".to_owned(),
                    permanent: false,
                },
                absolute_timeout: None,
            }),
            ..rule(on(""), vec![], vec![v1(1)])
        };
        let scene = Scene {
            own: vec![a.addr, b.addr],
            ..Scene::default()
        };
        let subject = routed(&world, &scene, &[], routes(vec![sticky]));
        let mut client = subject.client().await;
        let first = client.send(Request::get(url("/"))).await;
        let cookie = header(&first, "set-cookie").unwrap();
        assert!(
            !cookie.contains("Max-Age") && !cookie.contains("Expires"),
            "{cookie}"
        );
        let cookie = cookie.split(';').next().unwrap().to_owned();
        let from = header(&first, "x-from").unwrap().to_owned();
        for _ in 0..50 {
            let request = Request::get(url("/")).header("cookie", &cookie);
            let response = client.send(request).await;
            assert_eq!(header(&response, "x-from"), Some(from.as_str()));
            assert_eq!(header(&response, "set-cookie"), None);
        }
        // Without its endpoint the session begins again elsewhere.
        let (gone, stays) = if from == "a" { (&a, &b) } else { (&b, &a) };
        gone.kill().await;
        let request = Request::get(url("/")).header("cookie", &cookie);
        let response = client.send(request).await;
        assert_eq!(response.status(), 200);
        assert_ne!(header(&response, "x-from"), Some(from.as_str()));
        assert!(header(&response, "set-cookie").is_some());
        assert!(stays.hits.get() > 0);
    });
}

#[test]
fn connections_follow_routes_too_and_tls_by_the_name_in_it() {
    run(async {
        let world = World::new();
        let context = world.context(ORDERS);
        let orders = echo(&context, "v1").await;
        let opaque = |matches: Vec<Match>, backend: Backend| Rule {
            matches,
            ..rule(on(""), vec![], vec![backend])
        };
        let with =
            |rules: Vec<Rule>| routed(&world, &Scene::default(), &[orders.addr], routes(rules));
        let v2 = || to("shop/orders-v2", Scope::Cluster, TCP, 1);
        let connect = format!("CONNECT {HOST}:{TCP} HTTP/1.1\r\nhost: {HOST}:{TCP}\r\n\r\n");

        // `orders` itself has nobody; the route leads to who echoes.
        let subject = with(vec![opaque(vec![], v2())]);
        let bytes = format!("{connect}hello");
        let heard = say(subject.connect().await, bytes.as_bytes(), "hello").await;
        assert!(heard.ends_with("hello"), "{heard}");

        let by_name = vec![opaque(vec![Match::Sni("*.example".to_owned())], v2())];
        let subject = with(by_name);
        for (name, passes) in [("a.example", true), ("a.other", false)] {
            let mut stream = subject.connect().await;
            let heard = exchange_hello(&mut stream, &connect, name).await;
            // What is echoed is the ClientHello itself.
            assert_eq!(heard, passes, "{name}");
        }
    });
}

/// Sends a ClientHello for `name` through CONNECT; whether it comes back.
async fn exchange_hello(stream: &mut tokio::net::TcpStream, connect: &str, name: &str) -> bool {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    stream.write_all(connect.as_bytes()).await.unwrap();
    let mut heard = Vec::new();
    while !heard.ends_with(b"\r\n\r\n") {
        stream.read_buf(&mut heard).await.unwrap();
    }
    let hello = client_hello(name);
    stream.write_all(&hello).await.unwrap();
    let mut back = Vec::new();
    while back.len() < hello.len() {
        if stream.read_buf(&mut back).await.unwrap_or(0) == 0 {
            return false;
        }
    }
    back == hello
}

/// The least that is a TLS 1.2 ClientHello with a server name.
fn client_hello(name: &str) -> Vec<u8> {
    let sized = |bytes: &[u8]| {
        let length = u16::try_from(bytes.len()).unwrap().to_be_bytes();
        [&length[..], bytes].concat()
    };
    let server_name = sized(&[&[0][..], &sized(name.as_bytes())].concat());
    let extension = [&[0, 0][..], &sized(&server_name)].concat();
    let body = [
        &[3, 3][..],
        &[7; 32],
        &[0],
        &sized(&[0x13, 0x01]),
        &[1, 0],
        &sized(&extension),
    ]
    .concat();
    let length = u32::try_from(body.len()).unwrap().to_be_bytes();
    let handshake = [&[1][..], &length[1..], &body].concat();
    [&[22, 3, 1][..], &sized(&handshake)].concat()
}
