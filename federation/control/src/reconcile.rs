//! The reconcile loop: the one owner of the compiler, and the one place that takes events in,
//! compiles, persists what must outlive a restart, and publishes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;
use jiff::Timestamp;
use portolan_compiler::{Change, Compiler, Output, RefusedEntry};
use portolan_model::declared::ResourceKey;
use portolan_model::sharing::CatalogueEntry;
use portolan_model::snapshot::{Gateway, LinkState, Snapshot};
use portolan_model::{ClusterName, ServiceKey, WorkloadKey};
use portolan_registry::{Entry, Listing, Store};
use portolan_runtime::Shutdown;
use tokio::sync::{mpsc, watch};

use crate::documents::{Stored, read_stored, stamp_conditions};
use crate::keys;
use crate::metrics::{ControlMetrics, label};
use crate::table::Table;
use crate::view::{View, Views};
use crate::vips::{VipKeeper, restored};

/// The most events that wait for the loop; who sends more waits.
pub(crate) const EVENTS_MAX: usize = 1_024;
/// The most refused catalogue entries of one message that are logged one by one.
const REFUSALS_LOGGED_MAX: usize = 5;

/// Everything that may happen to a control plane.
#[derive(Debug)]
pub(crate) enum Event {
    /// A key of the registry changed.
    Stored(portolan_registry::Event),
    /// The registry's watch had to begin again: this is all that is there.
    Relisted(Listing),
    /// What is known of a workload's life.
    Liveness {
        workload: WorkloadKey,
        ready: Option<bool>,
    },
    /// The gateways that are alive.
    Gateways(Vec<Gateway>),
    /// What the gateways say of their links.
    Links(BTreeMap<ClusterName, LinkState>),
    /// What a peer says of its exports.
    Catalogue {
        peer: ClusterName,
        full: bool,
        upserts: Vec<CatalogueEntry>,
        removals: Vec<ServiceKey>,
    },
}

/// See the module's description.
pub(crate) struct Reconciler {
    compiler: Compiler,
    metrics: ControlMetrics,
    view: View,
    views: watch::Sender<Arc<View>>,
    snapshot: Arc<ArcSwap<Snapshot>>,
    vips: VipKeeper,
    /// Whether the view differs from the published one.
    touched: bool,
}

impl Reconciler {
    /// A loop around `compiler`, which has been told what does not come as an event: the trust
    /// bundle and the control plane's own address. `generation` is the first one's predecessor.
    pub(crate) fn new(
        compiler: Compiler,
        store: Arc<dyn Store>,
        metrics: ControlMetrics,
        generation: u64,
    ) -> Self {
        let view = View::empty(store.id().into(), generation);
        Self {
            compiler,
            vips: VipKeeper::new(store, metrics.clone()),
            metrics,
            views: watch::Sender::new(Arc::new(view.clone())),
            view,
            snapshot: Arc::default(),
            touched: true,
        }
    }

    /// Where views appear.
    pub(crate) fn views(&self) -> Views {
        self.views.subscribe()
    }

    /// Where the latest snapshot is.
    pub(crate) fn snapshot(&self) -> Arc<ArcSwap<Snapshot>> {
        self.snapshot.clone()
    }

    /// Takes in what the registry held at start, virtual IPs included. Call before the first turn.
    pub(crate) fn restore(&mut self, listing: Listing) {
        let restored = restored(&listing.entries);
        self.compiler.apply(Change::VipAssigned(restored));
        self.relisted(listing);
    }

