//! The keeper of the ledger: one task that hears what streams say, lets lapse what nobody
//! confirms, tells the reconcile loop, and writes down what a restart should know.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use portolan_model::declared::ResourceKind;
use portolan_model::snapshot::Gateway;
use portolan_model::{WorkloadKey, WorkloadName};
use portolan_registry::{Entry, Listing, Precondition, Store, Write};
use portolan_runtime::Shutdown;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::ledger::{Effect, Ledger, Links, StreamId};
use super::register::{Holder, workload_spec};
use crate::keys;
use crate::metrics::ControlMetrics;
use crate::reconcile::Event;
use crate::view::{Views, workload_resource};

/// The most facts that wait for the keeper; streams that say more wait.
const FACTS_MAX: usize = 1_024;
/// How long the keeper waits for the registry to write something down.
const PERSIST_PATIENCE: Duration = Duration::from_millis(250);
/// How long until a registry that did not write in that time is asked again. Meanwhile facts go on to the
/// loop at once: nobody's liveness may wait for a registry that is away.
const PERSIST_RETRY: Duration = Duration::from_secs(5);

/// What a stream says.
#[derive(Debug)]
pub(crate) enum Fact {
    Opened(Holder),
    Ready(WorkloadKey, bool),
    Links(String, Links),
    /// It is about to stop.
    Draining(Holder),
    Closed(Holder),
}

/// How streams tell the keeper.
#[derive(Debug, Clone)]
pub(crate) struct KeeperHandle(mpsc::Sender<(StreamId, Fact)>);

impl KeeperHandle {
    pub(crate) async fn tell(&self, stream: StreamId, fact: Fact) {
        if self.0.send((stream, fact)).await.is_err() {
            tracing::debug!("nobody keeps presence any more: the control plane is stopping");
        }
    }
}

/// See the module's description.
pub(crate) struct Keeper {
    ledger: Ledger,
    facts: mpsc::Receiver<(StreamId, Fact)>,
    events: mpsc::Sender<Event>,
    views: Views,
    store: Arc<dyn Store>,
    metrics: ControlMetrics,
    started: Instant,
    /// What the registry should hold of our own, by key; `None`: nothing.
    notes: BTreeMap<String, Option<Vec<u8>>>,
    /// The gateways that the registry holds.
    noted_gateways: Vec<String>,
    /// When the registry is asked again, after it failed.
    retry_at: Option<Instant>,
}

impl Keeper {
    pub(crate) fn new(
        events: mpsc::Sender<Event>,
        views: Views,
        store: Arc<dyn Store>,
        metrics: ControlMetrics,
    ) -> (Self, KeeperHandle) {
        let (sender, facts) = mpsc::channel(FACTS_MAX);
        let keeper = Self {
            ledger: Ledger::default(),
            facts,
            events,
            views,
            store,
            metrics,
            started: Instant::now(),
            notes: BTreeMap::new(),
            noted_gateways: Vec::new(),
            retry_at: None,
        };
        (keeper, KeeperHandle(sender))
    }

    /// Takes in what the registry knows of an earlier life, and returns what the loop must hear of it before its first turn.
    pub(crate) fn restore(&mut self, listing: &Listing) -> Vec<Event> {
        let now = self.started.elapsed();
        let unready: BTreeSet<&str> = listing
            .entries
            .iter()
            .filter_map(|entry| entry.key.strip_prefix(keys::UNREADY))
            .collect();
        let mut left_over = unready.clone();
        let mut effects = Vec::new();
        for entry in &listing.entries {
            if let Some((workload, leased)) = workload(entry) {
                let name = workload.to_string();
                let ready = !unready.contains(name.as_str());
                left_over.remove(name.as_str());
                // One that was declared by hand is known of here only once a sidecar was seen beside it.
                if leased || !ready {
                    effects.extend(self.ledger.workload_found(now, workload, ready));
                }
            } else if let Some(gateway) = noted_gateway(entry) {
                self.noted_gateways.push(gateway.name.clone());
                effects.extend(self.ledger.gateway_found(now, gateway));
            }
        }
        let left_over = left_over.into_iter();
        let forgotten = left_over.map(|name| (format!("{}{name}", keys::UNREADY), None));
        self.notes.extend(forgotten);
        effects.into_iter().filter_map(event).collect()
    }

