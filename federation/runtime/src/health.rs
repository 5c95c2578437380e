//! The admin port: metrics, liveness, readiness, and what a daemon adds.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::net::{TcpListener, TcpStream};

use crate::connection::{Connection, Leases};
use crate::shutdown::Shutdown;
use crate::start::StartError;
use crate::telemetry::Metrics;

/// How long answers that are under way may take after the shutdown began.
const DRAIN: Duration = Duration::from_secs(1);
/// The most connections at a time; further ones wait in the listener's queue. Whoever reaches the port
/// must not use up the process's files.
const CONNECTIONS_MAX: usize = 256;
/// How long a connection may last: one that asks nothing must not keep its place for ever.
const CONNECTION_LIFE: Duration = Duration::from_secs(600);
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What must hold before a daemon is ready: named conditions. Clones share one state.
#[derive(Debug, Clone, Default)]
pub struct Readiness(Arc<Mutex<BTreeMap<&'static str, bool>>>);

impl Readiness {
    /// Conditions, none of which holds yet.
    #[must_use]
    pub fn new(conditions: &[&'static str]) -> Self {
        let unmet = conditions.iter().map(|condition| (*condition, false));
        Self(Arc::new(Mutex::new(unmet.collect())))
    }

    /// The condition holds.
    pub fn set(&self, condition: &'static str) {
        self.put(condition, true);
    }

    /// The condition does not hold (any more).
    pub fn unset(&self, condition: &'static str) {
        self.put(condition, false);
    }

    /// The conditions that do not hold; empty when ready.
    #[must_use]
    pub fn unmet(&self) -> Vec<&'static str> {
        let conditions = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let unmet = conditions.iter().filter(|(_, met)| !**met);
        unmet.map(|(condition, _)| *condition).collect()
    }

    fn put(&self, condition: &'static str, met: bool) {
        let mut conditions = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        conditions.insert(condition, met);
    }
}

/// Listens on `address`; `setting` is the configuration field that names it.
///
/// # Errors
/// Says who has the port, and what to change.
pub async fn bind(address: SocketAddr, setting: &str) -> Result<TcpListener, StartError> {
    TcpListener::bind(address)
        .await
        .map_err(|source| StartError::bind(address, setting, source))
}

/// Serves `/metrics`, `/healthz`, `/readyz` and `extra` until the shutdown.
///
/// # Errors
/// When accepting connections fails for good.
pub async fn serve_admin(
    listener: TcpListener,
    metrics: Metrics,
    readiness: Readiness,
    extra: Router,
    shutdown: Shutdown,
) -> Result<(), StartError> {
    let fail = |source| StartError::io("serve", "the admin port", source);
    let address = listener.local_addr().map_err(fail)?;
    tracing::info!(%address, "admin port is open");
    let router = router(metrics, readiness).merge(extra);
    let stopped = shutdown.clone();
    let leases = Leases::new(CONNECTIONS_MAX, CONNECTION_LIFE);
    let serve = axum::serve(Bounded { listener, leases }, router)
        .with_graceful_shutdown(async move { stopped.triggered().await });
    tokio::select! {
        result = serve.into_future() => result.map_err(fail),
        () = drained(&shutdown) => Ok(()),
    }
}

/// A listener whose connections are bounded in number and time.
struct Bounded {
    listener: TcpListener,
    leases: Leases,
}

impl axum::serve::Listener for Bounded {
    type Io = Connection<TcpStream, ()>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, SocketAddr) {
        self.leases.free().await;
        let (stream, address) = axum::serve::Listener::accept(&mut self.listener).await;
        // Only here are places taken, so the free one is still there.
        let lease = self.leases.lease();
        (Connection::new(stream, ()).leased(lease), address)
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

fn router(metrics: Metrics, readiness: Readiness) -> Router {
    Router::new()
        .route("/metrics", get(render_metrics).with_state(metrics))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(render_readiness).with_state(readiness))
}

async fn render_metrics(State(metrics): State<Metrics>) -> impl IntoResponse {
    match metrics.render() {
        Ok(text) => (StatusCode::OK, [(header::CONTENT_TYPE, OPEN_METRICS)], text),
        Err(error) => (
            StatusCode::INTERNAL_SERVER_ERROR,
            [(header::CONTENT_TYPE, "text/plain")],
            format!("cannot write the metrics: {error}\n"),
        ),
    }
}

async fn render_readiness(State(readiness): State<Readiness>) -> impl IntoResponse {
    let unmet = readiness.unmet();
    if unmet.is_empty() {
        (StatusCode::OK, "ready\n".to_owned())
    } else {
        let text = format!("not ready: {}\n", unmet.join(", "));
        (StatusCode::SERVICE_UNAVAILABLE, text)
    }
}

/// Connections that nobody closes must not keep the process.
async fn drained(shutdown: &Shutdown) {
    shutdown.triggered().await;
    tokio::time::sleep(DRAIN).await;
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;

    use super::*;

    async fn get(address: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn readiness_names_what_is_missing() {
        let listener = bind("127.0.0.1:0".parse().unwrap(), "admin").await.unwrap();
        let address = listener.local_addr().unwrap();
        let readiness = Readiness::new(&["identity", "snapshot"]);
        let shutdown = Shutdown::new();
        let extra = Router::new().route("/more", axum::routing::get(|| async { "more" }));
        let serving = tokio::spawn(serve_admin(
            listener,
            Metrics::new("sidecar"),
            readiness.clone(),
            extra,
            shutdown.clone(),
        ));
        let answer = get(address, "/readyz").await;
        assert!(
            answer.starts_with("HTTP/1.1 503") && answer.contains("identity, snapshot"),
            "{answer}"
        );
        readiness.set("identity");
        readiness.set("snapshot");
        assert!(get(address, "/readyz").await.starts_with("HTTP/1.1 200"));
        assert!(get(address, "/healthz").await.contains("ok"));
        assert!(
            get(address, "/metrics")
                .await
                .contains("portolan_build_info")
        );
        assert!(get(address, "/more").await.contains("more"));
        readiness.unset("snapshot");
        assert_eq!(readiness.unmet(), ["snapshot"]);
        shutdown.trigger();
        serving.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn connections_beyond_the_bound_wait_and_silent_ones_end() {
        let listener = bind("127.0.0.1:0".parse().unwrap(), "admin").await.unwrap();
        let address = listener.local_addr().unwrap();
        let leases = Leases::new(1, Duration::from_millis(50));
        let mut bounded = Bounded { listener, leases };
        let silent = TcpStream::connect(address).await.unwrap();
        let next = TcpStream::connect(address).await.unwrap();
        let (mut accepted, from) = axum::serve::Listener::accept(&mut bounded).await;
        assert_eq!(from, silent.local_addr().unwrap());
        assert!(bounded.leases.lease().is_none());
        let ended = accepted.read_u8().await.unwrap_err();
        assert_eq!(ended.kind(), std::io::ErrorKind::TimedOut);
        drop(accepted);
        let (_, from) = axum::serve::Listener::accept(&mut bounded).await;
        assert_eq!(from, next.local_addr().unwrap());
    }

    #[tokio::test]
    async fn a_taken_port_is_said_clearly() {
        let first = bind("127.0.0.1:0".parse().unwrap(), "admin").await.unwrap();
        let address = first.local_addr().unwrap();
        let error = bind(address, "admin").await.unwrap_err().to_string();
        assert!(
            error.contains("address in use; another program has this port: change `admin`"),
            "{error}"
        );
    }
}
