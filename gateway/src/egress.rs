//! From local sidecars to peers: TCP in, one tunnel on a link out. Nothing of TLS is read but the
//! name in the ClientHello; refusals are TLS alerts.

use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use portolan_model::snapshot::Snapshot;
use portolan_model::{ClusterName, Hop, Reason, Refusal};
use portolan_policy::authorize;
use portolan_runtime::workers::chain;
use portolan_transport::hello::{self, HelloReadError};
use portolan_transport::quic::{self, LinkError};
use portolan_transport::tunnel::{TunnelError, read_answer, write_header};
use portolan_transport::wire::alert::Alert;
use portolan_transport::wire::header::{Answer, StreamHeader};
use portolan_transport::wire::sni::SniName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::spawn_local;
use tokio::time::{interval, sleep, timeout};

use crate::access::Record;
use crate::links::{NoLink, wait_for_link};
use crate::metrics::OpenTunnel;
use crate::table::{LiveLink, Place};
use crate::tunnels::{Claim, Direction, Tunnel, Wanted};
use crate::worker::{Shared, Worker, cut};

/// How long a sidecar may take to send its ClientHello.
const HELLO_LIMIT: Duration = Duration::from_secs(5);
/// How long the other gateway may take to answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// On how many links a tunnel is tried: a second one when the first died before it answered.
const LINKS_TRIED_MAX: u32 = 2;
/// How often a waiting tunnel looks whether its link became suspect.
const SUSPECT_CHECK: Duration = Duration::from_millis(100);
/// How long a refused caller may take to hang up, and how much it may still send.
const GOODBYE_LIMIT: Duration = Duration::from_secs(1);
const GOODBYE_BYTES_MAX: u64 = 64 * 1024;
/// The wait after the system refused to accept: it has no file descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Accepts connections of local sidecars until the shutdown.
pub(crate) async fn serve(worker: &Rc<Worker>, listener: TcpListener) {
    while let Some(accepted) = worker.shutdown.unless_triggered(listener.accept()).await {
        match accepted {
            Ok((stream, _)) => admit(worker, stream),
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn admit(worker: &Rc<Worker>, stream: TcpStream) {
    match worker.shared.handshakes.place(Direction::Egress) {
        Ok(pending) => {
            spawn_local(connection(Rc::clone(worker), stream, pending));
        }
        Err(refusal) => {
            // It fits into an empty send buffer, or the caller is gone.
            let _ = stream.try_write(&Alert::for_reason(refusal.reason).record());
            let mut record = Record::new(Direction::Egress);
            record.refused(refusal);
            worker.finish(&record, Instant::now());
        }
    }
}

async fn connection(worker: Rc<Worker>, mut stream: TcpStream, pending: OwnedSemaphorePermit) {
    let began = Instant::now();
    let mut record = Record::new(Direction::Egress);
    match open(&worker, &mut stream, &mut record).await {
        Ok(mut opened) => {
            drop(pending);
            let (bytes, tunnel) = (&mut opened.bytes, &mut opened.tunnel);
            worker.carry(&mut stream, bytes, tunnel, &mut record).await;
            if record.reason.is_none() {
                worker.deliver(bytes, tunnel).await;
            } else {
                cut(stream);
            }
        }
        Err(refusal) => {
            let alert = Alert::for_reason(refusal.reason);
            record.refused(refusal);
            if let Err(error) = refuse(&mut stream, alert).await {
                tracing::debug!(%error, "the caller did not hear its refusal");
            }
        }
    }
    worker.finish(&record, began);
}

/// An accepted tunnel, with everything that counts it.
struct Opened {
    bytes: quic::Tunnel,
    tunnel: Tunnel,
    _place: Place,
    _slot: OwnedSemaphorePermit,
    _open: OpenTunnel,
}

/// Reads where the caller wants to go, judges it, and has the peer accept it.
async fn open(
    worker: &Rc<Worker>,
    stream: &mut TcpStream,
    record: &mut Record,
) -> Result<Opened, Refusal> {
    let shared = &worker.shared;
    let hello = hello::read(stream, HELLO_LIMIT)
        .await
        .map_err(|error| refuse_hello(&error))?;
    record.tunnel = hello.trace.map(|trace| trace.id());
    let target = target(hello.server_name.as_deref())?;
    record.target = Some(target.to_string());
    let peer = declared(&shared.snapshot.load(), &shared.cluster, &target)?;
    record.peer = Some(peer.clone());
    let claim = judge(&shared.snapshot.load(), &peer, &target)?;
    let tunnel = worker.tunnels.enter(claim);
    let slot = shared.tunnel(Hop::Egress)?;
    let opening = Opening {
        header: StreamHeader {
            target,
            hops: vec![shared.cluster.clone()],
            trace: hello.trace.map(|trace| trace.to_string()),
        },
        hello: &hello.bytes,
    };
    let (bytes, place) = connect(worker, &peer, &opening, record).await?;
    record.sent = hello.bytes.len() as u64;
    Ok(Opened {
        bytes,
        tunnel,
        _place: place,
        _slot: slot,
        _open: shared.metrics.open_tunnel(Direction::Egress, &peer),
    })
}

fn refuse_hello(error: &HelloReadError) -> Refusal {
    let reason = match error {
        HelloReadError::Timeout(_) => Reason::Timeout,
        HelloReadError::Closed | HelloReadError::Io(_) => Reason::Reset,
        HelloReadError::Hello(_) => Reason::BadRequest,
    };
    Refusal::new(reason, Hop::Egress, chain(error))
}

fn target(server_name: Option<&str>) -> Result<SniName, Refusal> {
    let no_route = |why: String| Refusal::new(Reason::NoRoute, Hop::Egress, why);
    let name = server_name.ok_or_else(|| no_route("the ClientHello names no server".to_owned()))?;
    SniName::parse(name).map_err(|error| no_route(chain(&error)))
}

/// The declared peer that is meant. Anything else would make hostile names into labels and groups.
fn declared(
    snapshot: &Snapshot,
    own: &ClusterName,
    target: &SniName,
) -> Result<ClusterName, Refusal> {
    let peer = target.cluster();
    if peer == own {
        let why = "the own cluster's services are not reached through the gateway";
        return Err(gone(Reason::NoRoute, why.to_owned()));
    }
    let Some(mesh) = &snapshot.mesh else {
        return Err(gone(Reason::NotReady, "no snapshot yet".to_owned()));
    };
    let known = mesh.peer(peer).map(|peer| peer.name.clone());
    known.ok_or_else(|| gone(Reason::NoRoute, format!("{peer} is no peer")))
}

/// Whether a local caller may go there, and what of it must go on being allowed.
fn judge(snapshot: &Snapshot, peer: &ClusterName, target: &SniName) -> Result<Claim, Refusal> {
    let wanted = match target {
        SniName::Service { port, service, .. } => {
            authorize::egress(snapshot, peer, service)?;
            Wanted::Service {
                service: service.clone(),
                port: *port,
            }
        }
        SniName::Control { .. } => Wanted::Control,
    };
    Ok(Claim {
        direction: Direction::Egress,
        peer: peer.clone(),
        wanted,
    })
}

/// What is sent first on a link: where to, and what the caller said so far.
struct Opening<'a> {
    header: StreamHeader,
    hello: &'a [u8],
}

/// Why a link did not carry the tunnel.
struct Failed {
    refusal: Refusal,
    /// Whether another link to the same peer may do better.
    elsewhere: bool,
}

/// Opens the tunnel on the best link; if that dies before it answered, on another one.
async fn connect(
    worker: &Worker,
    peer: &ClusterName,
    opening: &Opening<'_>,
    record: &mut Record,
) -> Result<(quic::Tunnel, Place), Refusal> {
    let mut tried = Vec::new();
    let mut failed: Option<Refusal> = None;
    let mut waited = false;
    loop {
        let chosen = worker.shared.table.choose(peer, worker.index, &tried);
        let live = match chosen {
            Ok(live) if record.tries < LINKS_TRIED_MAX => live,
            Ok(_) => return Err(failed.unwrap_or_else(|| no_link(NoLink::Unreachable, peer))),
            Err(NoLink::Unreachable) if !waited => {
                waited = true;
                relinked(worker, peer, &opening.header.target, &tried).await;
                continue;
            }
            Err(none) => return Err(failed.unwrap_or_else(|| no_link(none, peer))),
        };
        tried.push(live.id);
        let Some(place) = live.occupy() else {
            continue;
        };
        // A link that ended a moment ago costs no try: nothing was sent on it.
        let bytes = match live.link.open_tunnel().await {
            Ok(bytes) => bytes,
            Err(error) => {
                let reason = if matches!(error, LinkError::Busy) {
                    record.tries += 1;
                    Reason::Overloaded
                } else {
                    Reason::PeerUnreachable
                };
                failed = Some(gone(reason, chain(&error)));
                continue;
            }
        };
        record.tries += 1;
        record.endpoint = Some(live.remote.to_string());
        match offer(worker, &live, bytes, opening).await {
            Ok(bytes) => return Ok((bytes, place)),
            Err(again) if again.elsewhere => failed = Some(again.refusal),
            Err(last) => return Err(last.refusal),
        }
    }
}

/// Waits for another link to the peer, if that is better than to refuse.
async fn relinked(worker: &Worker, peer: &ClusterName, target: &SniName, tried: &[u64]) {
    let table = &worker.shared.table;
    let elsewhere = served_elsewhere(&worker.shared, peer, target);
    let Some(limit) = wait_for_link(elsewhere, worker.waiting.get()) else {
        return;
    };
    worker.waiting.set(worker.waiting.get() + 1);
    let _waiting = Waiting(&worker.waiting);
    let mut changed = table.subscribe();
    let linked = async {
        while matches!(
            table.choose(peer, worker.index, tried),
            Err(NoLink::Unreachable)
        ) {
            if changed.changed().await.is_err() {
                return;
            }
        }
    };
    if timeout(limit, linked).await.is_err() {
        tracing::debug!(%peer, "waited for a link in vain");
    }
}

/// Whether the caller finds the service elsewhere, as far as this gateway knows: in the own cluster, or
/// in another one that is linked.
fn served_elsewhere(shared: &Shared, peer: &ClusterName, target: &SniName) -> bool {
    let SniName::Service { service, .. } = target else {
        return false;
    };
    let snapshot = shared.snapshot.load();
    let Some(service) = snapshot.services.get(service) else {
        return false;
    };
    let mut own = service.local.iter().flat_map(|local| &local.endpoints);
    let mut others = service.remote.iter().filter(|it| &it.cluster != peer);
    own.any(|endpoint| endpoint.ready)
        || others.any(|it| it.ready() > 0 && shared.table.summary(&it.cluster).live > 0)
}

/// Counts one tunnel that waits for a link.
struct Waiting<'a>(&'a Cell<usize>);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}

