//! The live links of all workers. Readers take a pointer; writers (a link came or went) are rare.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use portolan_model::ClusterName;
use portolan_transport::quic::Link;
use rustls_pki_types::UnixTime;
use tokio::sync::watch;

use crate::links::{self, LinkFacts, NoLink, Standing};

type ByPeer = BTreeMap<ClusterName, Vec<Arc<LiveLink>>>;

/// Holds every live link by peer.
#[derive(Debug)]
pub(crate) struct LinkTable {
    epoch: Instant,
    next_id: AtomicU64,
    links: ArcSwap<ByPeer>,
    changed: watch::Sender<u64>,
}

/// One live link, and what was last measured of it.
#[derive(Debug)]
pub(crate) struct LiveLink {
    pub(crate) id: u64,
    pub(crate) peer: ClusterName,
    pub(crate) remote: SocketAddr,
    /// The worker that drives it.
    pub(crate) worker: usize,
    /// When it was established.
    pub(crate) since: UnixTime,
    pub(crate) link: Link,
    open: AtomicU32,
    open_max: u32,
    draining: AtomicBool,
    rtt_us: AtomicU64,
    received: AtomicU64,
    /// Of the time in which its worker was awake: when it was heard last, and how long ago that is.
    heard_us: AtomicU64,
    silent_us: AtomicU64,
    dead_after: Duration,
    sent: AtomicU64,
    lost: AtomicU64,
    copied: AtomicU64,
}

/// What [`LinkTable::add`] needs.
#[derive(Debug)]
pub(crate) struct NewLink {
    pub(crate) peer: ClusterName,
    pub(crate) worker: usize,
    pub(crate) open_max: u32,
    pub(crate) since: UnixTime,
    /// How long it may be silent at least, and for how long its worker has been awake.
    pub(crate) dead_after: Duration,
    pub(crate) awake: Duration,
    pub(crate) link: Link,
}

/// What happened on a link since it was last measured.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Measured {
    pub(crate) standing: Standing,
    pub(crate) sent: u64,
    pub(crate) lost: u64,
    pub(crate) copied: u64,
}

/// The links to one peer that take tunnels, summed up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct PeerSummary {
    pub(crate) live: u32,
    /// The best link's.
    pub(crate) rtt: Option<Duration>,
    pub(crate) sent: u64,
    pub(crate) lost: u64,
}

impl LinkTable {
    /// An empty table.
    pub(crate) fn new() -> Self {
        Self {
            epoch: Instant::now(),
            next_id: AtomicU64::new(1),
            links: ArcSwap::default(),
            changed: watch::Sender::new(0),
        }
    }

    /// Enters a link.
    pub(crate) fn add(&self, new: NewLink) -> Arc<LiveLink> {
        let stats = new.link.stats();
        let live = Arc::new(LiveLink {
            id: self.next_id.fetch_add(1, Ordering::Relaxed),
            peer: new.peer,
            remote: new.link.remote_addr(),
            worker: new.worker,
            since: new.since,
            open: AtomicU32::new(0),
            open_max: new.open_max,
            draining: AtomicBool::new(false),
            rtt_us: AtomicU64::new(micros(stats.rtt)),
            received: AtomicU64::new(stats.received_bytes),
            heard_us: AtomicU64::new(micros(new.awake)),
            silent_us: AtomicU64::new(0),
            dead_after: new.dead_after,
            sent: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            copied: AtomicU64::new(0),
            link: new.link,
        });
        self.links.rcu(|links| {
            let mut links = ByPeer::clone(links);
            links
                .entry(live.peer.clone())
                .or_default()
                .push(Arc::clone(&live));
            links
        });
        self.touch();
        live
    }

    /// Takes a link out.
    pub(crate) fn remove(&self, gone: &LiveLink) {
        self.links.rcu(|links| {
            let mut links = ByPeer::clone(links);
            if let Some(peer) = links.get_mut(&gone.peer) {
                peer.retain(|link| link.id != gone.id);
                if peer.is_empty() {
                    links.remove(&gone.peer);
                }
            }
            links
        });
        self.touch();
    }

    /// The link that carries `worker`'s next tunnel to `peer`, leaving out the `tried` ones.
    pub(crate) fn choose(
        &self,
        peer: &ClusterName,
        worker: usize,
        tried: &[u64],
    ) -> Result<Arc<LiveLink>, NoLink> {
        let links = self.links.load();
        let links = links.get(peer).ok_or(NoLink::Unreachable)?;
        let facts: Vec<LinkFacts> = links.iter().map(|link| link.facts(worker)).collect();
        let id = links::choose(&facts, tried)?;
        let link = links.iter().find(|link| link.id == id);
        link.cloned().ok_or(NoLink::Unreachable)
    }