    /// Runs until shutdown.
    pub(crate) async fn run(mut self, shutdown: Shutdown) {
        let mut heard = Vec::with_capacity(FACTS_MAX);
        loop {
            let lapse = self.ledger.next_tick().map(|at| self.started + at);
            let persist = self.next_persist();
            tokio::select! {
                biased;
                () = shutdown.triggered() => return,
                received = self.facts.recv_many(&mut heard, FACTS_MAX) => if received == 0 {
                    return;
                },
                () = moment(lapse) => {}
                () = moment(persist) => {}
            }
            let mut effects = Vec::new();
            for (stream, fact) in heard.drain(..) {
                effects.extend(self.hear(stream, fact));
            }
            // After the facts: what was confirmed in time must not lapse because it waited here.
            effects.extend(self.ledger.tick(self.started.elapsed()));
            if self.act(effects).await.is_err() {
                return;
            }
            self.persist().await;
        }
    }

    fn hear(&mut self, stream: StreamId, fact: Fact) -> Vec<Effect> {
        let now = self.started.elapsed();
        let ledger = &mut self.ledger;
        match fact {
            Fact::Opened(Holder::Workload(workload)) => {
                ledger.workload_opened(now, stream, &workload)
            }
            Fact::Opened(Holder::Gateway(gateway)) => ledger.gateway_opened(now, stream, gateway),
            Fact::Ready(workload, ready) => ledger.workload_ready(stream, &workload, ready),
            Fact::Links(gateway, links) => ledger.gateway_links(stream, &gateway, links),
            Fact::Draining(Holder::Workload(workload)) => {
                ledger.workload_draining(now, stream, &workload)
            }
            Fact::Draining(Holder::Gateway(gateway)) => {
                ledger.gateway_draining(now, stream, &gateway.name)
            }
            Fact::Closed(Holder::Workload(workload)) => {
                ledger.workload_closed(now, stream, &workload)
            }
            Fact::Closed(Holder::Gateway(gateway)) => {
                ledger.gateway_closed(now, stream, &gateway.name)
            }
        }
    }

    /// Tells the loop, and notes what to write down. An error: the loop is gone.
    async fn act(&mut self, effects: Vec<Effect>) -> Result<(), ()> {
        for effect in effects {
            match &effect {
                Effect::Liveness { workload, ready } => {
                    let note = (*ready == Some(false)).then(|| b"false".to_vec());
                    self.notes.insert(keys::unready(workload), note);
                }
                Effect::Gateways(gateways) => self.note_gateways(gateways),
                Effect::Links(_) => {}
                Effect::Disputed(name) => tracing::warn!(
                    name,
                    "several live proxies have this name, and the newest counts; give each its own"
                ),
                Effect::Expired(workload) => {
                    if !self.expire(workload).await {
                        continue;
                    }
                }
            }
            if let Some(event) = event(effect) {
                self.events.send(event).await.map_err(|_| ())?;
            }
        }
        Ok(())
    }

    fn note_gateways(&mut self, gateways: &[Gateway]) {
        for name in self.noted_gateways.drain(..) {
            self.notes.insert(keys::gateway(&name), None);
        }
        for gateway in gateways {
            match serde_json::to_vec(gateway) {
                Ok(note) => self.notes.insert(keys::gateway(&gateway.name), Some(note)),
                Err(_) => continue,
            };
            self.noted_gateways.push(gateway.name.clone());
        }
    }

