//! What this sidecar counts for the limits of its service, and the drills that are on. All workers share
//! it; none waits for another, but for a moment when it meets a caller for the first time.

mod ask;
mod cache;
mod keys;
mod meter;
mod take;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use portolan_model::fault::Fault;
use portolan_model::limit::{Alone, Counted, LimitAmount, RateLimit};
use portolan_model::snapshot::{InboundRules, Snapshot};
use portolan_model::{ServiceKey, WorkloadKey};
use portolan_policy::limit::budget::{share_of_slots, tokens_of};
use portolan_policy::limit::lease::Contact;
use portolan_policy::limit::{Bucket, Rate, lease::Lease};
use tokio::sync::{Notify, watch};

pub(crate) use cache::Cache;
use keys::Keys;
pub(crate) use meter::{Metered, Pace, Paced};
pub(crate) use take::{Limited, Told};

/// The limits and drills of a workload. Clones share them.
#[derive(Debug, Clone)]
pub struct Limits(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    workload: WorkloadKey,
    started: Instant,
    active: ArcSwap<Active>,
    /// Counts the changes of `active`.
    version: AtomicU64,
    /// Held while `active` is replaced.
    replacing: Mutex<()>,
    contact: Contact,
    /// Whether the last question had no answer: nobody waits for the next one.
    unanswered: AtomicBool,
    /// Somebody waits for tokens.
    hurry: Notify,
    /// Tokens came.
    given: Notify,
}

/// What holds now, by service.
#[derive(Debug, Default)]
pub(crate) struct Active(BTreeMap<ServiceKey, Arc<Serving>>);

/// What holds for the requests to one service.
#[derive(Debug)]
pub(crate) struct Serving {
    rules: InboundRules,
    limits: Vec<Arc<Limit>>,
}

/// One limit and its counts.
#[derive(Debug)]
pub(crate) struct Limit {
    /// Never that of another limit.
    id: u64,
    service: ServiceKey,
    port: u16,
    spec: RateLimit,
    measure: Measure,
    /// Millionths of a shared limit that are this instance's own.
    share: AtomicU32,
    counts: Keys,
}

/// What is counted.
#[derive(Debug, Clone, Copy)]
enum Measure {
    Requests(Rate),
    /// With the other instances.
    Shared(Rate, Alone),
    Connections(u32),
    SharedConnections(u32, Alone),
    Bytes(Rate),
    /// By tokens of the lease, each worth some bytes.
    SharedBytes(Rate, Alone),
}

/// One count: which part is used depends on the limit's measure.
#[derive(Debug, Default)]
pub(crate) struct Count {
    bucket: Bucket,
    lease: Lease,
    open: AtomicU32,
}

impl Count {
    /// Whether a new one would be the same.
    fn is_unused(&self, now: Duration) -> bool {
        self.bucket.is_full(now)
            && self.lease.is_unused(now)
            && self.open.load(Ordering::Relaxed) == 0
    }
}

impl Limits {
    /// No limits, before the first snapshot.
    #[must_use]
    pub fn new(workload: WorkloadKey) -> Self {
        Self(Arc::new(Inner {
            workload,
            started: Instant::now(),
            active: ArcSwap::default(),
            version: AtomicU64::new(0),
            replacing: Mutex::default(),
            contact: Contact::default(),
            unanswered: AtomicBool::new(false),
            hurry: Notify::new(),
            given: Notify::new(),
        }))
    }

