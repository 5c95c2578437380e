//! The connections to one target.
//!
//! In the cluster many requests share a connection, since that shares records and system calls.
//! Between clusters few do: each connection is a QUIC stream of its own, and what one lost packet
//! delays should be little. Several connections also reach several endpoints there, since the
//! gateway at the other end picks one for each; requests then follow the fastest.

use std::cell::{Cell, LazyCell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use portolan_model::Reason;
use portolan_policy::balance::{hash, pick_two};
use portolan_policy::blame::{self, Silence};
use portolan_policy::breaker::{Bound, Breaker};
use portolan_transport::mtls::{ALPN_H2, ClientConfig};
use smallvec::SmallVec;
use tokio::sync::Notify;
use tokio::task::spawn_local;
use tokio::time::{Instant, timeout};

use super::connection::{Connection, Lease, Signs};
use super::dial::{DialError, Dialler};
use super::target::{Place, Target};
use crate::balancer::{Health, Subject};
use crate::http::CLIENT_STREAMS;

/// Requests under way on one connection within the cluster.
const OWN_STREAMS: u32 = CLIENT_STREAMS;
/// Requests under way on one connection to another cluster, while more connections may be opened.
const REMOTE_STREAMS: u32 = 4;
/// Connections to one endpoint.
const OWN_CONNECTIONS: usize = 4;
/// Connections to one other cluster, for one service port.
const REMOTE_CONNECTIONS: usize = 64;
/// Connections to another cluster that are opened as soon as there is traffic, if there are so many
/// endpoints.
const REMOTE_SPREAD: usize = 3;
/// The pause before more are opened, after one could not be.
const SPREAD_PAUSE: Duration = Duration::from_secs(1);
/// A connection without requests is closed after so long.
const IDLE_MAX: Duration = Duration::from_secs(90);
/// The age at which a connection takes no more requests, so that new ones follow the endpoints.
const OWN_AGE: Duration = Duration::from_secs(45 * 60);
const REMOTE_AGE: Duration = Duration::from_secs(5 * 60);

/// The connections to one target.
pub(crate) struct Pool {
    target: Target,
    dialler: Rc<Dialler>,
    config: Arc<ClientConfig>,
    connections: RefCell<Vec<Rc<Connection>>>,
    /// How many endpoints the connections could lead to.
    endpoints: Cell<u32>,
    dialling: Cell<usize>,
    waiting: Cell<usize>,
    /// How many dials ended, and how the last failed one did.
    dials: Cell<u64>,
    failed: RefCell<Option<(u64, DialError)>>,
    failed_at: Cell<Option<Instant>>,
    /// The age at which a connection takes no more requests; `None`: the pool's own choice.
    age_max: Cell<Option<Duration>>,
    changed: Notify,
}

/// What a request wants of a pool.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wants {
    /// Requests with the same key go on the same connection, as long as it stands and has room.
    pub(crate) key: Option<u64>,
    /// How long it waits for a connection.
    pub(crate) patience: Duration,
    /// How long it waits for room on a connection that stands.
    pub(crate) queue: Option<Duration>,
    /// How long a dial itself may take, since others may wait for it.
    pub(crate) limit: Duration,
}

impl Pool {
    pub(super) fn new(target: Target, dialler: Rc<Dialler>) -> Self {
        Self {
            config: dialler.config(&target, ALPN_H2),
            endpoints: Cell::new(target.endpoints()),
            target,
            dialler,
            connections: RefCell::default(),
            dialling: Cell::new(0),
            waiting: Cell::new(0),
            dials: Cell::new(0),
            failed: RefCell::default(),
            failed_at: Cell::new(None),
            age_max: Cell::new(None),
            changed: Notify::new(),
        }
    }

    pub(crate) fn target(&self) -> &Target {
        &self.target
    }

    /// The target as it is now: endpoints come and go in another cluster.
    pub(super) fn follow(&self, target: &Target) {
        self.endpoints.set(target.endpoints());
    }

    /// Live connections, and requests under way on them.
    pub(crate) fn load(&self) -> (usize, u32) {
        let connections = self.connections.borrow();
        let in_flight = connections
            .iter()
            .map(|connection| connection.in_flight())
            .sum();
        (connections.len(), in_flight)
    }

