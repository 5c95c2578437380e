//! One HTTP/2 connection to another sidecar, and one request's part of it.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::time::Duration;

use http::{Request, Response};
use portolan_model::{Hop, Reason, Refusal};
use portolan_policy::balance::PeakEwma;
use portolan_policy::breaker::Permit;
use portolan_policy::retry::Outcome;
use portolan_runtime::workers::chain;
use tokio::task::spawn_local;
use tokio::time::Instant;

use super::dial::{DialError, Dialled, Passable};
use super::pool::Pool;
use super::pulse::{Heard, Pulse};
use crate::http::{IncomingBody, OutBody, Reach, Requests, SendError, http2_handshake};
use crate::metrics::Metrics;

/// A connection.
pub(super) struct Connection {
    requests: Requests,
    via: SocketAddr,
    /// Tells it apart from others, at random.
    number: u64,
    opened: Instant,
    idle_since: Cell<Instant>,
    in_flight: Cell<u32>,
    ewma: RefCell<PeakEwma>,
    retired: Cell<bool>,
    pulse: Rc<Pulse>,
    /// Its silence was judged.
    judged: Cell<bool>,
    passable: Passable,
    metrics: Metrics,
    _counted: Permit,
}

/// What tells that a connection is dead.
pub(super) struct Signs {
    /// How long nothing may be heard while requests are under way.
    pub(super) silent_after: Duration,
    /// Whether its gateway was found dead.
    pub(super) passable: Passable,
}

/// Why a request got no answer on a connection.
#[derive(Debug)]
pub(crate) struct SendFailure {
    /// The failure, as the retry policy knows it.
    pub(crate) outcome: Outcome,
    /// The failure, as the client is told.
    pub(crate) refusal: Refusal,
}

impl Connection {
    /// Speaks HTTP/2 on a fresh connection, which is dead when these signs say so.
    pub(super) async fn open(
        dialled: Dialled,
        now: Duration,
        signs: Signs,
        metrics: Metrics,
        counted: Permit,
        reach: Reach,
    ) -> Result<Rc<Self>, DialError> {
        let via = dialled.via;
        let pulse = Pulse::new();
        let stream = Heard::new(dialled.stream, Rc::clone(&pulse));
        let (requests, driver) = http2_handshake(stream, reach).await.map_err(|error| {
            DialError::new(Reason::ConnectFailed, format!("{via}: {}", chain(&error)))
        })?;
        spawn_local(async move {
            if let Err(error) = driver.await {
                tracing::debug!(%via, error = chain(&error), "an upstream connection ended");
            }
        });
        metrics.upstreams.inc();
        let connection = Rc::new(Self {
            requests,
            via,
            number: rand::random(),
            opened: Instant::now(),
            idle_since: Cell::new(Instant::now()),
            in_flight: Cell::new(0),
            ewma: RefCell::new(PeakEwma::new(now)),
            retired: Cell::new(false),
            pulse: Rc::clone(&pulse),
            judged: Cell::new(false),
            passable: signs.passable,
            metrics,
            _counted: counted,
        });
        let watched = Rc::downgrade(&connection);
        spawn_local(async move {
            let busy = || Some(watched.upgrade()?.in_flight.get() > 0);
            let ask = || watched.upgrade().iter().for_each(|it| it.requests.ping());
            pulse.watch(signs.silent_after, busy, ask).await;
        });
        Ok(connection)
    }

    /// The endpoint's or gateway's address.
    pub(super) fn via(&self) -> SocketAddr {
        self.via
    }

    /// For how long nothing was heard on it.
    pub(super) fn silent(&self) -> Duration {
        self.pulse.heard().elapsed()
    }

    /// Tells it apart from others, at random.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// Takes it out of use; requests under way may end.
    pub(super) fn retire(&self) {
        self.retired.set(true);
    }

    /// Whether it takes requests.
    pub(super) fn usable(&self) -> bool {
        !self.retired.get() && !self.pulse.dead() && self.passable.still() && self.requests.open()
    }

    pub(super) fn in_flight(&self) -> u32 {
        self.in_flight.get()
    }

    pub(super) fn cost(&self, now: Duration) -> f64 {
        self.ewma.borrow().cost(now)
    }

    pub(super) fn age(&self) -> Duration {
        self.opened.elapsed()
    }

    /// For how long no request was under way.
    pub(super) fn idle(&self) -> Duration {
        match self.in_flight.get() {
            0 => self.idle_since.get().elapsed(),
            _ => Duration::ZERO,
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.metrics.upstreams.dec();
    }
}

/// One request's part of a connection, until it is dropped.
pub(crate) struct Lease {
    connection: Rc<Connection>,
    pool: Weak<Pool>,
}

impl Lease {
    pub(super) fn new(connection: Rc<Connection>, pool: Weak<Pool>) -> Self {
        connection.in_flight.set(connection.in_flight.get() + 1);
        connection.ewma.borrow_mut().begin();
        connection.pulse.begin();
        Self { connection, pool }
    }

    /// The endpoint's or gateway's address.
    pub(crate) fn via(&self) -> SocketAddr {
        self.connection.via
    }

    /// Sends the request and waits for the answer's head.
    ///
    /// # Errors
    /// Tells apart whether the request may have been processed.
    pub(crate) async fn send(
        &self,
        request: Request<OutBody>,
    ) -> Result<Response<IncomingBody>, SendFailure> {
        let sent = self.connection.requests.send(request).await;
        sent.map_err(|error| self.failure(&error))
    }

    /// The answer's head came, after `rtt`.
    pub(crate) fn answered(&self, now: Duration, rtt: Duration) {
        self.connection.ewma.borrow_mut().observe(now, rtt);
        if let Some(pool) = self.pool.upgrade() {
            pool.answered(self.connection.via);
        }
    }

    /// Takes the connection out of use, because whoever it leads to cannot serve.
    pub(crate) fn retire(&self) {
        self.connection.retire();
    }

    fn failure(&self, error: &SendError) -> SendFailure {
        let outcome = if error.unprocessed() {
            self.retire();
            Outcome::RefusedStream
        } else if self.connection.pulse.dead() {
            let first = !self.connection.judged.replace(true);
            if let Some(pool) = self.pool.upgrade().filter(|_| first) {
                pool.silent(&self.connection);
            }
            Outcome::Silent
        } else {
            Outcome::ResetBeforeResponse
        };
        let why = format!("{}: {}", self.connection.via, chain(error));
        SendFailure {
            outcome,
            refusal: Refusal::new(Reason::Reset, Hop::Outbound, why),
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let connection = &self.connection;
        let left = connection.in_flight.get().saturating_sub(1);
        connection.in_flight.set(left);
        if left == 0 {
            connection.idle_since.set(Instant::now());
        }
        connection.ewma.borrow_mut().abandon();
        if let Some(pool) = self.pool.upgrade() {
            pool.freed();
        }
    }
}
