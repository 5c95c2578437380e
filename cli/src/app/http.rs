//! The app's HTTP face: HTTP/1.1 and HTTP/2 on one port; gRPC calls go to [`super::grpc`].

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use super::{Card, accept_each, grpc, socket};

/// The longest delay that a caller may ask for.
const DELAY_MAX: Duration = Duration::from_secs(30);

pub(super) type Body = UnsyncBoxBody<Bytes, tonic::Status>;

/// What the app does wrong on purpose until told otherwise: `/__fail?status=500&delay=20&places=4` sets it,
/// `/__fail` ends it. A test asks the app itself, past its sidecar.
#[derive(Debug, Default)]
pub(super) struct Misbehaviour {
    /// 0: none.
    status: AtomicU16,
    delay_ms: AtomicU64,
    /// So many requests are worked on at a time, and the others wait; `None`: all of them are.
    places: Mutex<Option<Arc<Semaphore>>>,
}

impl Misbehaviour {
    fn set(&self, query: &str) {
        let number = |name: &str| {
            let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
            pairs
                .find(|(found, _)| *found == name)?
                .1
                .parse::<u64>()
                .ok()
        };
        let status = number("status").and_then(|status| u16::try_from(status).ok());
        self.status.store(status.unwrap_or(0), Ordering::Relaxed);
        self.delay_ms
            .store(number("delay").unwrap_or(0), Ordering::Relaxed);
        let places = number("places").and_then(|places| u16::try_from(places).ok());
        let places = places.map(|places| Arc::new(Semaphore::new(places.max(1).into())));
        *self.places.lock().unwrap_or_else(PoisonError::into_inner) = places;
    }

    /// Whether answers fail on purpose.
    pub(super) fn fails(&self) -> bool {
        self.status.load(Ordering::Relaxed) != 0
    }

    fn places(&self) -> Option<Arc<Semaphore>> {
        let places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        places.clone()
    }

    async fn act(&self) -> Option<StatusCode> {
        let _place = match self.places() {
            // Nobody closes it.
            Some(places) => places.acquire_owned().await.ok(),
            None => None,
        };
        let delay = Duration::from_millis(self.delay_ms.load(Ordering::Relaxed));
        if !delay.is_zero() {
            tokio::time::sleep(delay.min(DELAY_MAX)).await;
        }
        StatusCode::from_u16(self.status.load(Ordering::Relaxed)).ok()
    }
}

/// What the app saw of a request. The fields' names are the demo's promise.
#[derive(Serialize)]
pub(super) struct Seen<'a> {
    #[serde(flatten)]
    card: &'a Card,
    method: &'a str,
    path: &'a str,
    headers: BTreeMap<&'a str, String>,
    body_bytes: usize,
}

pub(super) async fn serve(listener: TcpListener, card: Arc<Card>) {
    let wrong = Arc::<Misbehaviour>::default();
    accept_each(listener, move |stream| {
        let (card, wrong) = (Arc::clone(&card), Arc::clone(&wrong));
        async move {
            let service = hyper::service::service_fn(move |request| {
                answer(request, Arc::clone(&card), Arc::clone(&wrong))
            });
            let server = auto::Builder::new(TokioExecutor::new());
            if let Err(error) = server
                .serve_connection_with_upgrades(TokioIo::new(stream), service)
                .await
            {
                tracing::debug!(%error, "a connection ended early");
            }
        }
    })
    .await;
}

async fn answer(
    mut request: Request<Incoming>,
    card: Arc<Card>,
    wrong: Arc<Misbehaviour>,
) -> Result<Response<Body>, Infallible> {
    if let Some(granted) = socket::grant(&mut request) {
        return Ok(granted);
    }
    let is_grpc = request
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"));
    if is_grpc {
        return Ok(grpc::answer(request, card, &wrong).await);
    }
    let (parts, body) = request.into_parts();
    let body_bytes = count(body).await;
    let path = parts.uri.path();
    let failing = if path == "/__fail" {
        wrong.set(parts.uri.query().unwrap_or_default());
        None
    } else {
        wrong.act().await
    };
    if let Some(delay) = path.strip_prefix("/delay/").and_then(|ms| ms.parse().ok()) {
        tokio::time::sleep(Duration::from_millis(delay).min(DELAY_MAX)).await;
    }
    let status = path
        .strip_prefix("/status/")
        .and_then(|code| code.parse().ok())
        .and_then(|code| StatusCode::from_u16(code).ok())
        .filter(|status| status.as_u16() >= 200)
        .or(failing)
        .unwrap_or(StatusCode::OK);
    let text = seen(
        &card,
        parts.method.as_str(),
        path,
        &parts.headers,
        body_bytes,
    );
    let mut response = Response::new(
        Full::new(Bytes::from(text))
            .map_err(|never| match never {})
            .boxed_unsync(),
    );
    *response.status_mut() = status;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        header::HeaderValue::from_static("application/json"),
    );
    Ok(response)
}

/// The JSON that every face of the app answers with.
pub(super) fn seen(
    card: &Card,
    method: &str,
    path: &str,
    headers: &HeaderMap,
    body_bytes: usize,
) -> String {
    let mut values: BTreeMap<&str, String> = BTreeMap::new();
    for (name, value) in headers {
        let value = String::from_utf8_lossy(value.as_bytes());
        values
            .entry(name.as_str())
            .and_modify(|all| {
                all.push_str(", ");
                all.push_str(&value);
            })
            .or_insert_with(|| value.into_owned());
    }
    let seen = Seen {
        card,
        method,
        path,
        headers: values,
        body_bytes,
    };
    let mut text = serde_json::to_string(&seen).unwrap_or_default();
    text.push('\n');
    text
}

/// Reads the body to its end without keeping it.
async fn count(mut body: Incoming) -> usize {
    let mut bytes = 0;
    while let Some(Ok(frame)) = body.frame().await {
        bytes += frame.data_ref().map_or(0, Bytes::len);
    }
    bytes
}