    /// The age at which its connections take no more requests from now on.
    pub(crate) fn age_max(&self, age: Option<Duration>) {
        self.age_max.set(age);
    }

    /// A connection for one request: a live one that has room, or else a new one.
    ///
    /// # Errors
    /// When no connection could be had: nothing was sent.
    pub(crate) async fn lease(
        self: &Rc<Self>,
        breaker: &Breaker,
        wants: Wants,
    ) -> Result<Lease, DialError> {
        if let Some(lease) = self.take(wants.key) {
            if self.thin() {
                self.dial(breaker, wants.limit);
            }
            return Ok(lease);
        }
        let _pending = breaker.try_acquire(Bound::Pending)?;
        let patience = match wants.queue {
            Some(queue) => wants.patience.min(queue),
            None => wants.patience,
        };
        let waited = timeout(patience, self.wait(breaker, wants)).await;
        waited.unwrap_or_else(|_| {
            // It was not given the time in which it would have had to answer.
            if patience < wants.patience {
                let why = format!("{}: no room within {patience:?}", self.target);
                return Err(DialError::new(Reason::Overloaded, why));
            }
            let reason = Reason::ConnectFailed;
            self.dialler.blame(&self.target, reason, patience);
            let why = format!("{}: no connection within {patience:?}", self.target);
            Err(DialError::new(reason, why))
        })
    }

    async fn wait(self: &Rc<Self>, breaker: &Breaker, wants: Wants) -> Result<Lease, DialError> {
        let since = self.dials.get();
        let limit = wants.limit;
        let _waiting = Waiting::new(self);
        loop {
            if let Some(lease) = self.take(wants.key) {
                return Ok(lease);
            }
            let failed = self.failed.borrow().clone();
            let failed = failed.filter(|(at, _)| *at > since);
            if let Some((_, error)) = &failed
                && !self.can_wait_for(error)
            {
                return Err(error.clone());
            }
            let wanted = self.waiting.get() > self.dialling.get() * self.streams() as usize;
            if failed.is_none() && wanted && self.may_grow() {
                self.dial(breaker, limit);
            }
            self.changed.notified().await;
        }
    }

    /// Whether there is something to wait for although no more connections are allowed: those that stand.
    fn can_wait_for(&self, error: &DialError) -> bool {
        error.0.reason == Reason::Overloaded && !self.connections.borrow().is_empty()
    }

    /// A connection that has room.
    fn take(self: &Rc<Self>, key: Option<u64>) -> Option<Lease> {
        let mut connections = self.connections.borrow_mut();
        connections.retain(|connection| connection.usable());
        let now = LazyCell::new(|| self.dialler.balancer().now());
        let within = |limit: u32| -> SmallVec<[&Rc<Connection>; 4]> {
            let free = connections.iter().filter(|it| it.in_flight() < limit);
            free.collect()
        };
        let mut free = within(self.streams());
        if free.is_empty() && connections.len() >= self.connections_max() {
            free = within(OWN_STREAMS);
        }
        let random = (rand::random(), rand::random());
        let chosen = match key {
            // Rendezvous: a key moves only when its own connection goes, or a new one draws it.
            Some(key) if !self.target.own() => {
                let drawn = |it: &&&Rc<Connection>| hash(&(it.number() ^ key).to_le_bytes());
                free.iter().max_by_key(drawn)?
            }
            Some(_) | None => pick_two(&free, |connection| connection.cost(*now), |_| 1, random)?,
        };
        Some(Lease::new(Rc::clone(chosen), Rc::downgrade(self)))
    }

    /// Opens a connection in the background, for whoever waits when it stands.
    fn dial(self: &Rc<Self>, breaker: &Breaker, limit: Duration) {
        self.dialling.set(self.dialling.get() + 1);
        let (pool, breaker) = (Rc::clone(self), breaker.clone());
        spawn_local(async move {
            let opened = pool.open(&breaker, limit).await;
            pool.dialling.set(pool.dialling.get().saturating_sub(1));
            pool.dials.set(pool.dials.get() + 1);
            match opened {
                Ok(connection) => pool.connections.borrow_mut().push(connection),
                Err(error) => {
                    pool.failed.replace(Some((pool.dials.get(), error)));
                    pool.failed_at.set(Some(Instant::now()));
                }
            }
            pool.changed.notify_waiters();
        });
    }

