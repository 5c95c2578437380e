//! Opaque bytes into the mesh: a connection of its own to the other sidecar, elsewhere if it cannot
//! be had, and never again once it stands.

use std::rc::Rc;
use std::time::Duration;

use portolan_model::snapshot::Snapshot;
use portolan_model::{Hop, Reason, Refusal};
use portolan_policy::breaker::{Bound, Limits, Permit};
use portolan_policy::route::Route;
use portolan_transport::mtls::{ALPN_TCP, ClientTls};
use portolan_transport::pipe::{self, Ended, Side};
use tokio::io::{AsyncRead, AsyncWrite};

use super::call::Tried;
use super::choice;
use super::exchange::Exchange;
use crate::http::connection_key;
use crate::worker::Worker;

/// Places that are dialled for one connection.
const DIALS_MAX: usize = 8;
/// How long an opaque connection may be silent.
const IDLE_MAX: Duration = Duration::from_secs(3600);

/// A connection into the mesh.
pub(super) struct Opened {
    stream: ClientTls,
    _counted: Permit,
}

/// Dials until somebody accepts.
///
/// # Errors
/// When nobody does: what the last one said.
pub(super) async fn open(
    worker: &Rc<Worker>,
    snapshot: &Snapshot,
    route: &Route,
    exchange: &mut Exchange,
) -> Result<Opened, Refusal> {
    exchange.routed(&route.destination.service, &route.name);
    let Some(mesh) = &snapshot.mesh else {
        return Err(Refusal::new(
            Reason::NotReady,
            Hop::Outbound,
            "no snapshot has arrived yet",
        ));
    };
    let service = worker.service(&route.destination.service);
    let bounds = Limits::from(&route.policy().breaker);
    let counted = service
        .breaker
        .limited(bounds)
        .try_acquire(Bound::Connections)?;
    let dialler = worker.upstreams.dialler();
    let mut tried = Tried::default();
    let mut refused = None;
    service.request(worker.balancer.now());
    for number in 0..DIALS_MAX {
        let now = worker.balancer.now();
        if number > 0 && !service.try_retry(now, &route.policy().retries) {
            break;
        }
        let facts = choice::Facts {
            route,
            mesh,
            service: &service,
            seen: worker.balancer.seen(),
            recent: &worker.upstreams.recent,
            key: connection_key(&route.policy().balancing.algorithm, worker.shared.source),
        };
        let choice = choice::choose_from(&facts, &mut tried)?;
        if tried.everybody {
            break;
        }
        let target = choice.target;
        exchange.trying(&target);
        let config = dialler.config(&target, ALPN_TCP);
        match dialler.dial(&target, &config, choice.patience).await {
            Ok(dialled) => {
                return Ok(Opened {
                    stream: dialled.stream,
                    _counted: counted,
                });
            }
            Err(error) => refused = Some(error.0),
        }
        tried.exclude(&target);
    }
    Err(refused.unwrap_or_else(|| portolan_policy::failover::nobody(route)))
}

/// Carries bytes until both ends are done, and records how many.
pub(super) async fn carry(
    client: impl AsyncRead + AsyncWrite + Unpin,
    opened: Opened,
    exchange: Exchange,
) {
    copy(client, opened.stream, exchange).await;
}

/// Carries bytes between two streams, and records how many.
pub(super) async fn copy(
    client: impl AsyncRead + AsyncWrite + Unpin,
    upstream: impl AsyncRead + AsyncWrite + Unpin,
    mut exchange: Exchange,
) {
    let end = pipe::copy_both(client, upstream, IDLE_MAX).await;
    exchange.entry.received = end.sent;
    exchange.entry.sent = end.received;
    match end.ended {
        Ended::Finished { .. } => exchange.entry.complete = true,
        Ended::Idle => exchange.refused(Reason::Timeout, Hop::Outbound),
        Ended::Broken {
            side: Side::B,
            error,
        } => {
            tracing::debug!(%error, "an upstream broke an opaque connection");
            exchange.refused(Reason::Reset, Hop::Outbound);
        }
        Ended::Broken {
            side: Side::A,
            error,
        } => {
            tracing::debug!(%error, "a client broke an opaque connection");
        }
    }
}
