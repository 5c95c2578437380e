//! Serving HTTP to the app, within limits, until the connection or the process ends.

use std::convert::Infallible;
use std::future::pending;
use std::pin::{Pin, pin};
use std::time::Duration;

use futures_util::FutureExt;
use http::{Method, Request, Response};
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use portolan_runtime::Shutdown;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::spawn_local;
use tokio::time::timeout;

use super::activity::Activity;
use super::body::ReplyBody;
use super::guard::{Bounds, guard, may_switch};
use super::http2::{Reach, server};
use crate::sniff::Spoken;

/// How long an HTTP/1.1 connection may wait for a request.
const WAIT_MAX: Duration = Duration::from_secs(120);
/// The most requests under way on one HTTP/2 connection.
const STREAMS_MAX: u32 = 256;
/// The smallest buffer that hyper takes.
const BUFFER_MIN: usize = 8 * 1024;
/// How long requests under way may go on after the shutdown.
pub(crate) const DRAIN_MAX: Duration = Duration::from_secs(5);

/// Runs the tasks of a connection on its own thread.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LocalExecutor;

impl<F: Future<Output = ()> + 'static> Executor<F> for LocalExecutor {
    fn execute(&self, future: F) {
        // hyper's tasks are of one type for requests and whole connections, so each is large. Boxed,
        // it is copied once; a task that holds it is copied from place to place.
        spawn_local(Box::pin(future));
    }
}

/// What every server of HTTP/1.x begins with. It needs a guard before it, which waits for the rest of heads,
/// and somebody who ends it when it is idle.
pub(crate) fn http1_server(bounds: &Bounds) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .header_read_timeout(None)
        .max_buf_size(bounds.bytes_max.max(BUFFER_MIN))
        .max_headers(bounds.headers_max);
    builder
}

/// Serves requests on `stream`, in HTTP/2 if that is what was `spoken` and else in HTTP/1.1 (whose
/// guard answers what is no HTTP at all).
pub(crate) async fn serve<S, H, F>(
    stream: S,
    spoken: Spoken,
    bounds: &Bounds,
    handler: H,
    activity: &Activity,
    shutdown: &Shutdown,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    H: Fn(Request<Incoming>) -> F,
    F: Future<Output = Response<ReplyBody>> + 'static,
{
    if spoken == Spoken::Http2 {
        // An async block around the answer would hold it twice.
        let service = service_fn(move |request| handler(request).map(Ok::<_, Infallible>));
        let serving = server(bounds, STREAMS_MAX, Reach::Near)
            .serve_connection(TokioIo::new(stream), service);
        let end = http2::Connection::graceful_shutdown;
        drive(serving, end, pending(), shutdown).await;
        return;
    }
    let (stream, switch) = guard(stream, *bounds);
    let service = service_fn(move |request| {
        let switch = may_switch(&request).then(|| switch.clone());
        let connect = request.method() == Method::CONNECT;
        handler(request).map(move |response| {
            if let Some(switch) = switch {
                switch.answered(response.status(), connect);
            }
            Ok::<_, Infallible>(response)
        })
    });
    let serving = http1_server(bounds)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let end = http1::UpgradeableConnection::graceful_shutdown;
    drive(serving, end, activity.idle(WAIT_MAX), shutdown).await;
}

/// Runs a connection until it ends, and ends it when it is idle or the process is about to end.
async fn drive<C, E>(
    serving: C,
    end: impl Fn(Pin<&mut C>),
    idle: impl Future<Output = ()>,
    shutdown: &Shutdown,
) where
    C: Future<Output = Result<(), E>>,
    E: std::fmt::Display,
{
    let mut serving = pin!(serving);
    let ending = async {
        tokio::select! {
            biased;
            () = shutdown.triggered() => {}
            () = idle => {}
        }
    };
    let ended = tokio::select! {
        biased;
        ended = serving.as_mut() => ended,
        () = ending => {
            end(serving.as_mut());
            match timeout(DRAIN_MAX, serving).await {
                Ok(ended) => ended,
                Err(_) => return,
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a client's connection ended");
    }
}
