//! An HTTP/2 caller, of plain requests or unary gRPC calls.

use std::convert::Infallible;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http::{HeaderValue, Method, Request, header};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::spawn_local;

use super::Entrance;
use crate::origin::LocalExecutor;

/// A gRPC message of 100 bytes, in its frame: not compressed, length, bytes.
const MESSAGE: &[u8] = &{
    let mut frame = [b'x'; 105];
    frame[0] = 0;
    frame[1] = 0;
    frame[2] = 0;
    frame[3] = 0;
    frame[4] = 100;
    frame
};

type Body = http_body_util::combinators::BoxBody<Bytes, Infallible>;

/// One caller's part of a connection.
#[derive(Clone)]
pub(super) struct Stream {
    sender: SendRequest<Body>,
    uri: http::Uri,
    grpc: bool,
}

impl Stream {
    pub(super) async fn open(entrance: &Entrance, grpc: bool) -> Result<Self> {
        let stream = TcpStream::connect(entrance.address)
            .await
            .with_context(|| format!("cannot connect to {}", entrance.address))?;
        stream.set_nodelay(true)?;
        let (sender, driver) = Builder::new(LocalExecutor)
            .initial_stream_window_size(1024 * 1024)
            .initial_connection_window_size(8 * 1024 * 1024)
            .handshake(TokioIo::new(stream))
            .await?;
        spawn_local(async move {
            // Its callers learn of the end by failing.
            let _ended = driver.await;
        });
        let path = if grpc { "bench.Echo/Say" } else { "orders/42" };
        Ok(Self {
            sender,
            uri: format!("http://{}/{path}", entrance.host).parse()?,
            grpc,
        })
    }

    /// Sends a request, and reads the whole answer.
    pub(super) async fn call(&mut self) -> Result<()> {
        let mut request = Request::new(Full::new(Bytes::new()).boxed());
        *request.uri_mut() = self.uri.clone();
        if self.grpc {
            *request.method_mut() = Method::POST;
            *request.body_mut() = Full::new(Bytes::from_static(MESSAGE)).boxed();
            let headers = request.headers_mut();
            let kind = HeaderValue::from_static("application/grpc");
            headers.insert(header::CONTENT_TYPE, kind);
            headers.insert(header::TE, HeaderValue::from_static("trailers"));
        }
        self.sender.ready().await?;
        let response = self.sender.send_request(request).await?;
        if response.status() != http::StatusCode::OK {
            bail!("refused: {} {:?}", response.status(), response.headers());
        }
        let answer = response.into_body().collect().await?;
        if self.grpc {
            let status = answer.trailers().and_then(|all| all.get("grpc-status"));
            if status.is_none_or(|status| status != "0") {
                bail!("the call ended with gRPC status {status:?}");
            }
        }
        Ok(())
    }
}
