//! What is said of each tunnel once it is over: one access-log line, one set of counters.

use std::time::Duration;

use portolan_model::{ClusterName, Reason, Refusal};
use portolan_runtime::telemetry::milliseconds;
use portolan_transport::wire::trace::TraceId;

use crate::tunnels::Direction;

/// The peer label of a tunnel that never got as far as naming a declared peer.
pub(crate) const UNKNOWN: &str = "unknown";
/// The result label of a tunnel that was accepted, or ended as both sides wanted.
pub(crate) const OK: &str = "ok";

/// Everything that is worth saying of one tunnel.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) direction: Direction,
    /// The peer, once it is known to be a declared one.
    pub(crate) peer: Option<ClusterName>,
    /// The SNI name, where it could be read.
    pub(crate) target: Option<String>,
    /// What every hop calls it.
    pub(crate) tunnel: Option<TraceId>,
    /// Egress: the link's remote address. Ingress: the endpoint's address.
    pub(crate) endpoint: Option<String>,
    /// Bytes from the caller to the called.
    pub(crate) sent: u64,
    /// Bytes from the called to the caller.
    pub(crate) received: u64,
    /// How often a link or endpoint was tried.
    pub(crate) tries: u32,
    /// Why it was refused or broken off; `None` for a tunnel that ended as both sides wanted.
    pub(crate) reason: Option<Reason>,
    /// One sentence for people.
    pub(crate) detail: String,
}

impl Record {
    /// A tunnel of which nothing is known yet.
    pub(crate) fn new(direction: Direction) -> Self {
        Self {
            direction,
            peer: None,
            target: None,
            tunnel: None,
            endpoint: None,
            sent: 0,
            received: 0,
            tries: 0,
            reason: None,
            detail: String::new(),
        }
    }

    /// Notes why the tunnel was refused.
    pub(crate) fn refused(&mut self, refusal: Refusal) {
        self.reason = Some(refusal.reason);
        self.detail = refusal.detail;
    }

    /// Notes why the tunnel was broken off.
    pub(crate) fn broken(&mut self, reason: Reason, detail: impl Into<String>) {
        self.reason = Some(reason);
        self.detail = detail.into();
    }

    /// The `peer` label.
    pub(crate) fn peer_label(&self) -> &str {
        self.peer.as_ref().map_or(UNKNOWN, ClusterName::as_str)
    }

    /// The `result` label.
    pub(crate) fn result_label(&self) -> &'static str {
        self.reason.map_or(OK, Reason::as_str)
    }

    /// Writes the access-log line.
    pub(crate) fn log(&self, duration: Duration) {
        tracing::info!(
            target: "access",
            direction = self.direction.as_str(),
            peer = self.peer_label(),
            target = self.target.as_deref().unwrap_or_default(),
            tunnel = self.tunnel.map(tracing::field::display),
            endpoint = self.endpoint.as_deref().unwrap_or_default(),
            sent = self.sent,
            received = self.received,
            tries = self.tries,
            duration_ms = milliseconds(duration),
            reason = self.result_label(),
            detail = self.detail,
            "tunnel"
        );
    }
}