    /// Whether `link` became suspect while there is a live one to the same peer.
    pub(crate) fn has_better(&self, link: &LiveLink, worker: usize) -> bool {
        link.standing() != Standing::Live
            && self
                .choose(&link.peer, worker, &[link.id])
                .is_ok_and(|other| other.standing() == Standing::Live)
    }

    /// Reads a link's counters: what changed, and what its silence means. The link's own worker does so,
    /// and says for how long it has been `awake`.
    pub(crate) fn measure(link: &LiveLink, awake: Duration) -> Measured {
        let stats = link.link.stats();
        link.rtt_us.store(micros(stats.rtt), Ordering::Relaxed);
        if link.received.swap(stats.received_bytes, Ordering::Relaxed) != stats.received_bytes {
            link.heard_us.store(micros(awake), Ordering::Relaxed);
        }
        let heard = link.heard_us.load(Ordering::Relaxed);
        let silent = micros(awake).saturating_sub(heard);
        link.silent_us.store(silent, Ordering::Relaxed);
        let grown =
            |counter: &AtomicU64, to: u64| to.saturating_sub(counter.swap(to, Ordering::Relaxed));
        Measured {
            sent: grown(&link.sent, stats.sent_packets),
            lost: grown(&link.lost, stats.lost_packets),
            copied: grown(&link.copied, stats.copied_packets),
            standing: link.standing(),
        }
    }

    /// Every link, grouped by peer.
    pub(crate) fn all(&self) -> Arc<ByPeer> {
        self.links.load_full()
    }

    /// The links to `peer`, summed up.
    pub(crate) fn summary(&self, peer: &ClusterName) -> PeerSummary {
        let links = self.links.load();
        let mut summary = PeerSummary::default();
        let links = links.get(peer).into_iter().flatten();
        for link in links.filter(|link| !link.is_draining()) {
            let rtt = link.rtt();
            summary.live += 1;
            summary.rtt = Some(summary.rtt.map_or(rtt, |best| best.min(rtt)));
            summary.sent += link.sent.load(Ordering::Relaxed);
            summary.lost += link.lost.load(Ordering::Relaxed);
        }
        summary
    }

    /// How many links there are to `peer`.
    pub(crate) fn count(&self, peer: &ClusterName) -> u32 {
        let links = self.links.load();
        links
            .get(peer)
            .map_or(0, |links| u32::try_from(links.len()).unwrap_or(u32::MAX))
    }

    /// Time since the table was made; the clock of everything that is decided about links.
    pub(crate) fn now(&self) -> Duration {
        self.epoch.elapsed()
    }

    /// Tells when a link came or went.
    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    fn touch(&self) {
        self.changed.send_modify(|version| *version += 1);
    }
}

impl LiveLink {
    /// Smoothed round-trip time, as last measured.
    pub(crate) fn rtt(&self) -> Duration {
        Duration::from_micros(self.rtt_us.load(Ordering::Relaxed))
    }

    /// Tunnels open on it, both directions.
    pub(crate) fn open(&self) -> u32 {
        self.open.load(Ordering::Relaxed)
    }

    /// Packets sent and lost.
    pub(crate) fn packets(&self) -> (u64, u64) {
        (
            self.sent.load(Ordering::Relaxed),
            self.lost.load(Ordering::Relaxed),
        )
    }

    /// Whether the peer said that it takes no more tunnels.
    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// The peer said that it takes no more tunnels.
    pub(crate) fn set_draining(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Takes a place for a tunnel on the link, until the returned value is dropped. `None`: full.
    pub(crate) fn occupy(self: &Arc<Self>) -> Option<Place> {
        let before = self.open.fetch_add(1, Ordering::Relaxed);
        // Made in any case, so that the count goes back when the link was full.
        let place = Place(Arc::clone(self));
        (before < self.open_max).then_some(place)
    }

    fn standing(&self) -> Standing {
        links::standing(self.silent(), self.dead_after())
    }

    fn silent(&self) -> Duration {
        Duration::from_micros(self.silent_us.load(Ordering::Relaxed))
    }

    fn dead_after(&self) -> Duration {
        links::dead_after(self.rtt(), self.dead_after)
    }

    fn facts(&self, worker: usize) -> LinkFacts {
        LinkFacts {
            id: self.id,
            own: self.worker == worker,
            rtt: self.rtt(),
            open: self.open(),
            open_max: self.open_max,
            draining: self.is_draining(),
            silent: self.silent(),
            dead_after: self.dead_after(),
        }
    }
}

/// One tunnel's place on a link.
#[derive(Debug)]
pub(crate) struct Place(Arc<LiveLink>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
