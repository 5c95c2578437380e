//! What HTTP asks of anything that passes messages on, seen by an app that looks at bytes.

use std::cell::RefCell;

use ::http::HeaderValue;
use portolan_transport::mtls::ALPN_HTTP1;

use super::*;

/// An app that answers each request with the same bytes, whatever it is asked, and what it was sent.
async fn scripted(answer: &'static str) -> (u16, Rc<RefCell<Vec<String>>>) {
    let heard: Rc<RefCell<Vec<String>>> = Rc::default();
    let recorded = Rc::clone(&heard);
    let port = raw_app(move |mut stream: TcpStream| {
        let recorded = Rc::clone(&recorded);
        async move {
            let mut bytes = Vec::new();
            while stream.read_buf(&mut bytes).await.unwrap_or(0) > 0 {
                let text = String::from_utf8_lossy(&bytes).into_owned();
                let chunked = text.contains("transfer-encoding: chunked");
                let whole = if chunked { "\r\n0\r\n" } else { "\r\n\r\n" };
                if text.contains(whole) && text.ends_with("\r\n\r\n") {
                    recorded.borrow_mut().push(text);
                    bytes.clear();
                    let _ = stream.write_all(answer.as_bytes()).await;
                }
            }
        }
    });
    (port.await, heard)
}

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

#[tokio::test(flavor = "local")]
async fn answers_whose_end_is_unclear_are_refused() {
    for answer in [
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-length: 2\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nokk",
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\ncontent-length: 2, 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\ncontent-length: +2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\nok",
        "HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length : 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nx: y\r\n folded\r\ncontent-length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nx: y\rz\r\ncontent-length: 2\r\n\r\nok",
        "nonsense\r\n\r\n",
    ] {
        locally(async || {
            let (app, heard) = scripted(answer).await;
            let sidecar = Sidecar::beside(app).await;
            let mut sender = sidecar.http2(NEIGHBOUR, HTTP).await;
            for _ in 0..2 {
                let answered = sender.send_request(request("/")).await.unwrap();
                let answered = Answer::of(answered).await;
                assert_eq!(answered.status, 502, "{answer:?}");
                assert_eq!(answered.error(), "reset; hop=inbound");
            }
            assert_eq!(heard.borrow().len(), 2, "{answer:?}");
        })
        .await;
    }
}

#[tokio::test(flavor = "local")]
async fn informational_answers_are_no_answers() {
    locally(async || {
        let (app, _) = scripted(
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\n\r\n\
             HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
        )
        .await;
        let sidecar = Sidecar::beside(app).await;
        let answer = sidecar.get(NEIGHBOUR, HTTP, request("/")).await;
        assert_eq!(
            (answer.status, answer.text.as_str()),
            (StatusCode::OK, "ok")
        );
        assert!(!answer.headers.contains_key("link"));
    })
    .await;
}

