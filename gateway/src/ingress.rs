//! From peers to local sidecars: a tunnel on a link in, TCP to one ready endpoint out.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use portolan_model::{ClusterName, Hop, Reason, Refusal, ServiceKey};
use portolan_policy::authorize;
use portolan_runtime::workers::chain;
use portolan_transport::listen;
use portolan_transport::quic;
use portolan_transport::tunnel::{TunnelError, read_header, write_answer};
use portolan_transport::wire::header::{Answer, StreamHeader};
use portolan_transport::wire::sni::SniName;
use portolan_transport::wire::trace::TraceParent;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;

use crate::access::Record;
use crate::metrics::OpenTunnel;
use crate::table::{LiveLink, Place};
use crate::tunnels::{Claim, Direction, Tunnel, Wanted};
use crate::worker::{Worker, cut};

/// How long the other gateway may take to send its header.
const HEADER_LIMIT: Duration = Duration::from_secs(5);
/// How long an endpoint may take to accept.
const CONNECT_LIMIT: Duration = Duration::from_secs(1);
/// How many endpoints are tried for one tunnel; the answer must arrive before the caller gives up.
const ENDPOINTS_TRIED_MAX: usize = 4;

/// Serves one tunnel that a peer opened.
pub(crate) async fn serve(worker: Rc<Worker>, live: Arc<LiveLink>, mut bytes: quic::Tunnel) {
    let began = Instant::now();
    let mut record = Record::new(Direction::Ingress);
    record.peer = Some(live.peer.clone());
    match open(&worker, &live, &mut bytes, &mut record).await {
        Ok(mut opened) => {
            let (stream, tunnel) = (&mut opened.stream, &mut opened.tunnel);
            worker.carry(&mut bytes, stream, tunnel, &mut record).await;
            if record.reason.is_none() {
                worker.deliver(&bytes, tunnel).await;
            } else {
                cut(opened.stream);
            }
        }
        Err(refusal) => {
            let answer = Answer::Refused(refusal.reason);
            record.refused(refusal);
            if let Err(error) = refuse(&mut bytes, answer).await {
                tracing::debug!(problem = chain(&error), "the peer did not hear its refusal");
            }
        }
    }
    worker.finish(&record, began);
}

async fn refuse(bytes: &mut quic::Tunnel, answer: Answer) -> Result<(), TunnelError> {
    write_answer(bytes, answer).await?;
    Ok(bytes.shutdown().await?)
}

/// An accepted tunnel, with everything that counts it.
struct Opened {
    stream: TcpStream,
    tunnel: Tunnel,
    _busy: Busy,
    _place: Place,
    _slot: OwnedSemaphorePermit,
    _open: OpenTunnel,
}

/// Reads what the peer wants, judges it, connects, and accepts.
async fn open(
    worker: &Rc<Worker>,
    live: &Arc<LiveLink>,
    bytes: &mut quic::Tunnel,
    record: &mut Record,
) -> Result<Opened, Refusal> {
    let shared = &worker.shared;
    if worker.shutdown.is_triggered() {
        return Err(refusal(Reason::Draining, "the gateway stops"));
    }
    let full = || refusal(Reason::Overloaded, "too many tunnels are open on the link");
    let place = live.occupy().ok_or_else(full)?;
    let slot = shared.tunnel(Hop::Ingress)?;
    let pending = shared.handshakes.place(Direction::Ingress)?;
    let header = read_header(bytes, HEADER_LIMIT)
        .await
        .map_err(|error| refuse_header(&error))?;
    record.target = Some(header.target.to_string());
    let trace = header.trace.as_deref().and_then(TraceParent::parse);
    record.tunnel = trace.map(|trace| trace.id());
    let wanted = wanted(&shared.cluster, header)?;
    // Counted before it is judged, and nothing is waited for in between.
    let tunnel = worker.tunnels.enter(Claim {
        direction: Direction::Ingress,
        peer: live.peer.clone(),
        wanted: wanted.clone(),
    });
    let (stream, busy) = connect(worker, &live.peer, &wanted, record).await?;
    write_answer(bytes, Answer::Accepted)
        .await
        .map_err(|error| refusal(Reason::Reset, chain(&error)))?;
    drop(pending);
    Ok(Opened {
        stream,
        tunnel,
        _busy: busy,
        _place: place,
        _slot: slot,
        _open: shared.metrics.open_tunnel(Direction::Ingress, &live.peer),
    })
}

