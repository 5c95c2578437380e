//! From the mesh to the app: accepts mutual TLS, judges the caller, and passes requests and bytes
//! on.
//!
//! The name in the ClientHello says which service port is meant, the caller's certificate who
//! calls, and the ALPN whether requests (`h2`, `http/1.1`) or opaque bytes (`portolan-tcp`) follow.
//! A name that is not for this workload is refused by TLS alert; a caller that may not is told so in
//! HTTP, and cut off in everything else.

mod accept;
mod admit;
mod app;
mod body;
mod gate;
mod headers;
mod http;
mod judge;
mod metrics;
mod opaque;
mod pass;
mod refuse;
mod rejudge;
mod replay;
mod stall;

#[cfg(test)]
mod fixtures;
#[cfg(test)]
mod tests;

use std::future::pending;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use portolan_model::snapshot::{InboundPort, Snapshot};
use portolan_model::{ClusterName, Hop, Reason, Refusal, WorkloadKey};
use portolan_policy::breaker::{self, Breaker};
use portolan_runtime::Shutdown;
use portolan_transport::mtls::TlsContext;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::{Instant, interval, timeout};

pub(crate) use self::admit::Admissions;
use self::app::App;
use self::metrics::ConnectionMetrics;
use crate::http::{HttpRules, Stalls};
use crate::limits::{Cache, Limited, Limits};
use crate::probe::Probe;
use crate::sessions::{Facts, Judgement, Open, Sessions};

pub use self::metrics::InboundMetrics;

/// The most connections of one worker, those in their handshake included; more are closed at once.
pub const CONNECTIONS_MAX: usize = 4096;
/// The most requests under way in one worker; more are refused as overloaded.
pub const REQUESTS_MAX: u32 = 4096;
/// How long a caller may take for its ClientHello, and again for the rest of the handshake.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long calls under way may go on after the shutdown.
pub const DRAIN_MAX: Duration = Duration::from_secs(10);
/// How long an opaque connection may be silent.
const OPAQUE_IDLE: Duration = Duration::from_secs(3600);
/// The pause after the system refused to accept, for example for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// The pause between looks at connections to the app that waited too long.
const REAP_PAUSE: Duration = Duration::from_secs(2);

/// What all inbound workers of a process share.
#[derive(Clone)]
pub struct Shared {
    /// The own cluster.
    pub cluster: ClusterName,
    /// The own workload.
    pub workload: WorkloadKey,
    /// Where the app listens.
    pub app: IpAddr,
    /// The own identity, and whom to trust.
    pub tls: TlsContext,
    /// The newest snapshot.
    pub snapshot: Arc<ArcSwap<Snapshot>>,
    /// Changes with every snapshot.
    pub changed: watch::Receiver<u64>,
    /// Told of connections that the app refused.
    pub probe: Probe,
    /// How HTTP is treated.
    pub(crate) http: HttpRules,
    /// Where everything is counted.
    pub metrics: InboundMetrics,
    /// How much the workload takes, and what goes wrong on purpose.
    pub limits: Limits,
    /// How many requests the app is given at a time.
    pub(crate) admissions: Admissions,
}

/// Serves a worker's listener until the shutdown, and then until the calls under way ended, at most
/// [`DRAIN_MAX`]. Call it inside a local runtime.
pub async fn serve(listener: TcpListener, shared: Shared, shutdown: Shutdown) {
    let worker = Rc::new(Worker {
        app: App::new(shared.app, shared.probe.clone()),
        sessions: Rc::default(),
        requests: Breaker::new(breaker::Limits {
            requests: REQUESTS_MAX,
            ..breaker::Limits::default()
        }),
        stalls: Rc::default(),
        handshakes: Rc::default(),
        limits: Cache::new(shared.limits.clone()),
        shutdown,
        shared,
    });
    tokio::select! {
        () = worker.shutdown.triggered() => {}
        () = accept::accept_all(&worker, &listener) => {}
        () = rejudge::rejudge_always(&worker) => {}
        () = reap_always(&worker) => {}
    }
    drop(listener);
    if timeout(DRAIN_MAX, worker.sessions.empty()).await.is_err() {
        tracing::info!(
            connections = worker.sessions.len(),
            "drained long enough: cutting"
        );
        worker.sessions.revoke_all();
    }
}

/// One thread's inbound half.
struct Worker {
    shared: Shared,
    app: App,
    sessions: Rc<Sessions>,
    requests: Breaker,
    /// Answers on their way to callers.
    stalls: Rc<Stalls>,
    /// One clone for each connection in its handshake, and one here.
    handshakes: Rc<()>,
    limits: Cache,
    shutdown: Shutdown,
}

impl Worker {
    async fn draining(&self) {
        self.shutdown.triggered().await;
    }

    /// Waits until the gateway at this address, if there is one, leaves the cluster: it is about to stop,
    /// and callers in other clusters have nobody else to tell them that their tunnels end.
    async fn gateway_leaves(&self, from: IpAddr) {
        let is_there = || {
            let snapshot = self.shared.snapshot.load();
            let mut gateways = snapshot.mesh.iter().flat_map(|mesh| &mesh.gateways);
            gateways.any(|gateway| gateway.tcp.ip() == from)
        };
        let mut changed = self.shared.changed.clone();
        let known = is_there();
        while known && changed.changed().await.is_ok() {
            if !is_there() {
                return;
            }
        }
        pending().await
    }

    fn judge(&self, facts: &Facts) -> Judgement {
        judge::judge(&self.shared.snapshot.load(), &self.shared.workload, facts)
    }

    /// Opaque bytes leave no room for an answer, so an app that is known to be down is told in the
    /// handshake: the caller can still go elsewhere.
    fn alive(&self, port: InboundPort) -> Result<InboundPort, Refusal> {
        if port.protocol.is_http() || !self.shared.probe.is_down(port.app_port) {
            return Ok(port);
        }
        let why = format!(
            "the app does not accept connections on port {}",
            port.app_port
        );
        Err(Refusal::new(Reason::ConnectFailed, Hop::Inbound, why))
    }

    fn count(&self, facts: &Facts) -> ConnectionMetrics {
        let snapshot = self.shared.snapshot.load();
        self.shared.metrics.connection(facts, &snapshot)
    }

    fn refuse(&self, refusal: &Refusal) {
        self.shared.metrics.refused(refusal);
        tracing::debug!(%refusal, "inbound connection refused");
    }
}

/// A caller whose connection counts.
struct Arrival {
    session: Open,
    /// Its address, or that of the gateway it came through.
    from: IpAddr,
    /// Set where the connection is one too many: its first request is told so, and it ends.
    limited: Option<Limited>,
}

async fn reap_always(worker: &Worker) {
    let mut tick = interval(REAP_PAUSE);
    loop {
        tick.tick().await;
        worker.app.reap();
        worker.stalls.look(Instant::now());
        worker.limits.reap();
    }
}
