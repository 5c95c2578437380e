//! The app that answers: as little work as a server can do, so that what is measured is what is in
//! front of it. One kilobyte for each request, in HTTP/1.1 or HTTP/2; bytes on another port.

use std::convert::Infallible;
use std::net::SocketAddr;

use anyhow::{Context, Result};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::spawn_local;

use crate::load::bulk;

/// The body of each answer, in bytes.
pub(crate) const BODY: usize = 1024;
/// The largest request head, in bytes.
const HEAD_MAX: usize = 16 * 1024;
const PREFACE: &[u8] = b"PRI * HTTP/2.0";

/// Answers until the process is killed.
pub(crate) async fn run(http: SocketAddr, bulk: SocketAddr) -> Result<()> {
    follow_parent()?;
    let bind = async |address: SocketAddr| {
        TcpListener::bind(address)
            .await
            .with_context(|| format!("cannot listen on {address}"))
    };
    let bulk = bind(bulk).await?;
    let http = bind(http).await?;
    spawn_local(async move {
        while let Ok((stream, _)) = bulk.accept().await {
            spawn_local(bulk::answer(stream));
        }
    });
    loop {
        let (stream, _) = http.accept().await?;
        stream.set_nodelay(true)?;
        spawn_local(connection(stream));
    }
}

/// Ends with the benchmark, however that ends.
fn follow_parent() -> Result<()> {
    use rustix::process::{Signal, set_parent_process_death_signal};
    Ok(set_parent_process_death_signal(Some(Signal::KILL))?)
}

async fn connection(stream: TcpStream) {
    let mut start = [0; PREFACE.len()];
    // A probe connects and says nothing.
    if !matches!(stream.peek(&mut start).await, Ok(count) if count > 0) {
        return;
    }
    if start == *PREFACE {
        serve_http2(stream).await;
    } else {
        // A client that goes away is none of our concern.
        let _ended = serve_http1(stream).await;
    }
}

async fn serve_http1(mut stream: TcpStream) -> std::io::Result<()> {
    let mut answer =
        format!("HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {BODY}\r\n\r\n")
            .into_bytes();
    answer.resize(answer.len() + BODY, b'x');
    let mut buffer = Vec::with_capacity(HEAD_MAX);
    loop {
        let Some(head) = find(&buffer, b"\r\n\r\n") else {
            if buffer.len() >= HEAD_MAX || stream.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
            continue;
        };
        buffer.drain(..head + 4);
        stream.write_all(&answer).await?;
    }
}

async fn serve_http2(stream: impl AsyncRead + tokio::io::AsyncWrite + Unpin + 'static) {
    let service = service_fn(answer_http2);
    let serving = hyper::server::conn::http2::Builder::new(LocalExecutor)
        .max_concurrent_streams(1024)
        .initial_stream_window_size(1024 * 1024)
        .initial_connection_window_size(8 * 1024 * 1024)
        .serve_connection(TokioIo::new(stream), service);
    // A client that goes away is none of our concern.
    let _ended = serving.await;
}

/// gRPC calls get their message back in gRPC's frame, others a kilobyte.
async fn answer_http2(
    request: Request<Incoming>,
) -> Result<Response<http_body_util::combinators::BoxBody<Bytes, Infallible>>, Infallible> {
    static TEXT: [u8; BODY] = [b'x'; BODY];
    let grpc = request
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
    if !grpc {
        let body = Full::new(Bytes::from_static(&TEXT)).boxed();
        return Ok(Response::new(body));
    }
    let message = request.into_body().collect().await;
    let message = message
        .map(http_body_util::Collected::to_bytes)
        .unwrap_or_default();
    let body = Full::new(message).with_trailers(async {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        Some(Ok(trailers))
    });
    let mut response = Response::new(body.boxed());
    let kind = HeaderValue::from_static("application/grpc");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    Ok(response)
}

/// Where `needle` begins.
pub(crate) fn find(text: &[u8], needle: &[u8]) -> Option<usize> {
    text.windows(needle.len()).position(|part| part == needle)
}

/// Runs HTTP/2's tasks on this thread.
#[derive(Clone, Copy)]
pub(crate) struct LocalExecutor;

impl<F: Future + 'static> hyper::rt::Executor<F> for LocalExecutor {
    fn execute(&self, future: F) {
        spawn_local(async move {
            future.await;
        });
    }
}
