//! The asking side: one task for each declared peer, which watches the peer's catalogue and keeps
//! what it last knew while the peer is away.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use portolan_api::MESSAGE_BYTES_MAX;
use portolan_api::peering::CatalogueUpdate;
use portolan_api::peering::peering_client::PeeringClient;
use portolan_model::declared::{ResourceKey, ResourceKind};
use portolan_model::snapshot::{LinkState, Peer};
use portolan_model::{ClusterName, TrustDomain};
use portolan_runtime::Shutdown;
use portolan_runtime::grpc::describe;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tonic::Streaming;

use super::cache::{Cache, to_file};
use super::dial::Dialer;
use super::held::{Held, Update};
use super::progress::{Freshness, Progress, Standing};
use crate::metrics::{ControlMetrics, label};
use crate::reconcile::Event;
use crate::view::{View, Views};

/// How long until a failed call is tried again, at first and at most. Each wait is between half of it and all of it.
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(2);
/// How often at most a peer's catalogue is written to disk.
const SAVE_EVERY: Duration = Duration::from_secs(1);

/// Keeps one watcher running for each declared peer.
pub(crate) struct Exchange {
    pub(crate) views: Views,
    pub(crate) events: mpsc::Sender<Event>,
    pub(crate) dialer: Dialer,
    pub(crate) cache: Cache,
    pub(crate) progress: Progress,
    pub(crate) metrics: ControlMetrics,
    /// What was kept of an earlier life and has been told to the loop.
    pub(crate) kept: BTreeMap<ClusterName, Held>,
}

impl Exchange {
    /// Runs until shutdown.
    pub(crate) async fn run(mut self, shutdown: Shutdown) {
        let mut views = self.views.clone();
        let mut running: BTreeMap<ClusterName, (Declaration, Shutdown)> = BTreeMap::new();
        let mut tasks = JoinSet::new();
        loop {
            let peers = declared(&views.borrow_and_update());
            running.retain(|peer, (declaration, watcher)| {
                let stays = peers.get(peer) == Some(declaration);
                if !stays {
                    watcher.trigger();
                }
                stays
            });
            for (peer, declaration) in peers {
                if running.contains_key(&peer) {
                    continue;
                }
                let child = shutdown.child();
                let watcher = self.watcher(&peer);
                tasks.spawn(watcher.run(child.clone()));
                running.insert(peer, (declaration, child));
            }
            // The loop was told of these for the peers of the start; who comes later begins with nothing.
            self.kept.clear();
            tokio::select! {
                () = shutdown.triggered() => break,
                changed = views.changed() => if changed.is_err() {
                    break;
                },
                Some(_ended) = tasks.join_next() => {}
            }
        }
        while tasks.join_next().await.is_some() {}
    }

    fn watcher(&mut self, peer: &ClusterName) -> Watcher {
        Watcher {
            peer: peer.clone(),
            held: self.kept.remove(peer).unwrap_or_default(),
            views: self.views.clone(),
            events: self.events.clone(),
            dialer: self.dialer.clone(),
            cache: self.cache.clone(),
            progress: self.progress.clone(),
            metrics: self.metrics.clone(),
            unsaved: false,
            save_at: Instant::now(),
        }
    }
}

/// What tells one declaration of a peer from another of the same name: its trust domain, and when it was
/// made. The compiler forgets a catalogue with the declaration, also when nobody saw the moment without it.
type Declaration = (TrustDomain, Option<u64>);

fn declared(view: &View) -> BTreeMap<ClusterName, Declaration> {
    let made = |peer: &Peer| {
        let key = ResourceKey::cluster_wide(ResourceKind::Peer, peer.name.as_str());
        let stored = view.documents.get(&key)?;
        Some(stored.declared.as_ref()?.created_ms)
    };
    let peers = view.snapshot.mesh.iter().flat_map(|mesh| &mesh.peers);
    peers
        .map(|peer| (peer.name.clone(), (peer.trust_domain.clone(), made(peer))))
        .collect()
}

/// Watches one peer.
struct Watcher {
    peer: ClusterName,
    held: Held,
    views: Views,
    events: mpsc::Sender<Event>,
    dialer: Dialer,
    cache: Cache,
    progress: Progress,
    metrics: ControlMetrics,
    unsaved: bool,
    save_at: Instant,
}

impl Watcher {
    async fn run(mut self, shutdown: Shutdown) {
        let mut wait = RETRY_MIN;
        loop {
            let ended = tokio::select! {
                () = shutdown.triggered() => break,
                ended = self.watch() => ended,
            };
            if self.progress.of(&self.peer).freshness == Freshness::Live {
                wait = RETRY_MIN;
            }
            self.away(&ended);
            let (mut ways, mut views) = (self.ways(), self.views.clone());
            let better = views.wait_for(|view| {
                let now = Ways::of(view, &self.peer);
                improved(&std::mem::replace(&mut ways, now), &now)
            });
            tokio::select! {
                () = shutdown.triggered() => break,
                () = tokio::time::sleep(wait.mul_f64(rand::random_range(0.5..=1.0))) => {}
                _ = better => {}
            }
            wait = (wait * 2).min(RETRY_MAX);
        }
        if declared(&self.views.borrow()).contains_key(&self.peer) {
            self.save().await;
        } else {
            self.metrics.peer_is_live(self.peer.as_str(), false);
            self.progress.forget(&self.peer);
            self.cache.forget(&self.peer);
        }
    }