    async fn open(&self, breaker: &Breaker, limit: Duration) -> Result<Rc<Connection>, DialError> {
        let counted = breaker.try_acquire(Bound::Connections)?;
        let dialled = self.dialler.dial(&self.target, &self.config, limit).await?;
        let now = self.dialler.balancer().now();
        let silent_after = blame::silent_after(match &self.target.place {
            Place::Endpoint { .. } => None,
            Place::Cluster { cluster, .. } => self.dialler.rtt(cluster),
        });
        let signs = Signs {
            silent_after,
            passable: self.dialler.passable(dialled.via),
        };
        let metrics = self.dialler.metrics().clone();
        let reach = self.target.reach();
        Connection::open(dialled, now, signs, metrics, counted, reach).await
    }

    /// A request ended.
    pub(super) fn freed(&self) {
        self.changed.notify_waiters();
    }

    /// These gateways are left: connections through others end when their requests did.
    pub(super) fn keep_to(&self, gateways: &[SocketAddr]) {
        if !self.target.own() {
            let mut connections = self.connections.borrow_mut();
            connections.retain(|it| gateways.contains(&it.via()));
        }
    }

    /// A connection fell silent. Whoever is to blame gets no more requests on others either.
    pub(super) fn silent(&self, dead: &Connection) {
        let mut connections = self.connections.borrow_mut();
        let via = dead.via();
        let (service, cluster) = match self.target.subject() {
            Subject::Cluster(service, cluster) => (service, cluster),
            Subject::Endpoint(_) | Subject::Gateway(_) => {
                connections.retain(|it| it.via() != via);
                return;
            }
        };
        let balancer = self.dialler.balancer();
        let blamed = blame::silence(
            dead.silent(),
            balancer.gateway_answered(via),
            balancer.cluster_answered(service, cluster),
        );
        tracing::info!(target = %self.target, %via, ?blamed, "a connection fell silent");
        match blamed {
            Silence::Gateway => self.dialler.gateway_silent(via),
            Silence::Cluster => balancer.record(self.target.subject(), Health::Failed),
            Silence::Connection => {}
        }
    }

    /// The gateway or endpoint at this address answered.
    pub(super) fn answered(&self, via: SocketAddr) {
        if !self.target.own() {
            self.dialler.balancer().gateway_answers(via);
        }
    }

    /// Closes what is idle or old. Whether there is anything left to keep.
    pub(super) fn reap(&self) -> bool {
        let age_max = match self.age_max.get() {
            Some(age_max) => age_max,
            None if self.target.own() => OWN_AGE,
            None => REMOTE_AGE,
        };
        let mut connections = self.connections.borrow_mut();
        connections.retain(|it| it.usable() && it.idle() < IDLE_MAX && it.age() < age_max);
        !connections.is_empty() || self.dialling.get() > 0 || self.waiting.get() > 0
    }

    /// Whether traffic should be spread over more connections than there are.
    fn thin(&self) -> bool {
        let wanted = (self.endpoints.get() as usize).min(REMOTE_SPREAD);
        let failed = self
            .failed_at
            .get()
            .is_some_and(|at| at.elapsed() < SPREAD_PAUSE);
        !failed && self.connections.borrow().len() + self.dialling.get() < wanted
    }

    fn may_grow(&self) -> bool {
        self.connections.borrow().len() + self.dialling.get() < self.connections_max()
    }

    fn streams(&self) -> u32 {
        if self.target.own() {
            OWN_STREAMS
        } else {
            REMOTE_STREAMS
        }
    }

    fn connections_max(&self) -> usize {
        if self.target.own() {
            OWN_CONNECTIONS
        } else {
            REMOTE_CONNECTIONS
        }
    }
}

/// Counts one request that waits for a connection.
struct Waiting<'a>(&'a Pool);

impl<'a> Waiting<'a> {
    fn new(pool: &'a Pool) -> Self {
        pool.waiting.set(pool.waiting.get() + 1);
        Self(pool)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.set(self.0.waiting.get().saturating_sub(1));
    }
}
