//! Serving HTTP to the app, within limits, until the connection or the process ends.

use std::convert::Infallible;
use std::pin::{Pin, pin};
use std::time::Duration;

use futures_util::FutureExt;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use portolan_runtime::Shutdown;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::spawn_local;
use tokio::time::timeout;

use super::body::ReplyBody;
use crate::sniff::Spoken;

/// The largest request head, in bytes; larger ones are answered with 431.
pub(crate) const HEAD_MAX: u32 = 64 * 1024;
/// The most headers of an HTTP/1.1 request.
const HEADERS_MAX: usize = 128;
/// How long an HTTP/1.1 request head may take to arrive; also how long a connection may wait for one.
const HEAD_TIMEOUT: Duration = Duration::from_secs(120);
/// The most requests under way on one HTTP/2 connection.
const STREAMS_MAX: u32 = 256;
const H2_STREAM_WINDOW: u32 = 1024 * 1024;
const H2_CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;
/// An HTTP/2 client that is silent for so long is asked whether it lives.
const H2_PING_AFTER: Duration = Duration::from_secs(30);
const H2_PING_TIMEOUT: Duration = Duration::from_secs(10);
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

/// Serves requests on `stream`, in HTTP/2 if that is what was `spoken` and else in HTTP/1.1 (whose
/// parser answers what is no HTTP at all).
pub(crate) async fn serve<S, H, F>(stream: S, spoken: Spoken, handler: H, shutdown: &Shutdown)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    H: Fn(Request<Incoming>) -> F,
    F: Future<Output = Response<ReplyBody>> + 'static,
{
    // An async block around the answer would hold it twice.
    let service = service_fn(move |request| handler(request).map(Ok::<_, Infallible>));
    let io = TokioIo::new(stream);
    if spoken == Spoken::Http2 {
        let serving = http2::Builder::new(LocalExecutor)
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS_MAX)
            .max_header_list_size(HEAD_MAX)
            .initial_stream_window_size(H2_STREAM_WINDOW)
            .initial_connection_window_size(H2_CONNECTION_WINDOW)
            .keep_alive_interval(H2_PING_AFTER)
            .keep_alive_timeout(H2_PING_TIMEOUT)
            .serve_connection(io, service);
        drive(serving, http2::Connection::graceful_shutdown, shutdown).await;
    } else {
        let serving = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .max_buf_size(HEAD_MAX as usize)
            .max_headers(HEADERS_MAX)
            .serve_connection(io, service)
            .with_upgrades();
        drive(
            serving,
            http1::UpgradeableConnection::graceful_shutdown,
            shutdown,
        )
        .await;
    }
}

async fn drive<C, E>(serving: C, end: impl Fn(Pin<&mut C>), shutdown: &Shutdown)
where
    C: Future<Output = Result<(), E>>,
    E: std::fmt::Display,
{
    let mut serving = pin!(serving);
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        () = shutdown.triggered() => {
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
