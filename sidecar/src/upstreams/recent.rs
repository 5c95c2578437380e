//! Whom the last requests went to: most go where others went just before, and to describe that place and to
//! find its connections takes longer than to see that it is the same.

use std::cell::{OnceCell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use portolan_model::snapshot::Service;
use portolan_model::{ClusterName, WorkloadKey};

use super::pool::Pool;
use super::target::{Place, Target};

/// How many are remembered. Somebody at random makes room for the next: whoever went to more of them in turn would
/// find none, if the first went first.
const RECENT_MAX: usize = 32;

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
            known.swap_remove(rand::random_range(..RECENT_MAX));
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use portolan_model::snapshot::Vips;
    use portolan_model::{ServiceKey, ServiceKind};

    use super::*;

    fn service() -> Arc<Service> {
        Arc::new(Service {
            key: key(),
            kind: ServiceKind::Virtual,
            ports: Vec::new(),
            vips: Vips::default(),
            imported: true,
            local: None,
            remote: Vec::new(),
            traffic: Default::default(),
        })
    }

    fn key() -> ServiceKey {
        ServiceKey::new("shop".parse().unwrap(), "orders".parse().unwrap())
    }

    fn workload(number: usize) -> WorkloadKey {
        WorkloadKey::new(
            "shop".parse().unwrap(),
            format!("orders-{number}").parse().unwrap(),
        )
    }

    fn endpoint(port: u16, workload: &WorkloadKey) -> Target {
        Target {
            service: key(),
            port,
            place: Place::Endpoint {
                workload: workload.clone(),
                inbound: "10.0.0.1:15443".parse().unwrap(),
                identity: "spiffe://us-east.demo/ns/shop/sa/orders".parse().unwrap(),
                cluster: "us-east".parse().unwrap(),
            },
        }
    }

    fn known(recent: &Recent, service: &Arc<Service>, port: u16, number: usize) -> Rc<Target> {
        let workload = workload(number);
        recent.target(service, port, At::Endpoint(&workload), || {
            endpoint(port, &workload)
        })
    }

    #[test]
    fn a_place_is_described_once_for_each_service_as_it_is_and_each_port() {
        let (recent, orders, changed) = (Recent::default(), service(), service());
        let first = known(&recent, &orders, 80, 1);
        assert!(Rc::ptr_eq(&first, &known(&recent, &orders, 80, 1)));
        for other in [
            known(&recent, &changed, 80, 1),
            known(&recent, &orders, 81, 1),
            known(&recent, &orders, 80, 2),
        ] {
            assert!(!Rc::ptr_eq(&first, &other));
        }
        let west = "us-west".parse().unwrap();
        let place = Place::Cluster {
            cluster: "us-west".parse().unwrap(),
            identities: Vec::new(),
            ready: 1,
        };
        let make = || Target {
            place,
            ..endpoint(80, &workload(1))
        };
        let elsewhere = recent.target(&orders, 80, At::Cluster(&west), make);
        assert_eq!(elsewhere.cluster(), &west);
        recent.forget();
        assert!(!Rc::ptr_eq(&first, &known(&recent, &orders, 80, 1)));
    }

    #[test]
    fn no_more_are_remembered_than_the_bound_and_some_of_many_are() {
        let (recent, orders) = (Recent::default(), service());
        let turn = || -> BTreeSet<*const Target> {
            let all = (0..RECENT_MAX + 4).map(|number| known(&recent, &orders, 80, number));
            // Kept alive, so that no address is used twice.
            all.map(Rc::into_raw).collect()
        };
        let (first, second) = (turn(), turn());
        assert_eq!(recent.0.borrow().len(), RECENT_MAX);
        assert!(
            first.intersection(&second).count() > 0,
            "in turns, most are found again"
        );
    }
}
