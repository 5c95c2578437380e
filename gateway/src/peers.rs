//! Links to the peers' gateways: dialled, accepted, measured, and closed when a peer is no longer
//! one. Every worker dials every address; whoever dialled, both sides open tunnels.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use portolan_model::snapshot::Snapshot;
use portolan_model::{ClusterName, TrustDomain};
use portolan_runtime::workers::chain;
use portolan_runtime::{ConfigError, StartError};
use portolan_transport::mtls::Expect;
use portolan_transport::quic::{IncomingLink, Link, LinkEndpoint, LinkError};
use portolan_trust::{TrustBundle, Usage, VerifyError, verify};
use rustls_pki_types::UnixTime;
use tokio::sync::Semaphore;
use tokio::task::spawn_local;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_util::task::AbortOnDropHandle;

use crate::ingress;
use crate::links::{Standing, failures_after, redial_after};
use crate::losses::Losses;
use crate::metrics::Side;
use crate::table::{LinkTable, LiveLink, NewLink};
use crate::worker::{Shared, Worker};

/// How often links are measured. Silence is noticed that much late at most.
const MEASURE_EVERY: Duration = Duration::from_millis(50);
/// The longest pause between two measurements that counts in full, with room for a busy machine: a
/// worker that was not scheduled has not read yet what arrived meanwhile, and must not take its own
/// sleep for a peer's silence.
pub(crate) const STEP_MAX: Duration = Duration::from_millis(150);

/// How many peers a worker answers at a time that have not said who they are. Anybody can begin.
const HANDSHAKES_MAX: usize = 256;
/// How many of them need not prove their address. Without that proof a flood of packets with
/// invented senders would take all places, and the time of as many handshakes.
const UNPROVED_MAX: usize = 32;
/// How many links a peer may have to this gateway: workers × gateways on its side.
const LINKS_PER_PEER_MAX: u32 = 1_024;

/// Somebody to dial.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Target {
    peer: ClusterName,
    domain: TrustDomain,
    address: SocketAddr,
}

/// Opens a worker's end of all links: it accepts gateways of declared peers only.
///
/// # Errors
/// When the address cannot be had.
pub(crate) fn bind(shared: &Arc<Shared>, address: SocketAddr) -> Result<LinkEndpoint, StartError> {
    let snapshot = Arc::clone(&shared.snapshot);
    let cluster = shared.cluster.clone();
    let is_peer = move |id: &portolan_model::SpiffeId| {
        peer_of(&snapshot.load(), &cluster, id.trust_domain()).is_some()
    };
    LinkEndpoint::bind(address, &shared.tls, shared.links.clone(), is_peer).map_err(|error| {
        match error {
            LinkError::Bind { addr, source } => StartError::bind(addr, "quic", source),
            LinkError::Settings(_)
            | LinkError::Timeout { .. }
            | LinkError::Peer(_)
            | LinkError::NotAccepted(_)
            | LinkError::Busy
            | LinkError::Closed(_) => {
                let remedy = "use the values of the example";
                ConfigError::unusable("links", chain(&error), remedy).into()
            }
        }
    })
}

/// Accepts links until the endpoint is closed.
pub(crate) async fn accept(worker: Rc<Worker>, endpoint: LinkEndpoint) {
    let places = Arc::new(Semaphore::new(HANDSHAKES_MAX));
    while let Some(incoming) = endpoint.accept().await {
        // A gateway that stops would have to refuse every tunnel on it.
        if worker.shutdown.is_triggered() {
            continue;
        }
        let crowded = places.available_permits() <= HANDSHAKES_MAX - UNPROVED_MAX;
        let incoming = if crowded {
            incoming.proved()
        } else {
            Some(incoming)
        };
        let Some(incoming) = incoming else {
            continue;
        };
        let Ok(pending) = Arc::clone(&places).try_acquire_owned() else {
            worker.shared.metrics.handshake_failed(None, Side::Accepted);
            continue;
        };
        let worker = Rc::clone(&worker);
        spawn_local(async move {
            let established = establish(&worker, incoming).await;
            drop(pending);
            if let Some(live) = established {
                serve(worker, live).await;
            }
        });
    }
}

