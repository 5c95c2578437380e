//! One worker: a thread that accepts from local sidecars and from peers, and carries their tunnels.
//! Workers share the snapshot pointer, the link table, the metrics and the bounds, nothing else.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use portolan_model::snapshot::Snapshot;
use portolan_model::{ClusterName, Hop, Reason, Refusal};
use portolan_policy::awake::Awake;
use portolan_runtime::rarely::or_rarely;
use portolan_runtime::{Shutdown, StartError};
use portolan_transport::listen::tcp_reuseport;
use portolan_transport::mtls::TlsContext;
use portolan_transport::pipe::{self, Ended, Side};
use portolan_transport::quic::{self, LinkSettings};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::spawn_local;
use tokio::time::timeout;

use crate::access::Record;
use crate::config::LimitsConfig;
use crate::counted::Counted;
use crate::endpoints::Endpoints;
use crate::metrics::Metrics;
use crate::table::LinkTable;
use crate::tunnels::{Direction, Tunnel, Tunnels};
use crate::{egress, peers};

/// How long tunnels may take to end once they were told to.
const LAST_WORDS: Duration = Duration::from_millis(250);
/// How long peers may take to learn that a link is closed.
const CLOSE_LIMIT: Duration = Duration::from_millis(500);

/// Holds what all workers share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) cluster: ClusterName,
    pub(crate) tls: TlsContext,
    pub(crate) snapshot: Arc<ArcSwap<Snapshot>>,
    /// Changes after every swap of the snapshot.
    pub(crate) changed: watch::Receiver<u64>,
    pub(crate) table: Arc<LinkTable>,
    pub(crate) metrics: Metrics,
    pub(crate) limits: LimitsConfig,
    pub(crate) links: LinkSettings,
    pub(crate) drain: Duration,
    /// Places for tunnels.
    pub(crate) tunnels: Arc<Semaphore>,
    /// Places for connections and tunnels that have not been accepted yet.
    pub(crate) handshakes: Handshakes,
    /// How many workers listen.
    pub(crate) listening: watch::Sender<usize>,
}

impl Shared {
    /// A place for a tunnel.
    pub(crate) fn tunnel(&self, hop: Hop) -> Result<OwnedSemaphorePermit, Refusal> {
        place(&self.tunnels, hop, "too many tunnels are open")
    }
}

/// Places for what has yet to be accepted, for each direction: peers cannot take those of local
/// sidecars, nor the other way round.
#[derive(Debug)]
pub(crate) struct Handshakes {
    egress: Arc<Semaphore>,
    ingress: Arc<Semaphore>,
}

impl Handshakes {
    /// At most `max` in each direction.
    pub(crate) fn new(max: usize) -> Self {
        Self {
            egress: Arc::new(Semaphore::new(max)),
            ingress: Arc::new(Semaphore::new(max)),
        }
    }

    /// A place, if there is one left.
    pub(crate) fn place(&self, direction: Direction) -> Result<OwnedSemaphorePermit, Refusal> {
        let (places, hop) = match direction {
            Direction::Egress => (&self.egress, Hop::Egress),
            Direction::Ingress => (&self.ingress, Hop::Ingress),
        };
        place(places, hop, "too many handshakes are pending")
    }
}

/// Where a worker listens.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Addresses {
    pub(crate) tcp: SocketAddr,
    pub(crate) quic: SocketAddr,
}

/// Holds what is one worker's own.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) index: usize,
    pub(crate) shared: Arc<Shared>,
    pub(crate) tunnels: Rc<Tunnels>,
    pub(crate) endpoints: RefCell<Endpoints>,
    pub(crate) shutdown: Shutdown,
    /// For how long it has been awake.
    pub(crate) awake: RefCell<Awake>,
    /// Tunnels that wait for a link.
    pub(crate) waiting: Cell<usize>,
}

/// Runs a worker until the shutdown, and lets its tunnels end then.
///
/// # Errors
/// When an address cannot be listened on.
pub(crate) async fn run(
    index: usize,
    shared: Arc<Shared>,
    addresses: Addresses,
    shutdown: Shutdown,
) -> Result<(), StartError> {
    let listener = tcp_reuseport(addresses.tcp)
        .map_err(|source| StartError::bind(addresses.tcp, "tcp", source))?;
    let endpoint = peers::bind(&shared, addresses.quic)?;
    let worker = Rc::new(Worker {
        index,
        tunnels: Rc::default(),
        endpoints: RefCell::default(),
        shutdown,
        awake: RefCell::new(Awake::new(peers::STEP_MAX, shared.table.now())),
        waiting: Cell::new(0),
        shared,
    });
    spawn_local(peers::accept(Rc::clone(&worker), endpoint.clone()));
    spawn_local(peers::dial(Rc::clone(&worker), endpoint.clone()));
    spawn_local(peers::measure(Rc::clone(&worker)));
    spawn_local(rejudge(Rc::clone(&worker)));
    worker.shared.listening.send_modify(|count| *count += 1);
    egress::serve(&worker, listener).await;
    worker.drain().await;
    endpoint.close("the gateway stops", CLOSE_LIMIT).await;
    Ok(())
}