fn refuse_header(error: &TunnelError) -> Refusal {
    let reason = match error {
        TunnelError::Timeout(_) => Reason::Timeout,
        TunnelError::Io(_) => Reason::Reset,
        TunnelError::Header(_) => Reason::BadRequest,
    };
    refusal(reason, chain(error))
}

/// What of this cluster is wanted.
fn wanted(own: &ClusterName, header: StreamHeader) -> Result<Wanted, Refusal> {
    if header.hops.contains(own) {
        return Err(refusal(Reason::Loop, "it came through here before"));
    }
    if header.target.cluster() != own {
        return Err(refusal(Reason::NoRoute, "it is meant for another cluster"));
    }
    Ok(match header.target {
        SniName::Service { port, service, .. } => Wanted::Service { service, port },
        SniName::Control { .. } => Wanted::Control,
    })
}

/// Connects to one of those that can serve; when one does not accept, to the next.
async fn connect(
    worker: &Rc<Worker>,
    peer: &ClusterName,
    wanted: &Wanted,
    record: &mut Record,
) -> Result<(TcpStream, Busy), Refusal> {
    let mut tried = Vec::new();
    let mut problem = "nobody can be tried".to_owned();
    while tried.len() < ENDPOINTS_TRIED_MAX {
        let Some(address) = next(worker, peer, wanted, &tried)? else {
            break;
        };
        tried.push(address);
        record.tries += 1;
        record.endpoint = Some(address.to_string());
        let busy = Busy::new(worker, address);
        match listen::connect(address, CONNECT_LIMIT).await {
            Ok(stream) => {
                worker.endpoints.borrow_mut().recovered(address);
                return Ok((stream, busy));
            }
            Err(error) => {
                let now = worker.now();
                worker.endpoints.borrow_mut().failed(address, now);
                problem = format!("{address} does not accept: {error}");
            }
        }
    }
    Err(refusal(Reason::NoHealthyUpstream, problem))
}

/// Whom to try next, asked of the snapshot of this moment.
fn next(
    worker: &Worker,
    peer: &ClusterName,
    wanted: &Wanted,
    tried: &[SocketAddr],
) -> Result<Option<SocketAddr>, Refusal> {
    match wanted {
        Wanted::Service { service, port } => next_endpoint(worker, peer, (service, *port), tried),
        Wanted::Control => {
            let snapshot = worker.shared.snapshot.load();
            let mesh = snapshot.mesh.iter();
            let mut control = mesh.flat_map(|mesh| &mesh.control);
            Ok(control.find(|address| !tried.contains(address)).copied())
        }
    }
}

fn next_endpoint(
    worker: &Worker,
    peer: &ClusterName,
    (service, port): (&ServiceKey, u16),
    tried: &[SocketAddr],
) -> Result<Option<SocketAddr>, Refusal> {
    let snapshot = worker.shared.snapshot.load();
    let ready = authorize::ingress(&snapshot, peer, service, port)?;
    let endpoints = worker.endpoints.borrow();
    let chosen = endpoints.choose(&ready, tried, worker.now(), rand::random());
    Ok(chosen.map(|endpoint| endpoint.inbound))
}

fn refusal(reason: Reason, why: impl Into<String>) -> Refusal {
    Refusal::new(reason, Hop::Ingress, why)
}

/// Counts one tunnel against an endpoint while it lives.
struct Busy {
    worker: Rc<Worker>,
    address: SocketAddr,
}

impl Busy {
    fn new(worker: &Rc<Worker>, address: SocketAddr) -> Self {
        worker.endpoints.borrow_mut().begin(address);
        Self {
            worker: Rc::clone(worker),
            address,
        }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.worker.endpoints.borrow_mut().end(self.address);
    }
}
