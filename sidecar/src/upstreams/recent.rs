//! Whom the last requests went to: most go where others went just before, and to describe that place and to
//! find its connections takes longer than to see that it is the same.

use std::cell::{OnceCell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use portolan_model::snapshot::Service;
use portolan_model::{ClusterName, WorkloadKey};

use super::pool::Pool;
use super::target::{Place, Target};

/// How many are remembered.
const RECENT_MAX: usize = 16;

/// A place of a service, as a snapshot knows it.
#[derive(Debug, Clone, Copy)]
pub(crate) enum At<'a> {
    Endpoint(&'a WorkloadKey),
    Cluster(&'a ClusterName),
}

/// The last targets, and the connections to them. Whoever takes connections out of use must forget them here.
#[derive(Default)]
pub(crate) struct Recent(RefCell<Vec<Known>>);

struct Known {
    /// As long as a service is the same object, so are its endpoints.
    service: Arc<Service>,
    target: Rc<Target>,
    pool: OnceCell<Rc<Pool>>,
}

impl Recent {
    /// The target at a place, made if it is not remembered.
    pub(crate) fn target(
        &self,
        service: &Arc<Service>,
        port: u16,
        at: At<'_>,
        make: impl FnOnce() -> Target,
    ) -> Rc<Target> {
        let mut known = self.0.borrow_mut();
        let found = known.iter().find(|it| {
            Arc::ptr_eq(&it.service, service) && it.target.port == port && at.is(&it.target.place)
        });
        if let Some(found) = found {
            return Rc::clone(&found.target);
        }
        let target = Rc::new(make());
        if known.len() == RECENT_MAX {
            known.clear();
        }
        known.push(Known {
            service: Arc::clone(service),
            target: Rc::clone(&target),
            pool: OnceCell::new(),
        });
        target
    }

    /// The connections to a target, looked for if they are not remembered.
    pub(super) fn pool(&self, target: &Rc<Target>, look: impl FnOnce() -> Rc<Pool>) -> Rc<Pool> {
        let known = self.0.borrow();
        match known.iter().find(|it| Rc::ptr_eq(&it.target, target)) {
            Some(known) => Rc::clone(known.pool.get_or_init(look)),
            None => look(),
        }
    }

    /// Connections may have been taken out of use.
    pub(super) fn forget(&self) {
        self.0.borrow_mut().clear();
    }
}

impl At<'_> {
    fn is(&self, place: &Place) -> bool {
        match (self, place) {
            (Self::Endpoint(at), Place::Endpoint { workload, .. }) => *at == workload,
            (Self::Cluster(at), Place::Cluster { cluster, .. }) => *at == cluster,
            (Self::Endpoint(_), Place::Cluster { .. })
            | (Self::Cluster(_), Place::Endpoint { .. }) => false,
        }
    }
}
