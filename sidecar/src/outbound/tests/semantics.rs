//! What HTTP asks of anything that passes messages on.

use std::collections::BTreeMap;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Version};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::spawn_local;

use super::super::fixtures::*;
use crate::http::HttpConfig;

async fn before(world: &World, orders: &Listening) -> Subject {
    let scene = Scene {
        own: vec![orders.addr],
        ..Scene::default()
    };
    Subject::start(world, &scene)
}

/// Says it on a connection of its own, and hears until the proxy closes.
async fn ask(subject: &Subject, request: &str) -> String {
    let request = request.replace("HOST", HOST);
    say(subject.connect().await, request.as_bytes(), "\u{0}").await
}

#[test]
fn the_app_gets_the_form_of_a_path_that_is_judged_and_other_hosts_get_what_was_sent() {
    run(async {
        let world = World::new();
        let orders = echo(&world.context(ORDERS), "own").await;
        let subject = before(&world, &orders).await;
        for (path, expected) in [
            ("/public/%2e%2e/adm%69n?x=%2e%2e/", "/admin?x=%2e%2e/"),
            ("/group%2fproject", "/group%2Fproject"),
            ("/a//b", "/a//b"),
        ] {
            let heard = ask(
                &subject,
                &format!("GET {path} HTTP/1.1\r\nhost: HOST\r\nconnection: close\r\n\r\n"),
            )
            .await;
            assert!(
                heard.contains(&format!("x-path: http://{HOST}{expected}\r\n")),
                "{heard}"
            );
        }
        let elsewhere = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = elsewhere.local_addr().unwrap();
        let odd = "/100%/%7e/../x";
        let sent = format!("GET {odd} HTTP/1.1\r\nhost: {addr}\r\nconnection: close\r\n\r\n");
        let asking = ask(&subject, &sent);
        let answering = async {
            let (mut stream, _) = elsewhere.accept().await.unwrap();
            let mut heard = Vec::new();
            while !heard.ends_with(b"\r\n\r\n") {
                stream.read_buf(&mut heard).await.unwrap();
            }
            stream
                .write_all(b"HTTP/1.1 204 No Content\r\n\r\n")
                .await
                .unwrap();
            String::from_utf8(heard).unwrap()
        };
        let (heard, asked) = tokio::join!(asking, answering);
        assert!(heard.starts_with("HTTP/1.1 204"), "{heard}");
        assert!(
            asked.starts_with(&format!("GET {odd} HTTP/1.1\r\n")),
            "{asked}"
        );
    });
}

#[test]
fn trailers_pass_from_http1_and_back() {
    run(async {
        let world = World::new();
        let orders = sidecar(&world.context(ORDERS), |request| async move {
            let body = request.into_body().collect().await.unwrap();
            let trailers = body.trailers().unwrap().clone();
            assert_eq!(trailers["x-sum"], "42");
            assert!(!trailers.contains_key("content-length"));
            assert!(!trailers.contains_key("x-forwarded-client-cert"));
            let frames = [
                Ok(Frame::data(Bytes::from_static(b"hello"))),
                Ok(Frame::trailers(trailers)),
            ];
            let body = StreamBody::new(tokio_stream::iter(frames)).boxed_unsync();
            Response::builder()
                .header("trailer", "x-sum")
                .body(body)
                .unwrap()
        })
        .await;
        let subject = before(&world, &orders).await;
        let heard = ask(
            &subject,
            "POST / HTTP/1.1\r\nhost: HOST\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\nte: trailers\r\nconnection: te, close\r\n\r\n\
             2\r\nhi\r\n0\r\nx-sum: 42\r\ncontent-length: 7\r\nx-forwarded-client-cert: forged\r\n\r\n",
        )
        .await;
        assert!(
            heard.ends_with("5\r\nhello\r\n0\r\nx-sum: 42\r\n\r\n"),
            "{heard}"
        );
        assert!(heard.contains("trailer: x-sum\r\n"), "{heard}");
    });
}