/// Sends the opening, without waiting in between, and waits for the answer.
async fn offer(
    worker: &Worker,
    live: &Arc<LiveLink>,
    mut bytes: quic::Tunnel,
    opening: &Opening<'_>,
) -> Result<quic::Tunnel, Failed> {
    let exchange = async {
        let sending = async {
            write_header(&mut bytes, &opening.header).await?;
            Ok::<_, TunnelError>(bytes.write_all(opening.hello).await?)
        };
        timeout(ANSWER_LIMIT, sending)
            .await
            .map_err(|_| TunnelError::Timeout(ANSWER_LIMIT))??;
        read_answer(&mut bytes, ANSWER_LIMIT).await
    };
    let answer = tokio::select! {
        answer = exchange => answer,
        () = suspected(worker, live) => {
            let refusal = gone(Reason::PeerUnreachable, "its link fell silent".to_owned());
            return Err(Failed { refusal, elsewhere: true });
        }
    };
    match answer {
        Ok(Answer::Accepted) => Ok(bytes),
        Ok(Answer::Refused(reason)) => {
            if reason == Reason::Draining {
                live.set_draining();
            }
            Err(Failed {
                refusal: gone(reason, "the peer's gateway refused".to_owned()),
                elsewhere: matches!(
                    reason,
                    Reason::Draining | Reason::Overloaded | Reason::NotReady
                ),
            })
        }
        Err(error) => {
            let (reason, elsewhere) = match &error {
                TunnelError::Timeout(_) => (Reason::Timeout, false),
                TunnelError::Io(_) => (Reason::PeerUnreachable, true),
                TunnelError::Header(_) => (Reason::Internal, false),
            };
            let refusal = gone(reason, chain(&error));
            Err(Failed { refusal, elsewhere })
        }
    }
}