#[tokio::test(flavor = "local")]
async fn the_app_sees_one_form_of_a_request() {
    locally(async || {
        let (app, heard) = scripted(OK).await;
        let sidecar = Sidecar::beside(app).await;
        let mut odd = request("/public/%2e%2e/adm%69n?q=%2e%2e");
        let headers = odd.headers_mut();
        for (name, value) in [
            ("te", "trailers"),
            ("expect", "100-continue"),
            ("x-forwarded-for", "192.0.2.1"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        assert_eq!(sidecar.get(PEER, HTTP, odd).await.status, 200);
        let seen = heard.borrow()[0].clone();
        assert!(
            seen.starts_with("GET /admin?q=%2e%2e HTTP/1.1\r\n"),
            "{seen}"
        );
        for line in [
            "te: trailers",
            "connection: te",
            "host: orders.shop.global",
            "x-forwarded-for: 192.0.2.1",
            "x-forwarded-for: 127.0.0.1",
            "x-forwarded-proto: http",
        ] {
            assert!(seen.contains(&format!("\r\n{line}\r\n")), "{line}: {seen}");
        }
        assert!(
            !seen.contains("expect:") && !seen.contains("transfer-encoding"),
            "{seen}"
        );
        let mut two_hosts = request("/");
        *two_hosts.uri_mut() = "/".parse().unwrap();
        for host in ["a", "b"] {
            two_hosts
                .headers_mut()
                .append("host", HeaderValue::from_static(host));
        }
        *two_hosts.version_mut() = ::http::Version::HTTP_11;
        let io = TokioIo::new(sidecar.dial(NEIGHBOUR, HTTP, ALPN_HTTP1).await);
        let (mut sender, connection) = http1::handshake(io).await.unwrap();
        spawn_local(connection);
        let refused = sender.send_request(two_hosts).await.unwrap();
        assert_eq!(refused.status(), 400);
        for bad in ["/a%00", "/%", "/a%2f..%2fb"] {
            let answer = sidecar.get(NEIGHBOUR, HTTP, request(bad)).await;
            assert_eq!(answer.error(), "bad_request; hop=inbound", "{bad}");
            assert_eq!(answer.status, 400);
        }
        assert_eq!(heard.borrow().len(), 1);
    })
    .await;
}

/// A body of which nobody knows how long it will be.
fn unmeasured(
    parts: Vec<Frame<Bytes>>,
) -> impl Body<Data = Bytes, Error = hyper::Error> + Unpin + Send + 'static {
    let parts: Vec<_> = parts.into_iter().map(Ok).collect();
    StreamBody::new(tokio_stream::iter(parts))
}

#[tokio::test(flavor = "local")]
async fn bodies_of_unknown_length_reach_the_app_with_their_trailers() {
    locally(async || {
        let (app, heard) = scripted(
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n\
             2\r\nok\r\n0\r\nx-sum: 7\r\ntransfer-encoding: chunked\r\n\r\n",
        )
        .await;
        let sidecar = Sidecar::beside(app).await;
        let mut sender = sidecar.http2(NEIGHBOUR, HTTP).await;
        // A GET too, although few servers expect it.
        for method in [Method::POST, Method::GET] {
            let trailers = HeaderMap::from_iter([
                ("x-sum".parse().unwrap(), HeaderValue::from_static("42")),
                (
                    "x-forwarded-client-cert".parse().unwrap(),
                    HeaderValue::from_static("forged"),
                ),
            ]);
            let body = unmeasured(vec![Frame::data("hello".into()), Frame::trailers(trailers)]);
            let request = Request::builder()
                .method(method)
                .uri("http://orders.shop.global/")
                .header("trailer", "x-sum, x-forwarded-client-cert");
            let response = sender
                .send_request(request.body(body).unwrap())
                .await
                .unwrap();
            let answer = Answer::of(response).await;
            assert_eq!(answer.text, "ok");
            let trailers = answer.trailers.unwrap();
            assert_eq!(trailers.len(), 1);
            assert_eq!(trailers["x-sum"], "7");
            let seen = heard.borrow().last().unwrap().clone();
            assert!(
                seen.ends_with("\r\n\r\n5\r\nhello\r\n0\r\nx-sum: 42\r\n\r\n"),
                "{seen}"
            );
            assert!(!seen.contains("content-length"), "{seen}");
        }
    })
    .await;
}

#[tokio::test(flavor = "local")]
async fn bodies_that_are_too_large_are_refused() {
    locally(async || {
        let rules = HttpRules {
            body_max: Some(8),
            ..HttpRules::default()
        };
        let app = raw_app(async |mut stream: TcpStream| {
            let mut all = Vec::new();
            let _ = stream.read_to_end(&mut all).await;
            assert!(!String::from_utf8_lossy(&all).contains("ninebytes"));
        })
        .await;
        let sidecar = Sidecar::beside_with(app, rules.clone()).await;
        let mut sender = sidecar.http2(NEIGHBOUR, HTTP).await;
        let announced = Request::post("http://orders.shop.global/").header("content-length", 9);
        let streamed = Request::post("http://orders.shop.global/");
        for request in [announced, streamed] {
            let body = unmeasured(vec![
                Frame::data("nine".into()),
                Frame::data("bytes".into()),
            ]);
            let answered = sender
                .send_request(request.body(body).unwrap())
                .await
                .unwrap();
            let answer = Answer::of(answered).await;
            assert_eq!(answer.status, 413);
            assert_eq!(answer.error(), "bad_request; hop=inbound");
        }
        let (app, _) = scripted("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
        let sidecar = Sidecar::beside_with(app, rules).await;
        let mut sender = sidecar.http2(NEIGHBOUR, HTTP).await;
        let body = unmeasured(vec![Frame::data("eightbyt".into())]);
        let request = Request::post("http://orders.shop.global/")
            .body(body)
            .unwrap();
        assert_eq!(sender.send_request(request).await.unwrap().status(), 200);
    })
    .await;
}

#[tokio::test(flavor = "local")]
async fn a_body_that_stops_arriving_is_refused() {
    locally(async || {
        let rules = HttpRules {
            body_idle: Duration::from_millis(100),
            ..HttpRules::default()
        };
        let app = raw_app(async |mut stream: TcpStream| {
            let mut all = Vec::new();
            let _ = stream.read_to_end(&mut all).await;
        })
        .await;
        let sidecar = Sidecar::beside_with(app, rules).await;
        let mut sender = sidecar.http2(NEIGHBOUR, HTTP).await;
        let (frames, body) = tokio::sync::mpsc::channel::<Result<Frame<Bytes>, hyper::Error>>(1);
        frames.send(Ok(Frame::data("half".into()))).await.unwrap();
        let body = StreamBody::new(tokio_stream::wrappers::ReceiverStream::new(body));
        let request = Request::post("http://orders.shop.global/")
            .body(body)
            .unwrap();
        let answer = Answer::of(sender.send_request(request).await.unwrap()).await;
        assert_eq!(answer.status, 408);
    })
    .await;
}

#[tokio::test(flavor = "local")]
async fn http1_from_the_mesh_is_looked_at_as_strictly() {
    locally(async || {
        let (app, heard) = scripted(OK).await;
        let sidecar = Sidecar::beside(app).await;
        let mut stream = sidecar.dial(NEIGHBOUR, HTTP, ALPN_HTTP1).await;
        let bytes = "GET /1 HTTP/1.1\r\nhost: a\r\n\r\n\
            POST /2 HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n\
            GET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n";
        stream.write_all(bytes.as_bytes()).await.unwrap();
        let mut answers = Vec::new();
        let _ = stream.read_to_end(&mut answers).await;
        let answers = String::from_utf8(answers).unwrap();
        assert_eq!(answers.matches("HTTP/1.1 200").count(), 1, "{answers}");
        assert_eq!(answers.matches("HTTP/1.1 400").count(), 1, "{answers}");
        assert!(answers.contains("x-portolan-error: bad_request; hop=inbound"), "{answers}");
        assert_eq!(heard.borrow().len(), 1);
    })
    .await;
}

#[tokio::test(flavor = "local")]
async fn a_head_request_s_answer_keeps_its_length_and_the_connection() {
    locally(async || {
        let (app, connections) = {
            let counted = Rc::new(Cell::new(0));
            let connections = Rc::clone(&counted);
            let app = raw_app(move |mut stream: TcpStream| {
                counted.set(counted.get() + 1);
                async move {
                    let mut head = [0; 4096];
                    while stream.read(&mut head).await.unwrap_or(0) > 0 {
                        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n";
                        stream.write_all(answer).await.unwrap();
                    }
                }
            });
            (app.await, connections)
        };
        let sidecar = Sidecar::beside(app).await;
        let mut sender = sidecar.http2(NEIGHBOUR, HTTP).await;
        for _ in 0..3 {
            let mut head = request("/");
            *head.method_mut() = Method::HEAD;
            let answer = Answer::of(sender.send_request(head).await.unwrap()).await;
            assert_eq!(answer.headers["content-length"], "5");
            assert!(answer.text.is_empty());
        }
        assert_eq!(connections.get(), 1);
    })
    .await;
}

#[tokio::test(flavor = "local")]
async fn head_over_http2_is_answered_with_a_head_alone_whatever_the_app_sends() {
    locally(async || {
        // Over HTTP/2 this app sends its body with `HEAD` too.
        let (app, connections) = seeing_app().await;
        let sidecar = Sidecar::beside(app).await;
        for port in [GRPC, HTTP] {
            let mut sender = sidecar.http2(NEIGHBOUR, port).await;
            for method in [Method::HEAD, Method::HEAD, Method::GET] {
                let mut asked = request("/");
                *asked.method_mut() = method.clone();
                let answer = Answer::of(sender.send_request(asked).await.unwrap()).await;
                assert_eq!(answer.status, 200);
                assert_ne!(answer.headers["content-length"], "0");
                assert_eq!(answer.text.is_empty(), method == Method::HEAD);
            }
        }
        assert_eq!(connections.get(), 2, "one for each protocol");
    })
    .await;
}

#[tokio::test(flavor = "local")]
async fn a_refusal_of_head_is_a_head_alone() {
    locally(async || {
        let sidecar = Sidecar::beside(closed_port()).await;
        let mut sender = sidecar.http2(NEIGHBOUR, GRPC).await;
        for method in [Method::HEAD, Method::GET] {
            let mut asked = request("/");
            *asked.method_mut() = method.clone();
            let answer = Answer::of(sender.send_request(asked).await.unwrap()).await;
            assert_eq!(answer.error(), "connect_failed; hop=inbound");
            assert_eq!(answer.text.is_empty(), method == Method::HEAD);
        }
    })
    .await;
}