/// Keeps dialling every declared address, and closes the links of peers that are none any more.
pub(crate) async fn dial(worker: Rc<Worker>, endpoint: LinkEndpoint) {
    let mut changed = worker.shared.changed.clone();
    let mut dialling: BTreeMap<Target, AbortOnDropHandle<()>> = BTreeMap::new();
    loop {
        let snapshot = worker.shared.snapshot.load_full();
        // A peer's catalogue may be late; without any mesh nothing is known of peers at all.
        if snapshot.mesh.is_some() {
            let wanted = targets(&snapshot, &worker.shared.cluster);
            dialling.retain(|target, _| wanted.contains(target));
            close_undeclared(&worker, &snapshot, &wanted);
            for target in wanted {
                dialling.entry(target.clone()).or_insert_with(|| {
                    let keeping = keep(Rc::clone(&worker), endpoint.clone(), target);
                    AbortOnDropHandle::new(spawn_local(keeping))
                });
            }
        }
        if changed.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

/// Measures the worker's own links, and closes those whose peer fell silent or is trusted no more.
pub(crate) async fn measure(worker: Rc<Worker>) {
    let shared = &worker.shared;
    let mut tick = interval(MEASURE_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut trusted = shared.tls.trust();
    let mut losses: BTreeMap<u64, Losses> = BTreeMap::new();
    loop {
        tick.tick().await;
        let awake = worker.awake();
        let trust = shared.tls.trust();
        if !Arc::ptr_eq(&trust, &trusted) {
            close_untrusted(&worker, &trust);
            trusted = trust;
        }
        let own = own_links(&worker);
        losses.retain(|id, _| own.iter().any(|live| live.id == *id));
        for live in own {
            let measured = LinkTable::measure(&live, awake);
            shared.metrics.packets(&live.peer, &measured);
            if shared.links.twice_on_loss {
                let losses = losses.entry(live.id).or_default();
                let twice = losses.observe(awake, measured.sent, measured.lost);
                live.link.send_twice(twice);
            }
            if measured.standing == Standing::Dead {
                live.link.close("silent for too long");
            } else if live.is_draining() && live.open() == 0 {
                live.link.close("drained");
            }
        }
    }
}

async fn keep(worker: Rc<Worker>, endpoint: LinkEndpoint, target: Target) {
    let mut failures = 0;
    let mut said = false;
    while !worker.shutdown.is_triggered() {
        let expect = Expect::Gateway(target.domain.clone());
        match endpoint.dial(target.address, expect).await {
            Ok(link) => {
                said = false;
                let began = Instant::now();
                if let Some(live) = admit(&worker, link) {
                    // A task of its own: it must take the link out of the table, whatever ends this one.
                    let serving = spawn_local(serve(Rc::clone(&worker), live));
                    if serving.await.is_err() {
                        tracing::error!("a link's task failed");
                    }
                }
                failures = failures_after(failures, began.elapsed());
            }
            Err(error) => {
                failures += 1;
                worker
                    .shared
                    .metrics
                    .handshake_failed(Some(&target.peer), Side::Dialled);
                let (peer, address) = (&target.peer, target.address);
                let problem = chain(&error);
                if !said {
                    tracing::warn!(%peer, %address, problem, "cannot link; trying again");
                } else {
                    tracing::debug!(%peer, %address, problem, failures, "cannot link");
                }
                said = true;
            }
        }
        sleep(redial_after(failures, rand::random())).await;
    }
}

async fn establish(worker: &Worker, incoming: IncomingLink) -> Option<Arc<LiveLink>> {
    let from = incoming.remote_addr();
    match incoming.establish().await {
        Ok(link) => admit(worker, link),
        Err(error) => {
            worker.shared.metrics.handshake_failed(None, Side::Accepted);
            let problem = chain(&error);
            if matches!(error, LinkError::Peer(_)) {
                tracing::info!(%from, problem, "refused a link");
            } else {
                // Anybody can cause it, as often as they like.
                tracing::debug!(%from, problem, "somebody did not complete a link");
            }
            None
        }
    }
}

/// Enters a link whose other end belongs to a declared peer. Anything else is closed.
fn admit(worker: &Worker, link: Link) -> Option<Arc<LiveLink>> {
    let shared = &worker.shared;
    let snapshot = shared.snapshot.load();
    let Some(peer) = peer_of(&snapshot, &shared.cluster, link.peer_id().trust_domain()) else {
        link.close("not a peer");
        return None;
    };
    if !link.is_dialled() && shared.table.count(&peer) >= LINKS_PER_PEER_MAX {
        tracing::warn!(%peer, address = %link.remote_addr(), "refused a link: the peer has too many");
        link.close("too many links");
        return None;
    }
    let since = UnixTime::now();
    if let Err(error) = judge(&link, &shared.tls.trust(), since) {
        tracing::info!(%peer, problem = chain(&error), "a link's trust ended during its handshake");
        link.close("not trusted");
        return None;
    }
    let live = shared.table.add(NewLink {
        peer,
        worker: worker.index,
        open_max: shared.limits.tunnels_per_link,
        since,
        dead_after: shared.links.dead_after,
        awake: worker.awake.borrow().counted(),
        link,
    });
    tracing::info!(
        peer = %live.peer,
        address = %live.remote,
        dialled = live.link.is_dialled(),
        worker = live.worker,
        "linked"
    );
    Some(live)
}

/// Serves the tunnels that the peer opens, until the link ends.
async fn serve(worker: Rc<Worker>, live: Arc<LiveLink>) {
    let ended = loop {
        match live.link.accept_tunnel().await {
            Ok(tunnel) => {
                let serving = ingress::serve(Rc::clone(&worker), Arc::clone(&live), tunnel);
                spawn_local(serving);
            }
            Err(error) => break error,
        }
    };
    worker.shared.table.remove(&live);
    tracing::info!(
        peer = %live.peer,
        address = %live.remote,
        dialled = live.link.is_dialled(),
        worker = live.worker,
        problem = chain(&ended),
        "unlinked"
    );
}

/// Closes the links of whoever is no peer any more, and opens no more tunnels on links that were
/// dialled at an address which is no longer declared.
fn close_undeclared(worker: &Worker, snapshot: &Snapshot, wanted: &BTreeSet<Target>) {
    for live in own_links(worker) {
        let domain = live.link.peer_id().trust_domain();
        let peer = peer_of(snapshot, &worker.shared.cluster, domain);
        if peer.as_ref() != Some(&live.peer) {
            live.link.close("not a peer any more");
            continue;
        }
        let target = Target {
            peer: live.peer.clone(),
            domain: domain.clone(),
            address: live.remote,
        };
        if live.link.is_dialled() && !wanted.contains(&target) {
            live.set_draining();
        }
    }
}

/// Closes the links whose certificates no longer lead to a trusted root.
fn close_untrusted(worker: &Worker, trust: &TrustBundle) {
    for live in own_links(worker) {
        if let Err(error) = judge(&live.link, trust, live.since) {
            let problem = chain(&error);
            tracing::warn!(peer = %live.peer, problem, "closing a link that is trusted no more");
            live.link.close("not trusted any more");
        }
    }
}

/// Judges a link by the certificates of its handshake, as of the handshake's time: a link may
/// outlive them, but not the root.
fn judge(link: &Link, trust: &TrustBundle, since: UnixTime) -> Result<(), VerifyError> {
    let usage = if link.is_dialled() {
        Usage::Server
    } else {
        Usage::Client
    };
    verify(link.peer_chain(), trust, usage, since).map(drop)
}

fn own_links(worker: &Worker) -> Vec<Arc<LiveLink>> {
    let all = worker.shared.table.all();
    let own = all
        .values()
        .flatten()
        .filter(|live| live.worker == worker.index);
    own.cloned().collect()
}

fn peer_of(snapshot: &Snapshot, own: &ClusterName, domain: &TrustDomain) -> Option<ClusterName> {
    let peer = snapshot.peer_by_trust_domain(domain)?;
    (&peer.name != own).then(|| peer.name.clone())
}

fn targets(snapshot: &Snapshot, own: &ClusterName) -> BTreeSet<Target> {
    let peers = snapshot.mesh.iter().flat_map(|mesh| &mesh.peers);
    peers
        .filter(|peer| &peer.name != own)
        .flat_map(|peer| {
            peer.gateways.iter().map(|address| Target {
                peer: peer.name.clone(),
                domain: peer.trust_domain.clone(),
                address: *address,
            })
        })
        .collect()
}
