//! Opaque bytes from other sidecars, passed to the app.

use portolan_model::{Reason, Refusal};
use portolan_runtime::telemetry::milliseconds;
use portolan_transport::{mtls, pipe};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::gate::Marks;
use super::replay::Replay;
use super::{Arrival, OPAQUE_IDLE, Worker, gate};
use crate::limits::Metered;
use crate::respond;

/// Carries them until either side ends, or the caller's permission is gone.
pub(super) async fn serve(
    worker: &Worker,
    arrival: &Arrival,
    stream: mtls::ServerTls<Replay<TcpStream>>,
) {
    let session = &arrival.session;
    let facts = session.facts();
    let counted = worker.count(facts);
    let started = Instant::now();
    let mut marks = Marks::default();
    let log = |sent, received, reason: Option<Reason>, fault: Option<&str>| {
        tracing::info!(
            target: "access",
            direction = "inbound",
            method = "-",
            reason = reason.map(Reason::as_str),
            fault,
            service = %facts.service,
            port = facts.port,
            sent,
            received,
            duration_ms = milliseconds(started.elapsed()),
            caller = %facts.caller,
            tunnel = facts.tunnel.map(tracing::field::display),
        );
    };
    let refuse = |refusal: &Refusal| {
        worker.refuse(refusal);
        log(0, 0, Some(refusal.reason), None);
    };
    if let Some(limited) = &arrival.limited {
        worker.shared.metrics.limited(&limited.name);
        return refuse(&limited.refusal);
    }
    let allowed = match session.judgement() {
        Ok(allowed) => allowed,
        Err(refusal) => return refuse(&refusal),
    };
    let drilled = tokio::select! {
        drilled = gate::drill(worker, facts, None, &mut marks) => drilled,
        () = session.revoked() => return,
    };
    if drilled.is_some() {
        log(0, 0, None, marks.fault());
        let (stream, _) = stream.into_inner();
        return respond::reset(stream.into_inner());
    }
    let app = match worker.app.connect(allowed.port.app_port).await {
        Ok(app) => app,
        Err(failure) => return refuse(&failure.refusal()),
    };
    counted.answered(0, None, started.elapsed());
    let carry = async {
        let stream = Metered::new(stream, worker.shared.limits.clone(), facts.clone());
        let end = pipe::copy_both(stream, app, OPAQUE_IDLE).await;
        let metrics = &worker.shared.metrics;
        metrics.carried(facts, end.sent, end.received);
        log(end.sent, end.received, None, marks.fault());
    };
    tokio::select! {
        () = carry => {}
        () = session.revoked() => {}
    }
}
