//! Apps that answer health checks well, badly, or not at all.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use portolan_model::Protocol;
use portolan_model::declared::ExportTo;
use portolan_model::snapshot::{Inbound, InboundPort, InboundRules};
use portolan_model::traffic::HealthProbe;
use portolan_runtime::Shutdown;
use tokio::net::TcpListener;

use super::super::{Probe, new};
use super::*;

/// An app whose answers are 200 and SERVING, or the number that is set.
async fn app(answer: Arc<AtomicU16>) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let answer = Arc::clone(&answer);
            let service = service_fn(move |request: Request<Incoming>| {
                let answer = answer.load(Ordering::Relaxed);
                async move { Ok::<_, Infallible>(respond(request, answer).await) }
            });
            tokio::spawn(async move {
                let server = auto::Builder::new(TokioExecutor::new());
                let _ = server.serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    address
}

type Body = http_body_util::combinators::UnsyncBoxBody<Bytes, Infallible>;

async fn respond(request: Request<Incoming>, answer: u16) -> Response<Body> {
    if request.uri().path() != "/grpc.health.v1.Health/Check" {
        assert_eq!(request.uri().path(), "/healthz");
        assert_eq!(request.headers()["host"], "orders");
        let body = Full::new(Bytes::from_static(b"all is well"));
        let response = Response::builder().status(answer);
        return response.body(body.boxed_unsync()).unwrap();
    }
    let asked = request.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(&asked[..], b"\0\0\0\0\x05\x0a\x03abc");
    let status = if answer == 200 { 1 } else { 2 };
    let message = Bytes::from(vec![0, 0, 0, 0, 2, 8, status]);
    let trailers = HeaderMap::from_iter([("grpc-status".parse().unwrap(), "0".parse().unwrap())]);
    let frames = [Frame::data(message), Frame::trailers(trailers)].map(Ok);
    let body = StreamBody::new(futures_util::stream::iter(frames));
    let response = Response::builder().header("content-type", "application/grpc");
    response.body(body.boxed_unsync()).unwrap()
}

fn check(probe: HealthProbe) -> HealthCheck {
    HealthCheck {
        port: Some(80),
        probe,
        interval: Duration::from_millis(20),
        timeout: Duration::from_secs(10),
        healthy_threshold: 2,
        unhealthy_threshold: 2,
    }
}

fn snapshot(app_port: u16, checks: Vec<HealthCheck>) -> Snapshot {
    let service: portolan_model::ServiceKey = "shop/orders".parse().unwrap();
    let port = |port| InboundPort {
        service: service.clone(),
        port,
        app_port,
        protocol: Protocol::Http,
        exported: ExportTo::Nobody,
    };
    let rules = InboundRules {
        health_checks: checks,
        ..InboundRules::default()
    };
    let workload: WorkloadKey = "shop/orders-1".parse().unwrap();
    let inbound = Inbound {
        workload: workload.clone(),
        ports: vec![port(80), port(81)],
        rules: BTreeMap::from([(service, rules)]),
    };
    Snapshot {
        inbound: BTreeMap::from([(workload, Arc::new(inbound))]),
        ..Snapshot::default()
    }
}

async fn until(probe: &Probe, wanted: impl Fn(&AppHealth) -> bool) -> String {
    let mut health = probe.health();
    let found = health.wait_for(wanted);
    let found = tokio::time::timeout(Duration::from_secs(20), found).await;
    found.unwrap().unwrap().detail.clone()
}

fn http() -> HealthProbe {
    HealthProbe::Http {
        path: "/healthz".to_owned(),
        host: Some("orders".to_owned()),
        statuses: vec![(200, 299)],
        body: Some("all .*".parse().unwrap()),
    }
}

fn grpc() -> HealthProbe {
    HealthProbe::Grpc {
        service: "abc".to_owned(),
    }
}

/// Runs a prober with these checks beside an app, makes it answer 503, and then 200 again.
async fn falls_and_returns(probe: HealthProbe, why: &str) {
    let answer = Arc::new(AtomicU16::new(200));
    let address = app(Arc::clone(&answer)).await;
    let (probe, prober) = {
        let snapshot = snapshot(address.port(), vec![check(probe)]);
        let (changes, changed) = watch::channel(1);
        let (probe, prober) = new(address.ip(), [address.port()]);
        let declared = Declared {
            workload: "shop/orders-1".parse().unwrap(),
            snapshot: Arc::new(ArcSwap::from_pointee(snapshot)),
            changed,
        };
        // The feed goes on for as long as the test.
        std::mem::forget(changes);
        (probe, prober.with_checks(declared))
    };
    let shutdown = Shutdown::new();
    let running = tokio::spawn(prober.run(shutdown.clone()));
    until(&probe, |health| health.ready).await;
    answer.store(503, Ordering::Relaxed);
    let detail = until(&probe, |health| !health.ready).await;
    assert!(detail.contains(why), "{detail}");
    answer.store(200, Ordering::Relaxed);
    until(&probe, |health| health.ready).await;
    shutdown.trigger();
    running.await.unwrap();
}

#[tokio::test]
async fn http_checks_are_obeyed() {
    falls_and_returns(http(), "it answered 503").await;
}

#[tokio::test]
async fn grpc_checks_are_obeyed() {
    falls_and_returns(grpc(), "it does not say SERVING").await;
}

#[tokio::test]
async fn each_question_has_its_answer() {
    let answer = Arc::new(AtomicU16::new(200));
    let address = app(Arc::clone(&answer)).await;
    let asked = |probe| async move { ask(address.ip(), address.port(), &check(probe)).await };
    assert_eq!(asked(HealthProbe::Tcp).await, Ok(()));
    assert_eq!(asked(http()).await, Ok(()));
    assert_eq!(asked(grpc()).await, Ok(()));
    let HealthProbe::Http {
        path,
        host,
        statuses,
        ..
    } = http()
    else {
        unreachable!()
    };
    let other = HealthProbe::Http {
        path,
        host,
        statuses,
        body: Some("nothing".parse().unwrap()),
    };
    let why = asked(other).await.unwrap_err();
    assert!(why.contains("does not match"), "{why}");
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let patience = HealthCheck {
        timeout: Duration::from_millis(50),
        ..check(http())
    };
    let address = silent.local_addr().unwrap();
    let why = ask(address.ip(), address.port(), &patience).await;
    assert!(why.unwrap_err().contains("no answer within"));
}

#[test]
fn one_port_of_the_app_is_checked_once() {
    let all = HealthCheck {
        port: None,
        ..check(HealthProbe::Tcp)
    };
    let workload = "shop/orders-1".parse().unwrap();
    let found = checks(&snapshot(8080, vec![all.clone(), check(http())]), &workload);
    assert_eq!(found, [(8080, all), (8080, check(http()))]);
}
