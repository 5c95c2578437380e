//! The access log: one line for each request or connection, when it is over.

use std::net::SocketAddr;
use std::time::Duration;

use http::Method;
use portolan_model::{ClusterName, Hop, Reason, ServiceKey};
use portolan_policy::rules::Name;
use portolan_runtime::telemetry::milliseconds;

/// What is told of one request or connection.
#[derive(Debug)]
pub(crate) struct Entry {
    /// `CONNECT` included; `None` for opaque connections.
    pub(crate) method: Option<Method>,
    /// The host that was called.
    pub(crate) host: String,
    /// Without the query, which may hold secrets.
    pub(crate) path: String,
    /// The HTTP status; 0 where there is none.
    pub(crate) status: u16,
    /// gRPC's status, where there is one.
    pub(crate) grpc_status: Option<u32>,
    /// Why it was refused or cut, and by which hop.
    pub(crate) refused: Option<(Reason, Hop)>,
    /// The service; `None` for hosts outside the mesh and names that don't exist.
    pub(crate) service: Option<ServiceKey>,
    /// The route.
    pub(crate) route: Name,
    /// Which cluster served.
    pub(crate) cluster: Option<ClusterName>,
    /// Which endpoint, cluster or host served.
    pub(crate) upstream: String,
    /// The endpoint's or gateway's address.
    pub(crate) via: Option<SocketAddr>,
    /// How often it was tried.
    pub(crate) tries: u8,
    /// Body bytes from the app.
    pub(crate) received: u64,
    /// Body bytes to the app.
    pub(crate) sent: u64,
    /// Whether the answer reached the app whole.
    pub(crate) complete: bool,
}

impl Entry {
    /// Nothing is known yet but the request line.
    pub(crate) fn new(method: &Method, path: &str) -> Self {
        // Nobody reads it without a log.
        let path = if enabled() { path } else { "" };
        Self {
            method: Some(method.clone()),
            host: String::new(),
            path: path.to_owned(),
            status: 0,
            grpc_status: None,
            refused: None,
            service: None,
            route: Name::Word(""),
            cluster: None,
            upstream: String::new(),
            via: None,
            tries: 0,
            received: 0,
            sent: 0,
            complete: false,
        }
    }
}

/// Whether anybody reads the lines.
pub(crate) fn enabled() -> bool {
    tracing::enabled!(target: "access", tracing::Level::INFO)
}

/// Writes the line. `caller` is the own workload, as `namespace/service account`.
pub(crate) fn write(entry: &Entry, caller: &str, took: Duration) {
    let (reason, hop) = entry.refused.unzip();
    tracing::info!(
        target: "access",
        direction = "outbound",
        method = entry.method.as_ref().map_or("-", Method::as_str),
        host = entry.host,
        path = entry.path,
        status = entry.status,
        grpc_status = entry.grpc_status,
        reason = reason.map(Reason::as_str),
        hop = hop.map(Hop::as_str),
        service = entry.service.as_ref().map(tracing::field::display),
        route = %entry.route,
        cluster = entry.cluster.as_ref().map(ClusterName::as_str),
        upstream = entry.upstream,
        via = entry.via.map(tracing::field::display),
        tries = entry.tries,
        received = entry.received,
        sent = entry.sent,
        complete = entry.complete,
        duration_ms = milliseconds(took),
        caller,
    );
}
