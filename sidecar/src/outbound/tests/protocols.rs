//! What is carried besides plain requests.

use std::collections::BTreeMap;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, Version};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::task::spawn_local;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;

use super::super::fixtures::*;

fn channel() -> (mpsc::Sender<Frame<Bytes>>, Body) {
    let (sender, receiver) = mpsc::channel(1);
    let frames = ReceiverStream::new(receiver).map(Ok);
    (sender, StreamBody::new(frames).boxed_unsync())
}

fn data(text: &'static [u8]) -> Frame<Bytes> {
    Frame::data(Bytes::from_static(text))
}

/// Answers each message as it comes, then with trailers.
async fn bidirectional(request: Request<hyper::body::Incoming>) -> Response<Body> {
    let mut incoming = request.into_body();
    let (sender, body) = channel();
    spawn_local(async move {
        while let Some(Ok(frame)) = incoming.frame().await {
            if let Ok(data) = frame.into_data() {
                sender.send(Frame::data(data)).await.unwrap();
            }
        }
        let status = HeaderMap::from_iter([(
            "grpc-status".parse().unwrap(),
            HeaderValue::from_static("0"),
        )]);
        sender.send(Frame::trailers(status)).await.unwrap();
    });
    Response::builder()
        .header("content-type", "application/grpc")
        .body(body)
        .unwrap()
}

#[test]
fn grpc_streams_both_ways_and_trailers_pass() {
    run(async {
        let world = World::new();
        let west = sidecar(&world.context(ORDERS_WEST), bidirectional).await;
        let gateway = gateway(BTreeMap::from([("us-west", Ok(west.addr))])).await;
        let gateways = vec![gateway.addr];
        let scene = Scene {
            gateways,
            west: true,
            ..Scene::default()
        };
        let subject = Subject::start(&world, &scene);

        let mut client = http2_client(subject.connect().await).await;
        let (messages, body) = channel();
        let request = Request::post(url("/shop.Orders/Follow"))
            .version(Version::HTTP_2)
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(body)
            .unwrap();
        let mut answer = client.send_request(request).await.unwrap().into_body();
        for message in [b"one", b"two"] {
            messages.send(data(message)).await.unwrap();
            let echoed = answer.frame().await.unwrap().unwrap().into_data().unwrap();
            assert_eq!(&echoed[..], message);
        }
        drop(messages);
        let trailers = answer
            .frame()
            .await
            .unwrap()
            .unwrap()
            .into_trailers()
            .unwrap();
        assert_eq!(trailers["grpc-status"], "0");
    });
}

#[test]
fn large_bodies_stream_both_ways() {
    run(async {
        const PARTS: usize = 256;
        let world = World::new();
        let orders = sidecar(&world.context(ORDERS), bidirectional).await;
        let scene = Scene {
            own: vec![orders.addr],
            ..Scene::default()
        };
        let subject = Subject::start(&world, &scene);
        let (parts, body) = channel();
        spawn_local(async move {
            for _ in 0..PARTS {
                parts
                    .send(Frame::data(Bytes::from(vec![7; 64 * 1024])))
                    .await
                    .unwrap();
            }
        });
        let request = Request::post(url("/")).body(body).unwrap();
        let mut client = subject.client().await;
        let mut answer = client.0.send_request(request).await.unwrap().into_body();
        let mut received = 0;
        while let Some(frame) = answer.frame().await {
            received += frame.unwrap().data_ref().map_or(0, Bytes::len);
        }
        assert_eq!(received, PARTS * 64 * 1024);
    });
}

#[test]
fn connect_leads_to_requests_or_bytes() {
    run(async {
        let world = World::new();
        let orders = echo(&world.context(ORDERS), "own").await;
        let scene = Scene {
            own: vec![orders.addr],
            ..Scene::default()
        };
        let subject = Subject::start(&world, &scene);

        let mut outer = subject.client().await;
        let connect = Request::connect(format!("{HOST}:{HTTP}"))
            .body(text(""))
            .unwrap();
        let response = outer.0.send_request(connect).await.unwrap();
        assert_eq!(response.status(), 200);
        let tunnel = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
        let mut inner = client(tunnel).await;
        for _ in 0..2 {
            let request = Request::get("/inside").header("host", "whatever.example");
            let response = inner.send(request).await;
            assert_eq!(
                response.headers()["x-path"],
                "http://whatever.example/inside"
            );
        }

        let connect = format!("CONNECT {HOST}:{TCP} HTTP/1.1\r\nhost: {HOST}:{TCP}\r\n\r\nhello");
        let heard = say(subject.connect().await, connect.as_bytes(), "hello").await;
        assert!(
            heard.starts_with("HTTP/1.1 200") && heard.ends_with("hello"),
            "{heard}"
        );
        assert_eq!(orders.hits.get(), 2);
    });
}

