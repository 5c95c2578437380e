//! What ends while calls are under way.

use std::cell::RefCell;

use tokio::sync::oneshot;

use super::super::app::IDLE_MAX as APP_IDLE_MAX;
use super::super::http::{IDLE_MAX, WAIT_MAX};
use super::*;
use crate::http::pass;

#[tokio::test(flavor = "local")]
async fn what_is_under_way_at_the_shutdown_finishes() {
    locally(async || {
        let (release, held) = watch::channel(false);
        let (arrive, mut arrived) = watch::channel(false);
        let app = raw_app(move |mut stream: TcpStream| {
            let (mut held, arrive) = (held.clone(), arrive.clone());
            async move {
                let mut head = [0; 4096];
                let _ = stream.read(&mut head).await.unwrap();
                arrive.send(true).unwrap();
                held.wait_for(|released| *released).await.unwrap();
                let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
                stream.write_all(answer).await.unwrap();
            }
        });
        let sidecar = Sidecar::beside(app.await).await;
        let mut sender = sidecar.http2(NEIGHBOUR, HTTP).await;
        let under_way = spawn_local(sender.send_request(request("/")));
        arrived.wait_for(|arrived| *arrived).await.unwrap();
        sidecar.shutdown.trigger();
        release.send(true).unwrap();
        let answer = Answer::of(under_way.await.unwrap().unwrap()).await;
        assert_eq!(answer.text, "ok");
        drop(sender);
        sidecar.serving.await.unwrap();
    })
    .await;
}

#[tokio::test(flavor = "local")]
async fn a_gateway_that_leaves_takes_its_callers_along_and_loses_no_request() {
    locally(async || {
        let (app, _) = seeing_app().await;
        let sidecar = Sidecar::beside(app).await;
        let with = |gateways: &[&str]| {
            let mut snapshot = fixtures::snapshot(sidecar.app_port);
            let mut mesh = (**snapshot.mesh.as_ref().unwrap()).clone();
            let gateway = |tcp: &&str| Gateway {
                name: (*tcp).to_owned(),
                tcp: tcp.parse().unwrap(),
                quic: tcp.parse().unwrap(),
            };
            mesh.gateways = gateways.iter().map(gateway).collect();
            snapshot.mesh = Some(Arc::new(mesh));
            snapshot
        };
        let (leaving, other) = ("127.0.0.1:15443", "192.0.2.1:15443");
        sidecar.publish(with(&[leaving, other]));
        let mut sender = sidecar.http2::<Empty<Bytes>>(PEER, HTTP).await;
        let answer = Answer::of(sender.send_request(request("/")).await.unwrap()).await;
        assert_eq!(answer.status, 200);
        sidecar.publish(with(&[leaving]));
        let answer = Answer::of(sender.send_request(request("/")).await.unwrap()).await;
        assert_eq!(answer.status, 200, "somebody else left");
        let under_way = sender.send_request(request("/"));
        sidecar.publish(with(&[other]));
        let answer = Answer::of(under_way.await.unwrap()).await;
        assert_eq!(answer.status, 200);
        while !sender.is_closed() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test(flavor = "local")]
async fn a_connection_of_http1_ends_when_no_request_comes_for_too_long() {
    let (app, _) = seeing_app().await;
    let sidecar = Sidecar::beside(app).await;
    let mut stream = sidecar.dial(NEIGHBOUR, HTTP, ALPN_HTTP1).await;
    let request = b"GET / HTTP/1.1\r\nhost: orders.shop.global\r\n\r\n";
    let mut buffer = [0; 4096];
    for _ in 0..2 {
        stream.write_all(request).await.unwrap();
        let count = stream.read(&mut buffer).await.unwrap();
        assert!(buffer[..count].starts_with(b"HTTP/1.1 200 "));
        pass(WAIT_MAX * 2 / 3).await;
    }
    pass(WAIT_MAX).await;
    assert_eq!(stream.read(&mut buffer).await.unwrap(), 0);
}

#[tokio::test(flavor = "local")]
async fn a_connection_of_http2_ends_when_no_request_comes_for_too_long() {
    let (app, _) = seeing_app().await;
    let sidecar = Sidecar::beside(app).await;
    let mut sender = sidecar.http2(NEIGHBOUR, HTTP).await;
    for _ in 0..2 {
        let answer = Answer::of(sender.send_request(request("/")).await.unwrap()).await;
        assert_eq!(answer.status, 200);
        pass(IDLE_MAX * 2 / 3).await;
    }
    pass(IDLE_MAX).await;
    while !sender.is_closed() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "local")]
async fn a_connection_to_the_app_is_used_again_while_the_app_surely_keeps_it() {
    let (app, connections) = seeing_app().await;
    let sidecar = Sidecar::beside(app).await;
    let mut sender = sidecar.http2(NEIGHBOUR, HTTP).await;
    for (waited, opened) in [
        (Duration::ZERO, 1),
        (APP_IDLE_MAX * 2 / 3, 1),
        (APP_IDLE_MAX * 2 / 3, 1),
        (APP_IDLE_MAX, 2),
    ] {
        pass(waited).await;
        let answer = Answer::of(sender.send_request(request("/")).await.unwrap()).await;
        assert_eq!(answer.status, 200);
        assert_eq!(connections.get(), opened, "after {waited:?}");
    }
}

#[tokio::test(flavor = "local")]
async fn how_long_the_app_keeps_a_connection_counts_from_when_it_began_to_answer() {
    let connections = Rc::new(Cell::new(0));
    let (release, held) = oneshot::channel::<()>();
    let (counted, held) = (Rc::clone(&connections), RefCell::new(Some(held)));
    let app = raw_app(move |mut stream: TcpStream| {
        counted.set(counted.get() + 1);
        let mut held = held.borrow_mut().take();
        async move {
            let mut head = [0; 4096];
            while stream.read(&mut head).await.is_ok_and(|count| count > 0) {
                let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nha";
                stream.write_all(answer).await.unwrap();
                if let Some(held) = held.take() {
                    held.await.unwrap();
                    stream.write_all(b"lf").await.unwrap();
                    return pending().await;
                }
                stream.write_all(b"lf").await.unwrap();
            }
        }
    });
    let sidecar = Sidecar::beside(app.await).await;
    let mut sender = sidecar.http2(NEIGHBOUR, HTTP).await;
    let slow = sender.send_request(request("/")).await.unwrap();
    pass(APP_IDLE_MAX).await;
    release.send(()).unwrap();
    assert_eq!(Answer::of(slow).await.text, "half");
    let answer = Answer::of(sender.send_request(request("/")).await.unwrap()).await;
    assert_eq!(answer.text, "half");
    assert_eq!(connections.get(), 2, "the first one may be ending");
}