/// Waits until the link is suspect while there is a better one.
async fn suspected(worker: &Worker, live: &LiveLink) {
    let mut check = interval(SUSPECT_CHECK);
    loop {
        check.tick().await;
        if worker.shared.table.has_better(live, worker.index) {
            return;
        }
    }
}

fn no_link(none: NoLink, peer: &ClusterName) -> Refusal {
    match none {
        NoLink::Unreachable => gone(Reason::PeerUnreachable, format!("no live link to {peer}")),
        NoLink::Full => gone(Reason::Overloaded, format!("all links to {peer} are full")),
    }
}

fn gone(reason: Reason, why: String) -> Refusal {
    Refusal::new(reason, Hop::Egress, why)
}

/// Sends the alert, and waits a moment for the caller to hang up: closing with unread bytes would
/// reset the connection, and the alert would be lost.
async fn refuse(stream: &mut TcpStream, alert: Alert) -> io::Result<()> {
    hello::refuse(stream, alert).await?;
    let mut rest = stream.take(GOODBYE_BYTES_MAX);
    let mut sink = tokio::io::sink();
    match timeout(GOODBYE_LIMIT, tokio::io::copy(&mut rest, &mut sink)).await {
        Ok(copied) => copied.map(drop),
        Err(_) => Ok(()),
    }
}