#[test]
fn opaque_connections_fail_over_before_they_begin() {
    run(async {
        let world = World::new();
        let west = echo(&world.context(ORDERS_WEST), "west").await;
        let gateway = gateway(BTreeMap::from([("us-west", Ok(west.addr))])).await;
        let scene = Scene {
            own: vec![nobody()],
            gateways: vec![gateway.addr],
            west: true,
            ..Scene::default()
        };
        let subject = Subject::start(&world, &scene);
        let connect = format!("CONNECT {HOST}:{TCP} HTTP/1.1\r\nhost: {HOST}:{TCP}\r\n\r\nhello");
        let heard = say(subject.connect().await, connect.as_bytes(), "hello").await;
        assert!(
            heard.starts_with("HTTP/1.1 200") && heard.ends_with("hello"),
            "{heard}"
        );

        let alone = Subject::start(
            &world,
            &Scene {
                own: vec![nobody()],
                ..Scene::default()
            },
        );
        let heard = say(alone.connect().await, connect.as_bytes(), "\r\n\r\n").await;
        assert!(
            heard.starts_with("HTTP/1.1 503") && heard.contains("connect_failed"),
            "{heard}"
        );
    });
}

#[test]
fn web_sockets_pass() {
    run(async {
        let world = World::new();
        let orders = sidecar(&world.context(ORDERS), |mut request| async move {
            assert_eq!(request.version(), Version::HTTP_11);
            assert_eq!(request.headers()["upgrade"], "websocket");
            assert_eq!(request.headers()["host"], HOST);
            let upgraded = hyper::upgrade::on(&mut request);
            spawn_local(async move {
                let mut stream = TokioIo::new(upgraded.await.unwrap());
                stream.write_all(b"welcome ").await.unwrap();
                let (mut read, mut write) = tokio::io::split(stream);
                tokio::io::copy(&mut read, &mut write).await.unwrap();
            });
            let response = Response::builder().status(101);
            let response = response
                .header("connection", "upgrade")
                .header("upgrade", "websocket");
            response.body(text("")).unwrap()
        })
        .await;
        let scene = Scene {
            own: vec![orders.addr],
            ..Scene::default()
        };
        let subject = Subject::start(&world, &scene);
        let mut client = subject.client().await;
        let request = Request::get(url("/socket"))
            .header("connection", "Upgrade")
            .header("upgrade", "websocket")
            .body(text(""))
            .unwrap();
        let response = client.0.send_request(request).await.unwrap();
        assert_eq!(response.status(), 101);
        assert_eq!(response.headers()["upgrade"], "websocket");
        let mut stream = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
        stream.write_all(b"hello").await.unwrap();
        let mut heard = [0; 13];
        stream.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"welcome hello");
    });
}

#[test]
fn a_captured_connection_goes_where_it_was_going() {
    run(async {
        let world = World::new();
        let orders = echo(&world.context(ORDERS), "own").await;
        let scene = Scene {
            own: vec![orders.addr],
            ..Scene::default()
        };
        let subject = Subject::start(&world, &scene);
        // As if the kernel had redirected them: the listener and the rules are not part of this.
        let capture = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = capture.local_addr().unwrap();
        for (port, said) in [(HTTP, "GET / HTTP/1.1\r\nhost: x\r\n\r\n"), (TCP, "own")] {
            let client = tokio::net::TcpStream::connect(addr).await.unwrap();
            let (stream, _) = capture.accept().await.unwrap();
            let original = ([240, 241, 0, 1], port).into();
            let worker = std::rc::Rc::clone(&subject.worker);
            spawn_local(super::super::tunnel::captured(worker, stream, original));
            let heard = say(client, said.as_bytes(), "own").await;
            assert!(heard.contains("own"), "{heard}");
        }
        // The request counts, and the connection that carries no requests.
        let both = [("2xx", 1), ("none", 1)].into();
        let counted = async {
            while subject.worker.counters.ended() != both {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(AMPLE, counted).await.unwrap();
        let client = tokio::net::TcpStream::connect(addr).await.unwrap();
        let (stream, _) = capture.accept().await.unwrap();
        let worker = std::rc::Rc::clone(&subject.worker);
        super::super::tunnel::captured(worker, stream, ([240, 241, 0, 1], 81).into()).await;
        let mut client = client;
        let ended = client.read(&mut [0; 1]).await;
        assert_eq!(
            ended.unwrap_err().kind(),
            std::io::ErrorKind::ConnectionReset
        );
    });
}
