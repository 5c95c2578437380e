//! Connections to other sidecars: whom to dial, how, and which connection takes the next request.

mod connection;
mod dial;
mod passage;
mod pool;
mod pulse;
mod recent;
mod target;

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use foldhash::HashMap;
use portolan_model::snapshot::{Snapshot, Trust};
use smallvec::SmallVec;

pub(crate) use connection::{Lease, SendFailure};
pub(crate) use dial::{DialError, Dialler};
pub(crate) use pool::{Pool, Wants};
pub(crate) use recent::{At, Recent};
pub(crate) use target::{Place, Target, TargetKey};

use crate::balancer::Balancer;
use crate::worker::Shared;

/// The connections of one worker.
pub(crate) struct Upstreams {
    dialler: Rc<Dialler>,
    pools: RefCell<HashMap<TargetKey, Rc<Pool>>>,
    pub(crate) recent: Recent,
    judged_by: RefCell<Option<Arc<Trust>>>,
}

impl Upstreams {
    pub(crate) fn new(shared: &Shared, balancer: Rc<Balancer>) -> Self {
        Self {
            dialler: Rc::new(Dialler::new(shared, balancer)),
            pools: RefCell::default(),
            recent: Recent::default(),
            judged_by: RefCell::default(),
        }
    }

    /// The connections to a target. A target that moved, or answers under other identities, gets
    /// new ones.
    pub(crate) fn pool(&self, target: &Rc<Target>) -> Rc<Pool> {
        self.recent.pool(target, || self.pool_of(target))
    }

    fn pool_of(&self, target: &Target) -> Rc<Pool> {
        let mut pools = self.pools.borrow_mut();
        let key = target.key();
        if let Some(pool) = pools.get(&key)
            && pool.target().same_way(target)
        {
            pool.follow(target);
            return Rc::clone(pool);
        }
        let pool = Rc::new(Pool::new(target.clone(), Rc::clone(&self.dialler)));
        pools.insert(key, Rc::clone(&pool));
        pool
    }

    /// Who dials connections that are used once.
    pub(crate) fn dialler(&self) -> &Dialler {
        &self.dialler
    }

    /// A new snapshot: connections to whom it no longer names, or through gateways that it no longer
    /// names (they are about to stop), take no more requests; if it trusts
    /// other roots, that is everybody, since they were judged when they began.
    pub(crate) fn follow(&self, snapshot: &Snapshot) {
        let trust = snapshot.trust.clone();
        let judged_by = self.judged_by.replace(trust.clone());
        self.recent.forget();
        let mut pools = self.pools.borrow_mut();
        if judged_by.is_some() && judged_by != trust {
            pools.clear();
        }
        pools.retain(|_, pool| pool.target().is_in(snapshot));
        let gateways = snapshot.mesh.iter().flat_map(|mesh| &mesh.gateways);
        let gateways: SmallVec<[SocketAddr; 4]> = gateways.map(|gateway| gateway.tcp).collect();
        // With none left there is nothing better than what stands.
        if !gateways.is_empty() {
            pools.values().for_each(|pool| pool.keep_to(&gateways));
        }
    }

    /// Closes what is idle or old.
    pub(crate) fn reap(&self) {
        self.recent.forget();
        self.pools.borrow_mut().retain(|_, pool| pool.reap());
    }

    /// Calls `each` with every pool.
    pub(crate) fn for_pools(&self, mut each: impl FnMut(&Pool)) {
        for pool in self.pools.borrow().values() {
            each(pool);
        }
    }
}