    /// One call, from dialling to its end. Returns why it ended.
    async fn watch(&mut self) -> String {
        match self.follow().await {
            Ok(()) => "the peer ended the stream".to_owned(),
            Err(why) => why,
        }
    }

    async fn follow(&mut self) -> Result<(), String> {
        let (peer, mesh) = {
            let view = self.views.borrow();
            let mesh = view
                .snapshot
                .mesh
                .clone()
                .ok_or("nothing is compiled yet")?;
            let peer = mesh.peer(&self.peer).cloned();
            (peer.ok_or("it is no peer any more")?, mesh)
        };
        let channel = self.dialer.channel(&peer, &mesh);
        let mut client = PeeringClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
        let request = self.held.request();
        let call = client.watch(request).await;
        let mut updates = call.map_err(|status| describe(&status))?.into_inner();
        loop {
            let message = self.next(&mut updates).await?;
            let Some(message) = message else {
                return Ok(());
            };
            let update = self
                .held
                .take(message)
                .map_err(|broken| format!("the peer breaks the protocol: {broken}"))?;
            if let Some(update) = update {
                self.deliver(update).await?;
            }
        }
    }

    /// The next message; meanwhile, what changed is saved.
    async fn next(
        &mut self,
        updates: &mut Streaming<CatalogueUpdate>,
    ) -> Result<Option<CatalogueUpdate>, String> {
        if self.unsaved {
            tokio::select! {
                message = updates.message() => return message.map_err(|status| describe(&status)),
                () = tokio::time::sleep_until(self.save_at) => {}
            }
            self.save().await;
        }
        updates.message().await.map_err(|status| describe(&status))
    }

    async fn deliver(&mut self, update: Update) -> Result<(), String> {
        let changes = update.full || !update.upserts.is_empty() || !update.removals.is_empty();
        let mut detail = String::new();
        if let Some(first) = update.refused.first() {
            let count = update.refused.len();
            detail = format!("{count} of its entries cannot be understood: {first}");
            tracing::warn!(peer = %self.peer, count, first, "refused a part of a peer's catalogue");
            self.metrics
                .entries_refused
                .get_or_create(&label("peer", self.peer.as_str()))
                .inc_by(u64::try_from(count).unwrap_or(u64::MAX));
        }
        if changes {
            let event = Event::Catalogue {
                peer: self.peer.clone(),
                full: update.full,
                upserts: update.upserts,
                removals: update.removals,
            };
            let sent = self.events.send(event).await;
            sent.map_err(|_| "the control plane is stopping".to_owned())?;
            if !self.unsaved {
                self.unsaved = true;
                self.save_at = Instant::now() + SAVE_EVERY;
            }
        }
        let was = self.progress.of(&self.peer).freshness;
        if was != Freshness::Live {
            tracing::info!(peer = %self.peer, entries = self.held.entries.len(), "the peer's catalogue is live");
        }
        self.stands(Freshness::Live, detail);
        Ok(())
    }

    fn away(&self, why: &str) {
        let before = self.progress.of(&self.peer);
        let label = label("peer", self.peer.as_str());
        self.metrics.peer_failures.get_or_create(&label).inc();
        if before.freshness == Freshness::Live || before.detail != why {
            tracing::warn!(peer = %self.peer, why, "the peer's control plane cannot be reached; keeping its last catalogue");
        }
        let freshness = if self.held.epoch.is_empty() {
            Freshness::Never
        } else {
            Freshness::Stale
        };
        self.stands(freshness, why.to_owned());
    }

    fn stands(&self, freshness: Freshness, detail: String) {
        let live = freshness == Freshness::Live;
        self.metrics.peer_is_live(self.peer.as_str(), live);
        if live {
            self.metrics
                .peer_heard
                .get_or_create(&label("peer", self.peer.as_str()))
                .set(Timestamp::now().as_second() as f64);
        }
        let standing = Standing {
            freshness,
            version: self.held.version,
            entries: self.held.entries.len(),
            detail,
        };
        self.progress.set(&self.peer, standing);
    }

    fn ways(&self) -> Ways {
        Ways::of(&self.views.borrow(), &self.peer)
    }

    async fn save(&mut self) {
        if !std::mem::take(&mut self.unsaved) {
            return;
        }
        let (cache, peer, file) = (self.cache.clone(), self.peer.clone(), to_file(&self.held));
        let saved = tokio::task::spawn_blocking(move || cache.save(&peer, &file)).await;
        let problem = match saved {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        };
        tracing::warn!(peer = %self.peer, problem, "cannot keep the peer's catalogue on disk");
    }
}

/// What decides whether a peer can be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ways {
    gateways: usize,
    up: bool,
}

impl Ways {
    fn of(view: &View, peer: &ClusterName) -> Self {
        let mesh = view.snapshot.mesh.as_ref();
        let link = mesh
            .and_then(|mesh| mesh.peer(peer))
            .map(|peer: &Peer| peer.link);
        Self {
            gateways: mesh.map_or(0, |mesh| mesh.gateways.len()),
            up: matches!(link, Some(LinkState::Up { .. })),
        }
    }
}

/// A gateway came, or a link came up: worth a try at once.
fn improved(before: &Ways, now: &Ways) -> bool {
    now.gateways > before.gateways || (now.up && !before.up)
}
