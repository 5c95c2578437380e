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

/// What a stream says.
#[derive(Debug)]
pub(crate) enum Fact {
    Opened(Holder),
    Ready(WorkloadKey, bool),
    Links(String, Links),
    /// A gateway is about to stop.
    Draining(String),
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
        let mut effects = Vec::new();
        for entry in &listing.entries {
            if let Some(workload) = leased(entry) {
                let ready = !unready.contains(workload.to_string().as_str());
                effects.extend(self.ledger.workload_found(now, workload, ready));
            } else if let Some(gateway) = noted_gateway(entry) {
                self.noted_gateways.push(gateway.name.clone());
                effects.extend(self.ledger.gateway_found(now, gateway));
            }
        }
        effects.into_iter().filter_map(event).collect()
    }

    /// Runs until shutdown.
    pub(crate) async fn run(mut self, shutdown: Shutdown) {
        loop {
            let next = self.ledger.next_tick().map(|at| self.started + at);
            let lapse = async {
                match next {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            let effects = tokio::select! {
                () = shutdown.triggered() => return,
                fact = self.facts.recv() => match fact {
                    Some((stream, fact)) => self.hear(stream, fact),
                    None => return,
                },
                () = lapse => self.ledger.tick(self.started.elapsed()),
            };
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
            Fact::Draining(gateway) => ledger.gateway_draining(stream, &gateway),
            Fact::Closed(Holder::Workload(workload)) => {
                ledger.workload_closed(now, stream, &workload);
                Vec::new()
            }
            Fact::Closed(Holder::Gateway(gateway)) => {
                ledger.gateway_closed(now, stream, &gateway.name);
                Vec::new()
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
        match tokio::time::timeout(PERSIST_PATIENCE, self.store.commit(removal)).await {
            Ok(Ok(_)) => {
                tracing::info!(%workload, "removed a workload whose sidecar is gone");
                true
            }
            Ok(Err(_)) | Err(_) => {
                self.metrics.registry_failed("commit");
                self.ledger
                    .workload_found(self.started.elapsed(), workload.clone(), false);
                false
            }
        }
    }

    /// Writes the notes down, if it can be done soon; else with the next ones.
    async fn persist(&mut self) {
        if self.notes.is_empty() {
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
        let commit = self.store.commit(writes.collect());
        match tokio::time::timeout(PERSIST_PATIENCE, commit).await {
            Ok(Ok(_)) => {
                for (key, _) in &batch {
                    self.notes.remove(key);
                }
            }
            Ok(Err(_)) | Err(_) => self.metrics.registry_failed("commit"),
        }
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
    }
}

/// The leased workload that an entry declares.
fn leased(entry: &Entry) -> Option<WorkloadKey> {
    let key = keys::declaration(&entry.key)?;
    if key.kind != ResourceKind::Workload {
        return None;
    }
    let document: serde_json::Value = serde_json::from_slice(&entry.value).ok()?;
    let leased = document.pointer("/spec/leased")?.as_bool()?;
    let name = WorkloadName::parse(&key.name).ok()?;
    leased.then_some(WorkloadKey::new(key.namespace?, name))
}

fn noted_gateway(entry: &Entry) -> Option<Gateway> {
    let _name = entry.key.strip_prefix(keys::GATEWAYS)?;
    serde_json::from_slice(&entry.value).ok()
}