    /// Runs until shutdown.
    pub(crate) async fn run(mut self, mut events: mpsc::Receiver<Event>, shutdown: Shutdown) {
        let mut batch = Vec::with_capacity(EVENTS_MAX);
        loop {
            let retry = self.vips.next_try();
            let retry = async {
                match retry {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = shutdown.triggered() => return,
                received = events.recv_many(&mut batch, EVENTS_MAX) => {
                    if received == 0 {
                        return;
                    }
                }
                () = retry => {}
            }
            let begun = Instant::now();
            for event in batch.drain(..) {
                self.take(event);
            }
            self.turn().await;
            let took = begun.elapsed().as_secs_f64();
            self.metrics.reconcile_seconds.observe(took);
        }
    }

    /// Takes one event in, without compiling.
    pub(crate) fn take(&mut self, event: Event) {
        match event {
            Event::Stored(portolan_registry::Event::Put(entry)) => self.stored(entry),
            Event::Stored(portolan_registry::Event::Deleted { key, .. }) => {
                if let Some(key) = keys::declaration(&key) {
                    self.deleted(key);
                }
            }
            Event::Relisted(listing) => self.relisted(listing),
            Event::Liveness { workload, ready } => {
                self.compiler.apply(Change::Liveness { workload, ready });
            }
            Event::Gateways(gateways) => {
                self.compiler.apply(Change::Gateways(gateways));
            }
            Event::Links(links) => {
                self.compiler.apply(Change::Links(links));
            }
            Event::Catalogue {
                peer,
                full,
                upserts,
                removals,
            } => {
                let refused = self.compiler.apply(Change::Catalogue {
                    peer: peer.clone(),
                    full,
                    upserts,
                    removals,
                });
                self.note_refused(&peer, full, &refused);
            }
        }
    }

    /// Compiles what was taken in, persists, and publishes what changed.
    pub(crate) async fn turn(&mut self) {
        let output = self.compiler.compile();
        self.touched |= !output.is_empty();
        let next = self.view.generation + 1;
        self.vips.note(&output);
        self.vips.persist().await;
        if !self.touched {
            return;
        }
        self.view.generation = next;
        self.update_catalogues(&output);
        self.update_documents(&output);
        self.metrics
            .recompiled
            .inc_by(u64::try_from(output.recompiled).unwrap_or(u64::MAX));
        let changed = !output.delta.is_empty();
        self.view.resources.update(next, output.delta);
        if changed {
            self.view.snapshot = Arc::new(Snapshot {
                generation: next,
                ..self.compiler.snapshot().clone()
            });
        }
        self.publish();
    }

    fn publish(&mut self) {
        self.touched = false;
        let counter = i64::from(self.view.generation as u32);
        self.metrics.generation.set(counter);
        let problems = i64::try_from(self.view.problems.len()).unwrap_or(i64::MAX);
        self.metrics.problems.set(problems);
        self.snapshot.store(self.view.snapshot.clone());
        self.views.send_replace(Arc::new(self.view.clone()));
        tracing::debug!(generation = self.view.generation, "published");
    }

    fn stored(&mut self, entry: Entry) {
        let Some(key) = keys::declaration(&entry.key) else {
            return;
        };
        let documents = Arc::make_mut(&mut self.view.documents);
        if documents
            .get(&key)
            .is_some_and(|known| known.version >= entry.version)
        {
            return;
        }
        self.touched = true;
        let (document, read) = read_stored(&key, &entry.value);
        let declared = match read {
            Ok(declared) => {
                self.compiler.apply(Change::Declared(declared.clone()));
                Some(declared)
            }
            Err(problems) => {
                tracing::warn!(resource = %key, problem = %problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "),
                    "a stored declaration cannot be read; its last good version stays in force");
                self.compiler.apply(Change::Broken {
                    key: key.clone(),
                    problems,
                });
                documents.get(&key).and_then(|known| known.declared.clone())
            }
        };
        let stored = Stored {
            version: entry.version,
            document,
            declared,
        };
        documents.insert(key, Arc::new(stored));
    }

    fn deleted(&mut self, key: ResourceKey) {
        if Arc::make_mut(&mut self.view.documents)
            .remove(&key)
            .is_some()
        {
            self.touched = true;
            self.compiler.apply(Change::Deleted(key));
        }
    }

    fn relisted(&mut self, listing: Listing) {
        let there: std::collections::BTreeSet<ResourceKey> = listing
            .entries
            .iter()
            .filter_map(|entry| keys::declaration(&entry.key))
            .collect();
        let gone: Vec<ResourceKey> = self
            .view
            .documents
            .keys()
            .filter(|key| !there.contains(*key))
            .cloned()
            .collect();
        for key in gone {
            self.deleted(key);
        }
        for entry in listing.entries {
            self.stored(entry);
        }
    }

    fn note_refused(&mut self, peer: &ClusterName, full: bool, refused: &[RefusedEntry]) {
        if full || !self.compiler.refuses_of(peer) {
            self.touched |= self.view.refused.remove(peer).is_some();
        }
        let Some(first) = refused.first() else {
            return;
        };
        self.touched = true;
        let count = u64::try_from(refused.len()).unwrap_or(u64::MAX);
        self.metrics
            .entries_refused
            .get_or_create(&label("peer", peer.as_str()))
            .inc_by(count);
        for entry in refused.iter().take(REFUSALS_LOGGED_MAX) {
            let service = entry.service.as_ref().map(ToString::to_string);
            tracing::warn!(peer = %peer, service, reason = %entry.reason, "refused a part of a peer's catalogue");
        }
        let told = match &first.service {
            Some(service) => format!(
                "refused {count} of its entries: {service}: {}",
                first.reason
            ),
            None => format!("refused its catalogue: {}", first.reason),
        };
        self.view.refused.insert(peer.clone(), told);
    }

    fn update_catalogues(&mut self, output: &Output) {
        let peers: Vec<ClusterName> = self
            .compiler
            .snapshot()
            .mesh
            .iter()
            .flat_map(|mesh| mesh.peers.iter().map(|peer| peer.name.clone()))
            .collect();
        let version = self.view.generation;
        let catalogues = &mut self.view.catalogues;
        catalogues.retain(|peer, _| peers.contains(peer));
        self.view.refused.retain(|peer, _| peers.contains(peer));
        for peer in peers {
            if let Some(table) = catalogues.get_mut(&peer) {
                let delta = output.catalogue_delta(&peer);
                if delta.upserts.is_empty() && delta.removals.is_empty() {
                    continue;
                }
                let table = Arc::make_mut(table);
                for key in &delta.removals {
                    table.remove(version, key);
                }
                for entry in delta.upserts {
                    table.put(version, entry.key.clone(), entry);
                }
            } else {
                let mut table = Table::begun_at(version);
                for entry in self.compiler.catalogue_for(&peer) {
                    table.put(version, entry.key.clone(), entry);
                }
                catalogues.insert(peer, Arc::new(table));
            }
        }
    }

    fn update_documents(&mut self, output: &Output) {
        let now = Timestamp::now();
        if !output.statuses.is_empty() {
            let statuses = Arc::make_mut(&mut self.view.statuses);
            for (key, status) in &output.statuses {
                let before = statuses.remove(key);
                if let Some(mut status) = status.clone() {
                    stamp_conditions(&mut status, before.as_deref(), now);
                    statuses.insert(key.clone(), Arc::new(status));
                }
            }
        }
        if !output.imports.is_empty() {
            let imports = Arc::make_mut(&mut self.view.imports);
            for (key, import) in &output.imports {
                let before = imports.remove(key);
                if let Some(mut import) = import.clone() {
                    let earlier = before.as_ref().and_then(|before| before.get("status"));
                    if let Some(status) = import.get_mut("status") {
                        stamp_conditions(status, earlier, now);
                    }
                    imports.insert(key.clone(), Arc::new(import));
                }
            }
        }
        if !output.problems.is_empty() {
            self.view.problems = Arc::new(self.compiler.problems().clone());
        }
    }
}