    /// Removes the declaration of a workload whose sidecar is gone for good. False when it has to stay.
    async fn expire(&mut self, workload: &WorkloadKey) -> bool {
        self.notes.insert(keys::unready(workload), None);
        let key = workload_resource(workload);
        let stored = self.views.borrow().documents.get(&key).cloned();
        let Some(stored) = stored else {
            return true;
        };
        let leased = stored
            .declared
            .as_ref()
            .and_then(workload_spec)
            .is_some_and(|spec| spec.leased);
        if !leased {
            // Declared by hand, and once seen with a sidecar: without it, it still cannot serve.
            self.ledger
                .workload_found(self.started.elapsed(), workload.clone(), false);
            return false;
        }
        let version = Precondition::Version(stored.version);
        let removal = vec![Write::delete(key.path(), version)];
        if !self.is_registry_away() && self.written(removal).await {
            tracing::info!(%workload, "removed a workload whose sidecar is gone");
            return true;
        }
        self.ledger
            .workload_found(self.started.elapsed(), workload.clone(), false);
        false
    }

    /// When [`Keeper::persist`] next has something to do.
    fn next_persist(&self) -> Option<Instant> {
        (!self.notes.is_empty()).then(|| self.retry_at.unwrap_or(self.started))
    }

    fn is_registry_away(&self) -> bool {
        self.retry_at.is_some_and(|at| Instant::now() < at)
    }

    /// Writes, if that can be done soon. False when it could not.
    async fn written(&mut self, writes: Vec<Write>) -> bool {
        let commit = self.store.commit(writes);
        let done = matches!(
            tokio::time::timeout(PERSIST_PATIENCE, commit).await,
            Ok(Ok(_))
        );
        self.retry_at = (!done).then(|| Instant::now() + PERSIST_RETRY);
        if !done {
            self.metrics.registry_failed("commit");
        }
        done
    }

    /// Writes a part of the notes down, unless the registry is away.
    async fn persist(&mut self) {
        if self.notes.is_empty() || self.is_registry_away() {
            return;
        }
        let most = self.store.limits().batch_writes_max;
        let batch: Vec<(String, Option<Vec<u8>>)> = self
            .notes
            .iter()
            .take(most)
            .map(|(key, note)| (key.clone(), note.clone()))
            .collect();
        let writes = batch.iter().cloned().map(|(key, note)| match note {
            Some(note) => Write::put(key, note, Precondition::None),
            None => Write::delete(key, Precondition::None),
        });
        if self.written(writes.collect()).await {
            for (key, _) in &batch {
                self.notes.remove(key);
            }
        }
    }
}

/// Waits for a moment; for ever without one.
async fn moment(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

fn event(effect: Effect) -> Option<Event> {
    match effect {
        Effect::Liveness { workload, ready } => Some(Event::Liveness { workload, ready }),
        Effect::Gateways(gateways) => Some(Event::Gateways(gateways)),
        Effect::Links(links) => Some(Event::Links(links)),
        Effect::Expired(workload) => Some(Event::Liveness {
            workload,
            ready: None,
        }),
        Effect::Disputed(_) => None,
    }
}

/// The workload that an entry declares, and whether it is leased.
fn workload(entry: &Entry) -> Option<(WorkloadKey, bool)> {
    let key = keys::declaration(&entry.key)?;
    if key.kind != ResourceKind::Workload {
        return None;
    }
    let document: serde_json::Value = serde_json::from_slice(&entry.value).ok()?;
    let leased = document
        .pointer("/spec/leased")
        .and_then(serde_json::Value::as_bool);
    let name = WorkloadName::parse(&key.name).ok()?;
    let workload = WorkloadKey::new(key.namespace?, name);
    Some((workload, leased.unwrap_or(false)))
}

fn noted_gateway(entry: &Entry) -> Option<Gateway> {
    let _name = entry.key.strip_prefix(keys::GATEWAYS)?;
    serde_json::from_slice(&entry.value).ok()
}
