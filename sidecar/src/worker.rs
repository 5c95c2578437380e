//! What the workers of a process share, and what each has of its own.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::hash::Hash;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use portolan_model::snapshot::Snapshot;
use portolan_model::traffic::OutlierDetection;
use portolan_model::{Hop, Namespace, Reason, Refusal, ServiceKey, WorkloadKey};
use portolan_policy::breaker::Breaker;
use portolan_policy::retry::RetryBudget;
use portolan_runtime::Shutdown;
use portolan_transport::mtls::TlsContext;
use smallvec::SmallVec;
use tokio::sync::watch;
use tokio::task::spawn_local;
use tokio::time::{Instant, interval, timeout};
use tokio_util::task::TaskTracker;

use crate::admin::{View, Views};
use crate::balancer::{Balancer, Health, ServiceState, Subject};
use crate::http::{DRAIN_MAX, HttpRules, Stalls};
use crate::metrics::{Counters, Metrics};
use crate::outbound::mirror::Copies;
use crate::timers::Timers;
use crate::upstreams::Upstreams;

/// The most requests and tunnels under way in one worker; more are refused as overloaded.
pub(crate) const REQUESTS_MAX: u32 = 8192;
/// The most connections of the app to one worker; more are closed at once.
pub(crate) const CLIENTS_MAX: usize = 8192;
/// The pause between looks at idle and old connections, and between published views.
const TICK: Duration = Duration::from_millis(500);

/// What all outbound workers of a process share.
#[derive(Clone)]
pub(crate) struct Shared {
    /// The own workload, as `namespace/service account`.
    pub(crate) caller: Arc<str>,
    /// The own workload's namespace.
    pub(crate) namespace: Namespace,
    /// The own identity, and whom to trust.
    pub(crate) tls: TlsContext,
    /// The newest snapshot.
    pub(crate) snapshot: Arc<ArcSwap<Snapshot>>,
    /// Changes with every snapshot.
    pub(crate) changed: watch::Receiver<u64>,
    /// Where everything is counted.
    pub(crate) metrics: Metrics,
    /// Whether calls to hosts outside the mesh are passed on.
    pub(crate) passthrough: bool,
    /// How HTTP is treated.
    pub(crate) http: HttpRules,
    /// What workers count together.
    pub(crate) joint: Joint,
    /// The own workload, as calls are hashed on it.
    pub(crate) source: u64,
    /// What workers publish for the admin port.
    pub(crate) views: Arc<Views>,
}

/// What workers count together: a bound that each had for itself would be as many times as high as there are cores.
#[derive(Debug, Clone)]
pub(crate) struct Joint {
    /// One breaker for each service that was called.
    breakers: Breakers<ServiceKey>,
    /// And one retry budget.
    budgets: PerProcess<ServiceKey, Arc<RetryBudget>>,
    /// One breaker for each endpoint that was called.
    pub(crate) endpoints: Breakers<WorkloadKey>,
    /// From when moments count.
    pub(crate) started: Instant,
}

impl Joint {
    pub(crate) fn new() -> Self {
        Self {
            breakers: Breakers::default(),
            budgets: PerProcess::default(),
            endpoints: Breakers::default(),
            started: Instant::now(),
        }
    }

    /// What bounds the calls to a service, and their retries.
    pub(crate) fn bounds(&self, service: &ServiceKey) -> (Breaker, Arc<RetryBudget>) {
        (self.breakers.of(service), self.budgets.of(service))
    }

    /// Forgets services that are gone.
    fn follow(&self, snapshot: &Snapshot) {
        let known = |service: &ServiceKey| snapshot.services.contains_key(service);
        self.breakers.retain(known);
        self.budgets.retain(known);
    }
}

/// What all workers have together, one for each service or endpoint. Workers ask once and keep the answer.
#[derive(Debug, Clone)]
pub(crate) struct PerProcess<K, V>(Arc<Mutex<HashMap<K, V>>>);

/// Bounds on what is under way.
pub(crate) type Breakers<K> = PerProcess<K, Breaker>;

impl<K, V> Default for PerProcess<K, V> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<K: Clone + Eq + Hash, V: Clone + Default> PerProcess<K, V> {
    pub(crate) fn of(&self, key: &K) -> V {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.entry(key.clone()).or_default().clone()
    }

    pub(crate) fn retain(&self, known: impl Fn(&K) -> bool) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|key, _| known(key));
    }
}

