//! Bodies without end, and clients that do not keep up.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, Version};
use http_body::Frame;
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use portolan_policy::breaker::Bound;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::spawn_local;
use tokio::time::Instant;

use super::super::fixtures::*;
use crate::http::LocalExecutor;

const PART: usize = 64 * 1024;
const MIB: usize = 1024 * 1024;
/// What windows, TLS, and the kernel's buffers on the way may hold.
const UNDER_WAY_MAX: usize = 64 * MIB;

/// Gives the same part again and again, as fast as it is asked to.
struct Endless {
    given: Arc<AtomicUsize>,
    limit: usize,
    part: Bytes,
}

impl Endless {
    fn new(given: &Arc<AtomicUsize>, limit: usize) -> Self {
        Self {
            given: Arc::clone(given),
            limit,
            part: vec![7; PART].into(),
        }
    }
}

impl http_body::Body for Endless {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        if self.given.load(Ordering::Relaxed) >= self.limit {
            return Poll::Ready(None);
        }
        self.given.fetch_add(PART, Ordering::Relaxed);
        Poll::Ready(Some(Ok(Frame::data(self.part.clone()))))
    }
}

/// `shop/orders`, whose answers are as long as that, and how much of them it gave. `/small` is small.
async fn flowing(world: &World, limit: usize) -> (Listening, Subject, Arc<AtomicUsize>) {
    let given: Arc<AtomicUsize> = Arc::default();
    let counted = Arc::clone(&given);
    let orders = sidecar(&world.context(ORDERS), move |request| {
        let body = match request.uri().path() {
            "/small" => text("small"),
            _ => Endless::new(&counted, limit).boxed_unsync(),
        };
        async move { Response::new(body) }
    })
    .await;
    let scene = Scene {
        own: vec![orders.addr],
        ..Scene::default()
    };
    let subject = Subject::start(world, &scene);
    (orders, subject, given)
}

/// Looks until nothing more is given.
async fn settle(given: &AtomicUsize) -> usize {
    loop {
        let before = given.load(Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(50)).await;
        if given.load(Ordering::Relaxed) == before {
            return before;
        }
    }
}

/// Resident memory of this process, in bytes.
pub(super) fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = statm.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}

async fn small(subject: &Subject) {
    let response = subject
        .client()
        .await
        .send(Request::get(url("/small")))
        .await;
    assert_eq!(&response.body()[..], b"small");
}

#[test]
fn an_endless_answer_waits_for_a_slow_reader() {
    run(async {
        let world = World::new();
        let (_orders, subject, given) = flowing(&world, usize::MAX).await;
        let mut stream = subject.connect().await;
        let ask = format!("GET / HTTP/1.1\r\nhost: {HOST}\r\n\r\n");
        stream.write_all(ask.as_bytes()).await.unwrap();
        let mut part = vec![0; MIB];
        let mut read = 0;
        for wanted in [MIB, 32 * MIB, 96 * MIB] {
            while read < wanted {
                read += stream.read(&mut part).await.unwrap();
            }
            let given = settle(&given).await;
            assert!(given < read + UNDER_WAY_MAX, "{given} given, {read} read");
            small(&subject).await;
        }
    });
}

#[test]
fn a_gibibyte_passes_in_little_memory() {
    run(async {
        let world = World::new();
        let (_orders, subject, _) = flowing(&world, 1024 * MIB).await;
        small(&subject).await;
        let (before, mut most) = (resident(), 0);
        let request = Request::get(url("/")).body(text("")).unwrap();
        let mut client = subject.client().await;
        let mut body = client.0.send_request(request).await.unwrap().into_body();
        let (mut read, mut look) = (0, 0);
        while let Some(frame) = body.frame().await {
            read += frame.unwrap().data_ref().map_or(0, Bytes::len);
            if read >= look {
                look += 16 * MIB;
                most = most.max(resident());
            }
        }
        assert_eq!(read, 1024 * MIB);
        assert!(
            most < before + UNDER_WAY_MAX,
            "{before} before, {most} at most"
        );
    });
}

#[test]
fn an_endless_upload_waits_for_an_app_that_does_not_read() {
    run(async {
        let world = World::new();
        let orders = sidecar(&world.context(ORDERS), |request| async move {
            if request.uri().path() == "/small" {
                return Response::new(text("small"));
            }
            let _unread = request;
            std::future::pending().await
        })
        .await;
        let scene = Scene {
            own: vec![orders.addr],
            ..Scene::default()
        };
        let subject = Subject::start(&world, &scene);
        let given: Arc<AtomicUsize> = Arc::default();
        let body = Endless::new(&given, usize::MAX).boxed_unsync();
        let mut client = subject.client().await;
        let request = Request::post(url("/")).body(body).unwrap();
        let sending = spawn_local(async move { client.0.send_request(request).await });
        while given.load(Ordering::Relaxed) == 0 {
            tokio::task::yield_now().await;
        }
        let given = settle(&given).await;
        assert!(given < UNDER_WAY_MAX, "{given}");
        small(&subject).await;
        assert!(!sending.is_finished());
        sending.abort();
    });
}

#[test]
fn streams_whose_window_stays_closed_starve_nobody() {
    run(async {
        let world = World::new();
        let (orders, subject, given) = flowing(&world, usize::MAX).await;
        const STALLED: usize = 90;
        let io = TokioIo::new(subject.connect().await);
        let (mut client, driver) = hyper::client::conn::http2::Builder::new(LocalExecutor)
            .initial_stream_window_size(1)
            .handshake::<_, Body>(io)
            .await
            .unwrap();
        spawn_local(driver);
        let mut stalled = Vec::new();
        for _ in 0..STALLED {
            let request = Request::get(url("/")).version(Version::HTTP_2);
            let answer = client
                .send_request(request.body(text("")).unwrap())
                .await
                .unwrap();
            stalled.push(answer);
        }
        let given = settle(&given).await;
        assert!(given < UNDER_WAY_MAX, "{given}");
        for _ in 0..10 {
            small(&subject).await;
        }
        assert_eq!(orders.hits.get(), STALLED + 10);
        // They are not kept for ever.
        let service = subject.worker.service(&"shop/orders".parse().unwrap());
        subject.worker.stalls.look(Instant::now());
        assert_eq!(service.breaker.in_use(Bound::Requests), STALLED as u32);
        let much_later = Instant::now() + Duration::from_secs(301);
        subject.worker.stalls.look(much_later);
        assert_eq!(service.breaker.in_use(Bound::Requests), 0);
    });
}