/// An app of which every answer, but that to `GET /`, has no body.
async fn bodiless(world: &World) -> Listening {
    sidecar(&world.context(ORDERS), |request| async move {
        let response = Response::builder().header("x-method", request.method().as_str());
        let (response, body) = match request.uri().path() {
            "/204" => (response.status(204), ""),
            "/304" => (response.status(304).header("etag", "\"1\""), ""),
            _ if request.method() == "HEAD" => (response.header("content-length", 5), ""),
            _ => (response, "hello"),
        };
        response.body(text(body)).unwrap()
    })
    .await
}

#[test]
fn answers_without_a_body_have_none() {
    run(async {
        let world = World::new();
        let subject = before(&world, &bodiless(&world).await).await;
        let both = "HEAD / HTTP/1.1\r\nhost: HOST\r\n\r\n\
            GET / HTTP/1.1\r\nhost: HOST\r\nconnection: close\r\n\r\n";
        let heard = ask(&subject, both).await;
        let (head, rest) = heard.split_once("\r\n\r\n").unwrap();
        assert!(head.contains("x-method: HEAD"), "{heard}");
        assert!(head.contains("content-length: 5"), "{heard}");
        assert!(rest.starts_with("HTTP/1.1 200"), "{heard}");
        assert!(rest.ends_with("\r\n\r\nhello"), "{heard}");
        for status in ["204", "304"] {
            let get = format!("GET /{status} HTTP/1.1\r\nhost: HOST\r\nconnection: close\r\n\r\n");
            let heard = ask(&subject, &get).await;
            assert!(heard.starts_with(&format!("HTTP/1.1 {status}")), "{heard}");
            assert!(heard.ends_with("\r\n\r\n"), "{heard}");
            assert!(!heard.contains("transfer-encoding"), "{heard}");
            assert!(!heard.contains("content-length"), "{heard}");
        }
    });
}

#[test]
fn answers_without_a_body_have_none_in_http2() {
    run(async {
        let world = World::new();
        let subject = before(&world, &bodiless(&world).await).await;
        let mut client = http2_client(subject.connect().await).await;
        for (method, path, status) in [
            ("HEAD", "/", 200),
            ("GET", "/204", 204),
            ("GET", "/304", 304),
        ] {
            let request = Request::builder().method(method).uri(url(path));
            let request = request.version(Version::HTTP_2).body(text("")).unwrap();
            let response = client.send_request(request).await.unwrap();
            assert_eq!(response.status(), status);
            let length = response.headers().get("content-length").cloned();
            let expected = (method == "HEAD").then(|| HeaderValue::from_static("5"));
            assert_eq!(length, expected);
            let body = response.into_body().collect().await.unwrap();
            assert!(body.to_bytes().is_empty());
        }
    });
}

/// HTTP/2 servers answer `HEAD` with whatever body they are given, and HTTP/2 clients take one for a broken
/// stream.
#[test]
fn head_is_answered_with_a_head_alone_whoever_answers() {
    run(async {
        let world = World::new();
        let context = world.context(ORDERS);
        let orders = sidecar(&context, |_| async { Response::new(text("hello")) }).await;
        let subject = before(&world, &orders).await;
        let mut client = http2_client(subject.connect().await).await;
        let nobody = format!("http://{HOST}:81/");
        let too_long = url(&format!("/{}", "x".repeat(20_000)));
        for (url, status) in [(url("/"), 200), (nobody, 404), (too_long, 414)] {
            for _ in 0..2 {
                let request = Request::head(&url).version(Version::HTTP_2);
                let response = client.send_request(request.body(text("")).unwrap()).await;
                let response = response.unwrap();
                assert_eq!(response.status(), status);
                let body = response.into_body().collect().await.unwrap();
                assert!(body.to_bytes().is_empty());
                let mut client = subject.client().await;
                let answer = client.send(Request::head(&url)).await;
                assert_eq!(answer.status(), status);
                assert!(answer.body().is_empty());
            }
        }
    });
}

