//! One HTTP call through a sidecar, as an app with `http_proxy` set would make it.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

/// The longest that a call may take before a test gives it up.
const CALL_MAX: Duration = Duration::from_secs(20);

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: http::HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    /// The cluster that answered.
    pub(crate) fn cluster(&self) -> String {
        self.json()["cluster"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    }

    pub(crate) fn refusal(&self) -> String {
        self.headers
            .get("x-portolan-error")
            .map(|value| value.to_str().unwrap().to_owned())
            .unwrap_or_default()
    }
}

/// Calls `url` through the HTTP proxy at `proxy`.
pub(crate) async fn call(
    proxy: SocketAddr,
    request: http::Request<Full<Bytes>>,
) -> Result<Answer, String> {
    let exchange = async {
        let stream = TcpStream::connect(proxy)
            .await
            .map_err(|error| error.to_string())?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| error.to_string())?;
        let driver = tokio::spawn(connection);
        let response = sender
            .send_request(request)
            .await
            .map_err(|error| error.to_string())?;
        let (parts, body) = response.into_parts();
        let body = body
            .collect()
            .await
            .map_err(|error| error.to_string())?
            .to_bytes();
        driver.abort();
        Ok(Answer {
            status: parts.status.as_u16(),
            headers: parts.headers,
            body,
        })
    };
    tokio::time::timeout(CALL_MAX, exchange)
        .await
        .unwrap_or_else(|_| Err("no answer".to_owned()))
}

pub(crate) async fn get(proxy: SocketAddr, url: &str) -> Result<Answer, String> {
    call(proxy, request("GET", url)).await
}

pub(crate) fn request(method: &str, url: &str) -> http::Request<Full<Bytes>> {
    let uri: http::Uri = url.parse().unwrap();
    http::Request::builder()
        .method(method)
        .header(
            "host",
            uri.authority().map(ToString::to_string).unwrap_or_default(),
        )
        .uri(uri)
        .body(Full::default())
        .unwrap()
}

/// [`get`] for tests that are not async.
pub(crate) fn get_now(proxy: SocketAddr, url: &str) -> Result<Answer, String> {
    runtime().block_on(get(proxy, url))
}

pub(crate) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}