    /// Obeys a snapshot. The counts of limits that are still the same stay.
    pub fn obey(&self, snapshot: &Snapshot) {
        let replacing = self.0.replacing.lock();
        let _replacing = replacing.unwrap_or_else(PoisonError::into_inner);
        let before = self.0.active.load_full();
        let rules = snapshot.inbound.get(&self.0.workload);
        let rules = rules.map(|inbound| &inbound.rules);
        let same = match rules {
            None => before.0.is_empty(),
            Some(rules) => {
                rules.len() == before.0.len()
                    && rules
                        .iter()
                        .zip(&before.0)
                        .all(|(new, old)| new.0 == old.0 && *new.1 == old.1.rules)
            }
        };
        if same {
            return;
        }
        let mut next_id = self.0.version.load(Ordering::Relaxed) << 16;
        let active = rules.into_iter().flatten().map(|(service, rules)| {
            let old = before.0.get(service);
            let limits = rules.limits.iter().map(|(port, spec)| {
                let known = old
                    .iter()
                    .flat_map(|old| &old.limits)
                    .find(|limit| limit.port == *port && limit.spec == *spec);
                next_id += 1;
                known.cloned().unwrap_or_else(|| {
                    Arc::new(Limit::new(next_id, service.clone(), *port, spec.clone()))
                })
            });
            let serving = Serving {
                limits: limits.collect(),
                rules: rules.clone(),
            };
            (service.clone(), Arc::new(serving))
        });
        let active = Active(active.collect());
        self.0.active.store(Arc::new(active));
        self.0.version.fetch_add(1, Ordering::Release);
        self.0.hurry.notify_one();
    }

    /// Obeys each snapshot from now on.
    pub async fn follow(self, snapshot: Arc<ArcSwap<Snapshot>>, mut changed: watch::Receiver<u64>) {
        loop {
            self.obey(&snapshot.load());
            if changed.changed().await.is_err() {
                return;
            }
        }
    }

    /// What holds for a service, if anything does.
    fn serving(&self, service: &ServiceKey) -> Option<Arc<Serving>> {
        let active = self.0.active.load();
        if active.0.is_empty() {
            return None;
        }
        active.0.get(service).cloned()
    }

    /// The drills on a service.
    pub(crate) fn faults(&self, service: &ServiceKey) -> Option<Drills> {
        self.serving(service)
            .filter(|serving| !serving.rules.faults.is_empty())
            .map(Drills)
    }

    fn version(&self) -> u64 {
        self.0.version.load(Ordering::Acquire)
    }

    fn now(&self) -> Duration {
        self.0.started.elapsed()
    }
}

/// The drills on a service, as they are now.
pub(crate) struct Drills(Arc<Serving>);

impl Drills {
    /// The faults, by port.
    pub(crate) fn faults(&self) -> &[(u16, Fault)] {
        &self.0.rules.faults
    }
}

impl Limit {
    fn new(id: u64, service: ServiceKey, port: u16, spec: RateLimit) -> Self {
        let measure = match (spec.amount, spec.counted) {
            (LimitAmount::Requests { count, per, burst }, counted) => {
                let rate = Rate::of_requests(count, per, burst);
                match counted {
                    Counted::Instance => Measure::Requests(rate),
                    Counted::Cluster { alone } => Measure::Shared(rate, alone),
                }
            }
            (LimitAmount::Connections(most), Counted::Instance) => Measure::Connections(most),
            (LimitAmount::Connections(most), Counted::Cluster { alone }) => {
                Measure::SharedConnections(most, alone)
            }
            (LimitAmount::Bytes { count, per }, Counted::Instance) => {
                Measure::Bytes(Rate::of_bytes(count, per))
            }
            (LimitAmount::Bytes { count, per }, Counted::Cluster { alone }) => {
                let tokens = tokens_of(count);
                Measure::SharedBytes(Rate::of_requests(tokens, per, tokens), alone)
            }
        };
        Self {
            id,
            service,
            port,
            spec,
            measure,
            share: AtomicU32::new(0),
            counts: Keys::default(),
        }
    }

    /// Whether all instances keep it together.
    fn is_shared(&self) -> bool {
        matches!(self.spec.counted, Counted::Cluster { .. })
    }

    /// The share of a shared limit that this instance goes by: of connections also what those need that are
    /// open, until they end.
    fn share_in_use(&self) -> u32 {
        let told = self.share.load(Ordering::SeqCst);
        match self.measure {
            Measure::SharedConnections(all, _) => {
                told.max(share_of_slots(self.counts.most_open(), all))
            }
            Measure::Requests(_)
            | Measure::Shared(..)
            | Measure::Connections(_)
            | Measure::Bytes(_)
            | Measure::SharedBytes(..) => told,
        }
    }
}
