//! What is known of one endpoint, service or cluster.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use foldhash::HashMap;
use portolan_model::ClusterName;
use portolan_model::snapshot::{LinkState, Service, Snapshot};
use portolan_model::traffic::Retries;
use portolan_policy::balance::PeakEwma;
use portolan_policy::breaker::Breaker;
use portolan_policy::failover::Regain;
use portolan_policy::outlier::{Outlier, Tally};
use portolan_policy::retry::RetryBudget;

use super::Health;

/// What is known of one endpoint of the own cluster.
#[derive(Debug)]
pub(crate) struct EndpointState {
    pub(super) ewma: RefCell<PeakEwma>,
    pub(super) outlier: RefCell<Outlier>,
    pub(super) ready: Cell<bool>,
    /// When it became ready, if that was seen.
    pub(super) ready_since: Cell<Option<Duration>>,
    /// What it answered since its service's endpoints were compared last.
    pub(super) tally: Cell<Tally>,
    /// Bounds the requests to it in the whole process.
    pub(crate) breaker: Breaker,
}

/// What is known of one service.
#[derive(Debug)]
pub(crate) struct ServiceState {
    pub(super) clusters: RefCell<HashMap<ClusterName, ClusterState>>,
    pub(super) turns: super::pick::Turns,
    /// When its endpoints were compared last.
    pub(super) compared: Cell<Duration>,
    /// Bounds what the process has under way to it.
    pub(crate) breaker: Breaker,
    /// Bounds the process's retries.
    pub(super) budget: Arc<RetryBudget>,
}

/// What is known of a cluster as a backend of a service.
#[derive(Debug)]
pub(super) struct ClusterState {
    pub(super) outlier: Outlier,
    /// How long its answers took.
    pub(super) ewma: PeakEwma,
    pub(super) regain: Regain,
    /// Which part of its share it had when that was asked last.
    pub(super) regained: f64,
    /// Whether the last snapshot said that it cannot serve.
    pub(super) gone: bool,
    /// When it answered last.
    pub(super) answered: Option<Duration>,
}

impl ClusterState {
    pub(super) fn new(now: Duration) -> Self {
        Self {
            outlier: Outlier::default(),
            ewma: PeakEwma::new(now),
            regain: Regain::default(),
            regained: 1.0,
            gone: false,
            answered: None,
        }
    }
}

impl EndpointState {
    pub(super) fn count(&self, health: Health) {
        let mut tally = self.tally.get();
        tally.good += u32::from(health == Health::Good);
        tally.all += u32::from(health != Health::Unknown);
        self.tally.set(tally);
    }

    /// It has not answered for so long: it takes at least as long as this.
    pub(crate) fn waited(&self, now: Duration, so_far: Duration) {
        self.ewma.borrow_mut().observe(now, so_far);
    }

    /// What one more call would cost.
    pub(crate) fn cost(&self, now: Duration) -> f64 {
        self.ewma.borrow().cost(now)
    }

    /// Calls under way.
    pub(crate) fn outstanding(&self) -> u32 {
        self.ewma.borrow().outstanding()
    }

    /// For how long it is still ejected, if it is.
    pub(crate) fn ejected_for(&self, now: Duration) -> Option<Duration> {
        let until = self.outlier.borrow().ejected_until(now)?;
        Some(until.saturating_sub(now))
    }

    /// A call begins; it ends when the guard is dropped.
    pub(crate) fn begin(self: Rc<Self>) -> UnderWay {
        self.ewma.borrow_mut().begin();
        UnderWay { state: self }
    }
}

impl ServiceState {
    /// Readmits clusters that were gone and are said to be back.
    pub(super) fn follow(&self, service: &Service, snapshot: &Snapshot, now: Duration) {
        for (cluster, state) in &mut *self.clusters.borrow_mut() {
            let peer = snapshot.mesh.as_ref().and_then(|mesh| mesh.peer(cluster));
            let linked = peer.is_some_and(|peer| peer.link != LinkState::Down);
            let mut backends = service.remote.iter();
            let serving = backends.any(|it| &it.cluster == cluster && it.ready() > 0);
            let gone = !(linked && serving);
            if std::mem::replace(&mut state.gone, gone) && !gone {
                state.outlier.readmit(now);
            }
        }
    }

    /// A request (not a retry) is sent.
    pub(crate) fn request(&self, now: Duration) {
        self.budget.request(now);
    }

    /// Whether one more retry fits into the budget.
    pub(crate) fn try_retry(&self, now: Duration, policy: &Retries) -> bool {
        self.budget.try_retry(now, policy)
    }
}

/// One call to an endpoint, from its sending to the end of its answer.
#[derive(Debug)]
pub(crate) struct UnderWay {
    state: Rc<EndpointState>,
}

impl UnderWay {
    /// The answer's head came, after `rtt`.
    pub(crate) fn answered(&self, now: Duration, rtt: Duration) {
        self.state.ewma.borrow_mut().observe(now, rtt);
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.state.ewma.borrow_mut().abandon();
    }
}