/// One thread's outbound half.
pub(crate) struct Worker {
    pub(crate) shared: Shared,
    pub(crate) index: usize,
    pub(crate) balancer: Rc<Balancer>,
    pub(crate) upstreams: Upstreams,
    pub(crate) counters: Counters,
    pub(crate) shutdown: Shutdown,
    /// The app's connections.
    pub(crate) clients: TaskTracker,
    /// Copies of requests under way.
    pub(crate) copies: Copies,
    under_way: Rc<Cell<u32>>,
    /// Answers on their way to the app.
    pub(crate) stalls: Rc<Stalls>,
    pub(crate) timers: Timers,
    /// Where the app's connections arrive.
    listeners: RefCell<SmallVec<[SocketAddr; 2]>>,
}

impl Worker {
    pub(crate) fn new(shared: Shared, index: usize, shutdown: Shutdown) -> Rc<Self> {
        let balancer = Rc::new(Balancer::new(shared.metrics.clone(), &shared.joint));
        let worker = Rc::new(Self {
            upstreams: Upstreams::new(&shared, Rc::clone(&balancer)),
            counters: Counters::new(shared.metrics.clone()),
            balancer,
            shared,
            index,
            shutdown,
            clients: TaskTracker::new(),
            copies: Copies::default(),
            under_way: Rc::default(),
            stalls: Rc::default(),
            timers: Timers::default(),
            listeners: RefCell::default(),
        });
        spawn_local(Rc::clone(&worker).keep_house());
        worker
    }

    /// The newest snapshot.
    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        self.shared.snapshot.load_full()
    }

    /// The records of a service.
    pub(crate) fn service(&self, key: &ServiceKey) -> Rc<ServiceState> {
        self.balancer.service(key, || self.shared.joint.bounds(key))
    }

    /// The app's connections arrive there.
    pub(crate) fn note_listener(&self, address: SocketAddr) {
        self.listeners.borrow_mut().push(address);
    }

    /// Whether a connection to this address would arrive here again.
    pub(crate) fn listens_on(&self, address: SocketAddr) -> bool {
        self.listeners.borrow().iter().any(|own| {
            let everywhere = own.ip().is_unspecified() && address.ip().is_loopback();
            own.port() == address.port() && (own.ip() == address.ip() || everywhere)
        })
    }

    /// Lets one more request or tunnel in, until the guard is dropped.
    ///
    /// # Errors
    /// [`Reason::Overloaded`] when there are too many.
    pub(crate) fn admit(&self) -> Result<Admitted, Refusal> {
        let under_way = self.under_way.get();
        if under_way >= REQUESTS_MAX {
            let why = format!("{under_way} requests are under way in this sidecar");
            return Err(Refusal::new(Reason::Overloaded, Hop::Outbound, why));
        }
        self.under_way.set(under_way + 1);
        Ok(Admitted(Rc::clone(&self.under_way)))
    }

    /// Waits until the app's connections have ended, at most [`DRAIN_MAX`].
    pub(crate) async fn drain(&self) {
        self.clients.close();
        if timeout(DRAIN_MAX, self.clients.wait()).await.is_err() {
            tracing::info!(
                connections = self.clients.len(),
                "drained long enough: cutting"
            );
        }
    }

    /// Follows snapshots, closes idle connections, and publishes what the admin port shows.
    async fn keep_house(self: Rc<Self>) {
        let mut changed = self.shared.changed.clone();
        let mut fed = true;
        let mut tick = interval(TICK);
        loop {
            tokio::select! {
                result = changed.changed(), if fed => {
                    // When the feed ended, the last snapshot stays in force.
                    fed = result.is_ok();
                    self.follow();
                }
                _ = tick.tick() => {
                    self.upstreams.reap();
                    self.stalls.look(Instant::now());
                    self.balancer.compare(&self.shared.snapshot.load());
                }
                () = self.shutdown.triggered() => return,
            }
            self.publish();
        }
    }

    fn follow(&self) {
        let snapshot = self.snapshot();
        self.balancer.follow(&snapshot);
        self.upstreams.follow(&snapshot);
        self.shared.joint.follow(&snapshot);
        self.counters.forget();
    }

    /// Learns how a try went that ended at `now`. The admin port is shown at once whom it ejected.
    pub(crate) fn record(
        &self,
        subject: Subject<'_>,
        health: Health,
        now: Duration,
        rules: &OutlierDetection,
    ) {
        self.balancer.record_by(subject, health, now, rules);
        if self.balancer.take_news() {
            self.publish();
        }
    }

    fn publish(&self) {
        self.shared
            .views
            .put(self.index, View::of(&self.balancer, &self.upstreams));
    }
}

/// One request or tunnel under way, until it is dropped.
#[derive(Debug)]
pub(crate) struct Admitted(Rc<Cell<u32>>);

impl Drop for Admitted {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}
