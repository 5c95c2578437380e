//! From the mesh to the app: accepts mutual TLS, judges the caller, and passes requests and bytes
//! on.
//!
//! The name in the ClientHello says which service port is meant, the caller's certificate who
//! calls, and the ALPN whether requests (`h2`, `http/1.1`) or opaque bytes (`portolan-tcp`) follow.
//! A name that is not for this workload is refused by TLS alert; a caller that may not is told so in
//! HTTP, and cut off in everything else.

mod admit;
mod app;
mod body;
mod gate;
mod headers;
mod http;
mod judge;
mod metrics;
mod refuse;
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
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use portolan_model::snapshot::{InboundPort, Snapshot, Trust};
use portolan_model::{ClusterName, Hop, Reason, Refusal, WorkloadKey};
use portolan_policy::breaker::{self, Breaker};
use portolan_runtime::Shutdown;
use portolan_runtime::telemetry::milliseconds;
use portolan_transport::mtls::{self, ALPN_H2, ALPN_HTTP1, ALPN_TCP, ClientAuth, TlsContext};
use portolan_transport::wire::alert::Alert;
use portolan_transport::{hello, pipe};
use portolan_trust::{TrustBundle, Usage};
use rustls_pki_types::UnixTime;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::spawn_local;
use tokio::time::{Instant, interval, sleep, timeout};

pub(crate) use self::admit::Admissions;
use self::app::App;
use self::gate::Marks;
use self::metrics::ConnectionMetrics;
use self::replay::Replay;
use crate::http::{HttpRules, Stalls};
use crate::limits::{Cache, Limited, Limits, Metered};
use crate::probe::Probe;
use crate::respond;
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
        () = accept_all(&worker, &listener) => {}
        () = rejudge_always(&worker) => {}
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

async fn accept_all(worker: &Rc<Worker>, listener: &TcpListener) {
    let protocols = [ALPN_H2, ALPN_HTTP1, ALPN_TCP];
    let config = worker
        .shared
        .tls
        .server_config(&protocols, ClientAuth::Required);
    loop {
        let (stream, from) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let handshakes = Rc::strong_count(&worker.handshakes) - 1;
        if handshakes + worker.sessions.len() >= CONNECTIONS_MAX {
            let why = format!("{CONNECTIONS_MAX} connections are open");
            worker.refuse(&Refusal::new(Reason::Overloaded, Hop::Inbound, why));
            continue;
        }
        let handshake = Rc::clone(&worker.handshakes);
        let (worker, config) = (Rc::clone(worker), Arc::clone(&config));
        spawn_local(async move {
            let accepted = accept(&worker, &config, stream, from.ip().to_canonical()).await;
            drop(handshake);
            match accepted {
                Ok(caller) => caller.serve(worker).await,
                Err(refusal) => worker.refuse(&refusal),
            }
        });
    }
}

/// A caller whose handshake is done.
struct Caller {
    session: Open,
    from: IpAddr,
    stream: mtls::ServerTls<Replay<TcpStream>>,
    alpn: Option<Vec<u8>>,
}

/// Reads the ClientHello, refuses names that are not for this workload, and shakes hands.
async fn accept(
    worker: &Worker,
    config: &Arc<mtls::ServerConfig>,
    mut stream: TcpStream,
    from: IpAddr,
) -> Result<Caller, Refusal> {
    let refuse = |reason, why: String| Refusal::new(reason, Hop::Inbound, why);
    if let Err(error) = stream.set_nodelay(true) {
        return Err(refuse(Reason::Internal, error.to_string()));
    }
    let hello = hello::read(&mut stream, HANDSHAKE_TIMEOUT)
        .await
        .map_err(|error| refuse(Reason::BadRequest, error.to_string()))?;
    let Shared {
        cluster, workload, ..
    } = &worker.shared;
    let snapshot = worker.shared.snapshot.load_full();
    let name = hello.server_name.as_deref();
    let target = judge::target(&snapshot, cluster, workload, name);
    let port = match target.and_then(|port| worker.alive(port)) {
        Ok(port) => port,
        Err(refusal) => {
            let alert = Alert::for_reason(refusal.reason);
            // The caller may be gone, and then needs no answer.
            let _ = timeout(HANDSHAKE_TIMEOUT, hello::refuse(&mut stream, alert)).await;
            return Err(refusal);
        }
    };
    let stream = Replay::new(hello.bytes, stream);
    let accepted = mtls::accept(config, stream, HANDSHAKE_TIMEOUT)
        .await
        .map_err(|error| refuse(error.reason(), error.to_string()))?;
    let mtls::Accepted {
        stream,
        peer,
        chain,
        alpn,
        ..
    } = accepted;
    let facts = Facts {
        caller: peer
            .ok_or_else(|| refuse(Reason::IdentityMismatch, "no certificate".to_owned()))?,
        chain,
        service: port.service,
        port: port.port,
        tunnel: hello.trace.map(|trace| trace.id()),
    };
    let judgement = worker.judge(&facts);
    Ok(Caller {
        session: worker.sessions.open(facts, judgement),
        from,
        stream,
        alpn,
    })
}

/// A caller whose connection counts.
struct Arrival {
    session: Open,
    /// Its address, or that of the gateway it came through.
    from: IpAddr,
    /// Set where the connection is one too many: its first request is told so, and it ends.
    limited: Option<Limited>,
}

impl Caller {
    async fn serve(self, worker: Rc<Worker>) {
        let Self {
            session,
            from,
            stream,
            alpn,
        } = self;
        let (connected, limited) = worker.limits.connect(session.facts()).await;
        let arrival = Arrival {
            session,
            from,
            limited,
        };
        match alpn.as_deref() {
            Some(ALPN_H2) => http::serve_http2(worker, arrival, stream).await,
            Some(ALPN_TCP) => serve_opaque(&worker, &arrival, stream).await,
            // TLS lets through what both offer, or nothing at all.
            Some(_) | None => http::serve_http1(worker, arrival, stream).await,
        }
        drop(connected);
    }
}

async fn serve_opaque(
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

/// Judges live connections again after each snapshot.
async fn rejudge_always(worker: &Worker) {
    let mut changed = worker.shared.changed.clone();
    let mut judged_by: Option<Arc<Trust>> = worker.shared.snapshot.load().trust.clone();
    while changed.changed().await.is_ok() {
        let snapshot = worker.shared.snapshot.load_full();
        let roots = changed_roots(judged_by.as_deref(), snapshot.trust.as_deref());
        judged_by.clone_from(&snapshot.trust);
        let judge = |facts: &Facts| {
            if let Some(roots) = &roots {
                still_trusted(facts, roots)?;
            }
            judge::judge(&snapshot, &worker.shared.workload, facts)
        };
        let revoked = worker.sessions.rejudge(judge);
        worker.shared.metrics.revoked(revoked);
    }
    // The feed ended with the process; the last snapshot stays in force.
    pending().await
}

/// The roots, if they are other ones now.
fn changed_roots(before: Option<&Trust>, now: Option<&Trust>) -> Option<TrustBundle> {
    let now = now.filter(|now| before != Some(now))?;
    TrustBundle::from_der(now.roots.iter().cloned()).ok()
}

/// Whether the caller's certificates lead to one of the roots.
fn still_trusted(facts: &Facts, roots: &TrustBundle) -> Result<(), Refusal> {
    let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let now = UnixTime::since_unix_epoch(since_epoch.unwrap_or_default());
    portolan_trust::verify(&facts.chain, roots, Usage::Client, now)
        .map(drop)
        .map_err(|error| Refusal::new(Reason::IdentityMismatch, Hop::Inbound, error.to_string()))
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
