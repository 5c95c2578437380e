//! What a proxy must do with any request.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{Request, Response};
use portolan_model::snapshot::Snapshot;
use portolan_transport::listen;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::super::fixtures::*;

async fn own(world: &World) -> (Listening, Subject) {
    let orders = echo(&world.context(ORDERS), "own").await;
    let scene = Scene {
        own: vec![orders.addr],
        ..Scene::default()
    };
    let subject = Subject::start(world, &scene);
    (orders, subject)
}

#[test]
fn a_request_arrives_as_it_was_meant() {
    run(async {
        let world = World::new();
        let (_orders, subject) = own(&world).await;
        let request = Request::get(url("/a?b=c"))
            .header("x-forwarded-client-cert", "URI=spiffe://forged")
            .header("connection", "x-secret")
            .header("x-secret", "1")
            .header("accept", "text/html");
        let response = subject.client().await.send(request).await;
        let header = |name| {
            response
                .headers()
                .get(name)
                .map(|value| value.to_str().unwrap())
        };
        assert_eq!(
            header("x-path"),
            Some(format!("http://{HOST}/a?b=c").as_str())
        );
        assert_eq!(header("x-got-accept"), Some("text/html"));
        assert_eq!(header("x-got-x-forwarded-client-cert"), None);
        assert_eq!(header("x-got-x-secret"), None);

        // Plain, as to any server, with the name in `Host`, a port and a dot.
        let request = Request::head("/x").header("host", format!("{}.:80", HOST.to_uppercase()));
        let response = subject.client().await.send(request).await;
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["x-method"], "HEAD");
        // By virtual IP, with any Host.
        let request = Request::get("http://240.241.0.1/");
        assert_eq!(subject.client().await.send(request).await.status(), 200);
    });
}

#[test]
fn names_of_ours_that_lead_nowhere_are_refused_with_a_reason() {
    run(async {
        let world = World::new();
        let (_orders, subject) = own(&world).await;
        for host in [
            "nobody.shop.svc.clusterset.local",
            "orders.shop.us-west.global",
            "p80.orders.shop.us-east.portolan.internal",
            "240.241.0.1:81",
        ] {
            let request = Request::get(format!("http://{host}/"));
            let response = subject.client().await.send(request).await;
            assert_eq!(response.status(), 404, "{host}");
            assert_eq!(
                response.headers()["x-portolan-error"],
                "no_route; hop=outbound"
            );
        }
        let grpc =
            Request::post("http://nobody.shop.global/").header("content-type", "application/grpc");
        let response = subject.client().await.send(grpc).await;
        assert_eq!(
            (
                response.status().as_u16(),
                &response.headers()["grpc-status"]
            ),
            (200, &"12".parse().unwrap())
        );
    });
}

#[test]
fn other_hosts_are_passed_through_or_not() {
    run(async {
        let world = World::new();
        let elsewhere = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = elsewhere.local_addr().unwrap();
        let serving = async {
            loop {
                let (mut stream, _) = elsewhere.accept().await.unwrap();
                let mut heard = Vec::new();
                while !heard.ends_with(b"\r\n\r\n") {
                    stream.read_buf(&mut heard).await.unwrap();
                }
                assert!(
                    heard.starts_with(b"GET /x HTTP/1.1\r\n"),
                    "{}",
                    heard.escape_ascii()
                );
                let answer = b"HTTP/1.1 200 OK\r\nx-portolan-error: denied; hop=inbound\r\ncontent-length: 5\r\n\r\nhello";
                stream.write_all(answer).await.unwrap();
            }
        };
        let test = async {
            let subject = Subject::start(&world, &Scene::default());
            let request = Request::get(format!("http://{addr}/x"));
            let response = subject.client().await.send(request).await;
            assert_eq!(
                (response.status().as_u16(), &response.body()[..]),
                (200, &b"hello"[..])
            );
            assert!(!response.headers().contains_key("x-portolan-error"));

            let connect =
                format!("CONNECT {addr} HTTP/1.1\r\nhost: {addr}\r\n\r\nGET /x HTTP/1.1\r\n\r\n");
            let heard = say(subject.connect().await, connect.as_bytes(), "hello").await;
            assert!(
                heard.starts_with("HTTP/1.1 200") && heard.ends_with("hello"),
                "{heard}"
            );

            let subject = Subject::start_with(&world, &Scene::default(), false);
            let request = Request::get(format!("http://{addr}/x"));
            assert_eq!(subject.client().await.send(request).await.status(), 404);
        };
        tokio::select! {
            () = serving => {}
            () = test => {}
        }
    });
}

#[test]
fn what_breaks_the_protocol_is_refused_and_nothing_is_smuggled() {
    run(async {
        let world = World::new();
        let (orders, subject) = own(&world).await;
        let bad = [
            "GET / HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n",
            "POST / HTTP/1.1\r\nhost: HOST\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
            "POST / HTTP/1.1\r\nhost: HOST\r\ncontent-length: -1\r\n\r\n",
            "POST / HTTP/1.1\r\nhost: HOST\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\nGET / HTTP/1.1\r\nhost: HOST\r\n\r\n",
            "GET /%00 HTTP/1.1\r\nhost: HOST\r\n\r\n",
            "GET /a/..;/b HTTP/1.1\r\nhost: HOST\r\n\r\n",
            "POST / HTTP/1.1\r\nhost: HOST\r\ntransfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n",
            "GET / HTTP/1.1\r\nhost : HOST\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: HOST\r\nx: a\x00b\r\n\r\n",
            "GET https://HOST/ HTTP/1.1\r\nhost: HOST\r\n\r\n",
            "nonsense\r\n\r\n",
            "CONNECT HOST HTTP/1.1\r\nhost: HOST\r\n\r\n",
        ];
        for bad in bad {
            let bytes = bad.replace("HOST", HOST);
            let heard = say(subject.connect().await, bytes.as_bytes(), "\r\n\r\n").await;
            assert!(heard.starts_with("HTTP/1.1 400"), "{bad:?}: {heard}");
            assert!(heard.contains("x-portolan-error: bad_request"), "{heard}");
        }
        assert_eq!(orders.hits.get(), 0);
    });
}

