//! The record of one request or tunnel: counted and logged when it is over.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use http::{HeaderMap, Method};
use portolan_model::{Hop, Reason, Refusal, ServiceKey};
use portolan_policy::breaker::Permit;
use portolan_policy::rules::Name;
use tokio::time::Instant;

use crate::access::{self, Entry};
use crate::balancer::{Health, UnderWay};
use crate::http::{Busy, Replay, Stalls, Watch};
use crate::metrics::{Counted, class};
use crate::upstreams::{Lease, Target};
use crate::worker::{Admitted, Worker};

/// What is recorded. Dropping it writes it down.
pub(super) struct Exchange {
    worker: Rc<Worker>,
    started: Instant,
    /// When the answer's head was there.
    head_after: Option<Duration>,
    pub(super) entry: Entry,
    /// Whom it was tried on last, in the mesh.
    target: Option<Rc<Target>>,
    /// Held as long as it lasts.
    pub(super) admitted: Option<Admitted>,
    /// The app's connection is in use.
    pub(super) busy: Option<Busy>,
    /// Others record what it became.
    left_to_requests: bool,
}

impl Exchange {
    pub(super) fn begin(worker: &Rc<Worker>, method: &Method, path: &str) -> Self {
        Self {
            worker: Rc::clone(worker),
            started: Instant::now(),
            head_after: None,
            entry: Entry::new(method, path),
            target: None,
            admitted: None,
            busy: None,
            left_to_requests: false,
        }
    }

    /// A captured connection turns out to carry requests, each of which has a record of its own.
    pub(super) fn leave_to_requests(mut self) {
        self.left_to_requests = true;
    }

    /// When it began.
    pub(super) fn started(&self) -> Instant {
        self.started
    }

    /// Where bodies that flow are watched.
    pub(super) fn stalls(&self) -> Rc<Stalls> {
        Rc::clone(&self.worker.stalls)
    }

    /// The route was found.
    pub(super) fn routed(&mut self, service: &ServiceKey, route: &Name) {
        self.entry.service = Some(service.clone());
        self.entry.route = route.clone();
    }

    /// One more try goes there.
    pub(super) fn trying(&mut self, target: &Rc<Target>) {
        self.entry.cluster = Some(target.cluster().clone());
        self.target = Some(Rc::clone(target));
        self.entry.tries = self.entry.tries.saturating_add(1);
    }

    /// Of several tries under way this one counts.
    pub(super) fn answered_by(&mut self, target: &Rc<Target>) {
        self.entry.cluster = Some(target.cluster().clone());
        self.target = Some(Rc::clone(target));
    }

    /// The endpoint's or gateway's address is known.
    pub(super) fn reached_by(&mut self, via: SocketAddr) {
        self.entry.via = Some(via);
    }

    /// It is refused, here or by a later hop.
    pub(super) fn refused(&mut self, reason: Reason, hop: Hop) {
        self.entry.refused = Some((reason, hop));
    }

    /// The answer's head goes to the app, now.
    pub(super) fn answered(&mut self, status: u16) -> Instant {
        let now = Instant::now();
        self.entry.status = status;
        self.head_after = Some(now - self.started);
        now
    }

    /// It is refused here, with that status.
    pub(super) fn refuse(&mut self, refusal: &Refusal, status: u16) {
        tracing::debug!(%refusal, host = self.entry.host, "refused");
        self.refused(refusal.reason, refusal.hop);
        self.answered(status);
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if self.left_to_requests {
            return;
        }
        if access::enabled() {
            if let Some(target) = &self.target {
                self.entry.upstream = target.to_string();
            }
            let took = self.started.elapsed();
            access::write(&self.entry, &self.worker.shared.caller, took);
        }
        let entry = &mut self.entry;
        let place = (entry.service.take(), entry.cluster.take());
        let counted = Counted {
            class: class(entry.status),
            reason: entry.refused.map(|(reason, _)| reason),
        };
        let head_after = self.head_after.unwrap_or_else(|| self.started.elapsed());
        let retries = u64::from(entry.tries.saturating_sub(1));
        let counters = &self.worker.counters;
        counters.request(place, counted, head_after, retries);
    }
}

/// An answer on its way to the app, with everything that ends with it.
pub(super) struct Flow {
    pub(super) exchange: Exchange,
    pub(super) replay: Replay,
    /// Who answers; `None` outside the mesh.
    pub(super) target: Option<Rc<Target>>,
    pub(super) held: Held,
}

/// What is in use until an answer's body ended.
#[derive(Default)]
pub(super) struct Held {
    pub(super) lease: Option<Lease>,
    pub(super) under_way: Option<UnderWay>,
    pub(super) permit: Option<Permit>,
    /// Where the requests to one endpoint are bounded.
    pub(super) _entered: Option<Permit>,
}

impl Watch for Flow {
    fn data(&mut self, bytes: usize) {
        self.exchange.entry.sent += bytes as u64;
    }

    fn trailers(&mut self, trailers: &HeaderMap) {
        self.exchange.entry.grpc_status = grpc_status(trailers);
    }

    fn ended(&mut self) {
        self.exchange.entry.complete = true;
    }

    fn cut(&mut self, reason: Reason) {
        self.exchange.refused(reason, Hop::Outbound);
        if let (Some(target), Reason::Reset) = (&self.target, reason) {
            let balancer = &self.exchange.worker.balancer;
            balancer.record(target.subject(), Health::Failed);
        }
    }

    fn request_active(&self) -> Instant {
        self.replay.active()
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        self.exchange.entry.received = self.replay.received();
        // In this order, so that who looks at the record sees what it held as free.
        self.held = Held::default();
    }
}

/// gRPC's status, in trailers, or in headers when there is nothing else.
pub(super) fn grpc_status(headers: &HeaderMap) -> Option<u32> {
    headers.get("grpc-status")?.to_str().ok()?.parse().ok()
}