/// Ends the tunnels that a new snapshot no longer allows.
async fn rejudge(worker: Rc<Worker>) {
    let mut changed = worker.shared.changed.clone();
    while changed.changed().await.is_ok() {
        let snapshot = worker.shared.snapshot.load_full();
        let ended = worker.tunnels.rejudge(&snapshot);
        if ended > 0 {
            tracing::info!(
                tunnels = ended,
                generation = snapshot.generation,
                "closed tunnels that are no longer allowed"
            );
        }
    }
}

impl Worker {
    /// Time since the process began; the clock of what is decided about links and endpoints.
    pub(crate) fn now(&self) -> Duration {
        self.shared.table.now()
    }

    /// Looks at the clock: for how long the worker has been awake.
    pub(crate) fn awake(&self) -> Duration {
        self.awake.borrow_mut().look(self.now())
    }

    /// Counts and logs a tunnel that is over.
    pub(crate) fn finish(&self, record: &Record, began: Instant) {
        self.shared.metrics.record(record);
        record.log(began.elapsed());
    }

    /// Copies between the caller and the called until they are done or the tunnel has to end.
    pub(crate) async fn carry<A, B>(
        &self,
        caller: &mut A,
        called: &mut B,
        tunnel: &mut Tunnel,
        record: &mut Record,
    ) where
        A: AsyncRead + AsyncWrite + Unpin,
        B: AsyncRead + AsyncWrite + Unpin,
    {
        let idle = Duration::from_secs(self.shared.limits.idle_s);
        let mut called = Counted::new(called);
        let copied = async { pipe::copy_both(caller, &mut called, idle).await.ended };
        let end = or_rarely(copied, tunnel.ended()).await;
        record.sent += called.written;
        record.received += called.read;
        match end {
            Err(reason) => record.broken(reason, "it is no longer allowed, or the gateway stops"),
            Ok(Ended::Finished { .. }) => {}
            Ok(Ended::Idle) => record.broken(Reason::Timeout, "nothing moved for too long"),
            Ok(Ended::Broken { side, error }) => {
                let who = match side {
                    Side::A => "the caller's side",
                    Side::B => "the called side",
                };
                record.broken(Reason::Reset, format!("{who} broke: {error}"));
            }
        }
    }

    /// Waits until the peer has what was written to a tunnel that ended well: once no tunnel is
    /// open, a gateway that stops closes its links.
    pub(crate) async fn deliver(&self, bytes: &quic::Tunnel, tunnel: &mut Tunnel) {
        let idle = Duration::from_secs(self.shared.limits.idle_s);
        tokio::select! {
            // After so long without a word nobody wants it any more.
            _ = timeout(idle, bytes.delivered()) => {}
            _ = tunnel.ended() => {}
        }
    }

    async fn drain(&self) {
        let open = self.tunnels.all_ended();
        if timeout(self.shared.drain, open).await.is_ok() {
            return;
        }
        let tunnels = self.tunnels.end_all(Reason::Draining);
        tracing::info!(tunnels, "the drain time is over: closing tunnels");
        if timeout(LAST_WORDS, self.tunnels.all_ended()).await.is_err() {
            tracing::warn!("some tunnels did not end in time");
        }
    }
}

/// Makes the connection end with a reset, so that its other end does not take a cut for an end.
pub(crate) fn cut(stream: TcpStream) {
    let socket = socket2::SockRef::from(&stream);
    if let Err(error) = socket.set_linger(Some(Duration::ZERO)) {
        tracing::debug!(%error, "cannot reset a connection");
    }
}

fn place(
    places: &Arc<Semaphore>,
    hop: Hop,
    why: &'static str,
) -> Result<OwnedSemaphorePermit, Refusal> {
    Arc::clone(places)
        .try_acquire_owned()
        .map_err(|_| Refusal::new(Reason::Overloaded, hop, why))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_direction_does_not_take_the_other_s_places() {
        let handshakes = Handshakes::new(1);
        let _flood = handshakes.place(Direction::Ingress).unwrap();
        let refused = handshakes.place(Direction::Ingress).unwrap_err();
        assert_eq!(
            (refused.reason, refused.hop),
            (Reason::Overloaded, Hop::Ingress)
        );
        assert!(handshakes.place(Direction::Egress).is_ok());
    }
}