#[test]
fn too_large_heads_and_circles_are_refused() {
    run(async {
        let world = World::new();
        let (orders, subject) = own(&world).await;
        let large = format!(
            "GET / HTTP/1.1\r\nhost: {HOST}\r\nx: {}\r\n\r\n",
            "x".repeat(70_000)
        );
        let heard = say(subject.connect().await, large.as_bytes(), "\r\n\r\n").await;
        assert!(heard.starts_with("HTTP/1.1 431"), "{heard}");
        let circle = Request::get(url("/")).header("x-portolan-hops", "16");
        let response = subject.client().await.send(circle).await;
        assert_eq!(response.status(), 508);
        assert_eq!(response.headers()["x-portolan-error"], "loop; hop=outbound");
        assert_eq!(orders.hits.get(), 0);
    });
}

#[test]
fn the_caller_s_deadline_counts() {
    run(async {
        let world = World::new();
        let hanging = sidecar(&world.context(ORDERS), |_| std::future::pending()).await;
        let scene = Scene {
            own: vec![hanging.addr],
            ..Scene::default()
        };
        let subject = Subject::start(&world, &scene);
        let begun = Instant::now();
        let request = Request::get(url("/")).header("x-request-timeout", "100ms");
        let response = subject.client().await.send(request).await;
        assert_eq!(response.status(), 504);
        assert_eq!(
            response.headers()["x-portolan-error"],
            "timeout; hop=outbound"
        );
        assert!(begun.elapsed() < Duration::from_secs(5));
        assert_eq!(hanging.hits.get(), 1);
    });
}

#[test]
fn a_client_that_waits_for_permission_gets_it() {
    run(async {
        let world = World::new();
        let (_orders, subject) = own(&world).await;
        let mut stream = subject.connect().await;
        let head = format!(
            "POST / HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: 5\r\nexpect: 100-continue\r\nconnection: close\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut heard = Vec::new();
        while !heard.ends_with(b"\r\n\r\n") {
            stream.read_buf(&mut heard).await.unwrap();
        }
        assert!(
            heard.starts_with(b"HTTP/1.1 100"),
            "{}",
            heard.escape_ascii()
        );
        let heard = say(stream, b"hello", "\r\n\r\nhello").await;
        assert!(
            heard.starts_with("HTTP/1.1 200") && heard.ends_with("hello"),
            "{heard}"
        );
        assert!(!heard.contains("x-got-expect"));
    });
}

#[test]
fn a_shutdown_ends_what_is_under_way_gracefully() {
    run(async {
        let world = World::new();
        let (release, released) = tokio::sync::watch::channel(false);
        let slow = sidecar(&world.context(ORDERS), move |_| {
            let mut released = released.clone();
            async move {
                released.wait_for(|released| *released).await.unwrap();
                Response::new(text("done"))
            }
        })
        .await;
        let scene = Scene {
            own: vec![slow.addr],
            ..Scene::default()
        };
        let subject = Subject::start(&world, &scene);
        let ending = async {
            while slow.hits.get() == 0 {
                tokio::task::yield_now().await;
            }
            subject.shutdown.trigger();
            while listen::connect(subject.outbound, AMPLE).await.is_ok() {
                tokio::task::yield_now().await;
            }
            release.send_replace(true);
            subject.worker.drain().await;
        };
        let (response, ()) = tokio::join!(subject.get(), ending);
        assert_eq!(
            (response.status().as_u16(), &response.body()[..]),
            (200, &b"done"[..])
        );
        assert_eq!(response.headers()["connection"], "close");
    });
}

#[test]
fn what_a_connection_asked_before_changes_nothing() {
    run(async {
        let world = World::new();
        let (_orders, subject) = own(&world).await;
        let mut client = subject.client().await;
        let get = |host: &str| Request::get("/").header("host", host);
        for (host, status) in [
            (HOST, 200),
            (HOST, 200),
            ("nobody.shop.svc.clusterset.local", 404),
            (HOST, 200),
        ] {
            assert_eq!(client.send(get(host)).await.status(), status, "{host}");
        }
        let other = echo(&world.context(ORDERS), "other").await;
        let moved = Scene {
            own: vec![other.addr],
            ..Scene::default()
        };
        for generation in 2..4 {
            subject.snapshot.store(Arc::new(moved.snapshot(generation)));
            subject.changed.send_replace(generation);
            assert_eq!(client.send(get(HOST)).await.headers()["x-from"], "other");
        }
        subject.snapshot.store(Arc::new(Snapshot {
            services: BTreeMap::new(),
            ..moved.snapshot(4)
        }));
        assert_eq!(client.send(get(HOST)).await.status(), 404);
        subject.snapshot.store(Arc::new(moved.snapshot(5)));
        assert_eq!(client.send(get(HOST)).await.status(), 200);
        let twice = get(HOST).header("host", HOST);
        assert_eq!(client.send(twice).await.status(), 400);
    });
}