#[test]
fn connect_over_http2_and_a_request_for_no_path_pass() {
    run(async {
        let world = World::new();
        let orders = echo(&world.context(ORDERS), "own").await;
        let subject = before(&world, &orders).await;
        let mut client = http2_client(subject.connect().await).await;
        let connect = Request::connect(format!("{HOST}:{TCP}"))
            .version(Version::HTTP_2)
            .body(text(""))
            .unwrap();
        let response = client.send_request(connect).await.unwrap();
        assert_eq!(response.status(), 200);
        let mut tunnel = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
        tunnel.write_all(b"hello").await.unwrap();
        let mut heard = [0; 5];
        tunnel.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"hello");

        let heard = ask(
            &subject,
            "OPTIONS * HTTP/1.1\r\nhost: HOST\r\nconnection: close\r\n\r\n",
        )
        .await;
        assert!(heard.starts_with("HTTP/1.1 200"), "{heard}");
        assert!(heard.contains("x-method: OPTIONS"), "{heard}");
        assert!(
            heard.contains(&format!("x-path: http://{HOST}*\r\n")),
            "{heard}"
        );
    });
}

#[test]
fn web_sockets_pass_into_another_cluster() {
    run(async {
        let world = World::new();
        let west = sidecar(&world.context(ORDERS_WEST), |mut request| async move {
            let upgraded = hyper::upgrade::on(&mut request);
            spawn_local(async move {
                let stream = TokioIo::new(upgraded.await.unwrap());
                let (mut read, mut write) = tokio::io::split(stream);
                tokio::io::copy(&mut read, &mut write).await.unwrap();
            });
            Response::builder()
                .status(StatusCode::SWITCHING_PROTOCOLS)
                .header("connection", "upgrade")
                .header("upgrade", "websocket")
                .header("sec-websocket-accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")
                .body(text(""))
                .unwrap()
        })
        .await;
        let gateway = gateway(BTreeMap::from([("us-west", Ok(west.addr))])).await;
        let scene = Scene {
            gateways: vec![gateway.addr],
            west: true,
            ..Scene::default()
        };
        let subject = Subject::start(&world, &scene);
        let ask = format!(
            "GET /chat HTTP/1.1\r\nhost: {HOST}\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
             sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13\r\n\r\n"
        );
        // Bytes that are no HTTP follow at once, and come back untouched.
        let frame = b"\x81\x85\x01\x02\x03\x04\x69\x67\x6f\x68\x6e\n\r\n\x00";
        let mut stream = subject.connect().await;
        stream
            .write_all(&[ask.as_bytes(), frame].concat())
            .await
            .unwrap();
        let mut heard = Vec::new();
        while !heard.ends_with(frame) {
            assert!(
                stream.read_buf(&mut heard).await.unwrap() > 0,
                "{}",
                heard.escape_ascii()
            );
        }
        assert!(
            heard.starts_with(b"HTTP/1.1 101"),
            "{}",
            heard.escape_ascii()
        );
    });
}

#[test]
fn an_upgrade_that_is_not_granted_leaves_a_connection_for_more_requests() {
    run(async {
        let world = World::new();
        let orders = echo(&world.context(ORDERS), "own").await;
        let subject = before(&world, &orders).await;
        let heard = ask(
            &subject,
            "GET /1 HTTP/1.1\r\nhost: HOST\r\nconnection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n\
             GET /2 HTTP/1.1\r\nhost: HOST\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n\
             GET /3 HTTP/1.1\r\nhost: HOST\r\nconnection: close\r\n\r\n",
        )
        .await;
        assert_eq!(heard.matches("HTTP/1.1 200").count(), 3, "{heard}");
        assert!(!heard.contains("x-got-http2-settings"), "{heard}");
        assert_eq!(
            heard.matches("x-got-upgrade: websocket").count(),
            1,
            "{heard}"
        );
    });
}

#[test]
fn who_calls_the_proxy_itself_is_told_what_to_do() {
    run(async {
        let world = World::new();
        let subject = Subject::start(&world, &Scene::default());
        let own = subject.outbound;
        let request = Request::get("/").header("host", own.to_string());
        let response = subject.client().await.send(request).await;
        assert_eq!(response.status(), 400);
        assert_eq!(
            response.headers()["x-portolan-error"],
            "bad_request; hop=outbound"
        );
        let words = String::from_utf8(response.body().to_vec()).unwrap();
        assert!(
            words.contains(&format!("curl -x http://{own} http://")),
            "{words}"
        );
        let named = Request::get(format!("http://localhost:{}/", own.port()));
        assert_eq!(subject.client().await.send(named).await.status(), 400);
    });
}

#[test]
fn via_is_given_where_it_is_wanted_and_trace_context_passes() {
    run(async {
        let world = World::new();
        let orders = echo(&world.context(ORDERS), "own").await;
        let scene = Scene {
            own: vec![orders.addr],
            ..Scene::default()
        };
        let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let request = || {
            Request::get(url("/"))
                .header("via", "1.0 cdn")
                .header("traceparent", trace)
                .header("tracestate", "a=1,b=2")
                .header("x-forwarded-for", "192.0.2.1")
        };
        let subject = Subject::start(&world, &scene);
        let plain = subject.client().await.send(request()).await;
        assert!(!plain.headers().contains_key("via"));
        assert_eq!(plain.headers()["x-got-via"], "1.0 cdn");
        assert_eq!(plain.headers()["x-got-traceparent"], trace);
        assert_eq!(plain.headers()["x-got-tracestate"], "a=1,b=2");
        assert_eq!(plain.headers()["x-got-x-forwarded-for"], "192.0.2.1");

        let config = HttpConfig {
            via: Some("mesh".to_owned()),
            ..HttpConfig::default()
        };
        let subject = Subject::start_as(&world, &scene, config.rules());
        let told = subject.client().await.send(request()).await;
        assert_eq!(told.headers()["via"], "2.0 mesh");
        let all = |headers: &HeaderMap| -> Vec<String> {
            let values = headers.get_all("x-got-via").iter();
            values.map(|it| it.to_str().unwrap().to_owned()).collect()
        };
        assert_eq!(all(told.headers()), ["1.0 cdn", "1.1 mesh"]);
    });
}

#[test]
fn http2_messages_that_could_become_two_are_refused() {
    run(async {
        let world = World::new();
        let orders = echo(&world.context(ORDERS), "own").await;
        let subject = before(&world, &orders).await;
        let long = format!("http://{HOST}/{}", "x".repeat(20_000));
        let mut client = http2_client(subject.connect().await).await;
        let mut many = Request::get(url("/")).version(Version::HTTP_2);
        for number in 0..200 {
            many = many.header(format!("x-{number}"), "y");
        }
        for (request, status) in [
            (Request::get(long).version(Version::HTTP_2), 414),
            (many, 431),
        ] {
            let response = client
                .send_request(request.body(text("")).unwrap())
                .await
                .unwrap();
            assert_eq!(response.status(), status);
            assert_eq!(
                response.headers()["x-portolan-error"],
                "bad_request; hop=outbound"
            );
        }
        // RFC 9113 §8.1.1: a body that is not as long as it says is malformed.
        let lying = Request::post(url("/"))
            .version(Version::HTTP_2)
            .header("content-length", "3");
        let answered = client
            .send_request(lying.body(text("abcdef")).unwrap())
            .await;
        assert!(answered.is_err() || answered.unwrap().status() == 400);
        assert_eq!(orders.hits.get(), 0);
    });
}
