//! How many requests the app is given at a time, where a policy asks for that.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use foldhash::HashMap;
use portolan_model::snapshot::{InboundRules, Snapshot};
use portolan_model::traffic::AdaptiveConcurrency;
use portolan_model::{Hop, Reason, Refusal, ServiceKey, WorkloadKey};
use portolan_policy::admission::Admission;
use tokio::time::Instant;

use crate::sessions::Facts;

/// What one worker has found out, by service and service port.
#[derive(Debug)]
pub(super) struct Admissions {
    started: Instant,
    ports: RefCell<HashMap<(ServiceKey, u16), Port>>,
}

type Port = Rc<RefCell<Admission>>;

/// A request that was let in, until it is dropped.
#[derive(Debug)]
pub(super) struct Admitted {
    admission: Port,
    started: Instant,
    begun: Instant,
    answered: bool,
}

impl Admissions {
    pub(super) fn new() -> Self {
        Self {
            started: Instant::now(),
            ports: RefCell::default(),
        }
    }

    /// Lets a request in; `None` where nothing is declared.
    ///
    /// # Errors
    /// [`Reason::Overloaded`] when the app has as many as it can take.
    pub(super) fn enter(
        &self,
        snapshot: &Snapshot,
        workload: &WorkloadKey,
        facts: &Facts,
    ) -> Result<Option<Admitted>, Refusal> {
        let inbound = snapshot.inbound.get(workload);
        let rules = inbound.and_then(|inbound| inbound.rules.get(&facts.service));
        let Some(rule) = rules.and_then(|rules| declared(rules, facts.port)) else {
            return Ok(None);
        };
        let begun = Instant::now();
        let now = begun.saturating_duration_since(self.started);
        let admission = self.of(facts, rule, now);
        admission.borrow_mut().obey(rule);
        if let Err(under_way) = admission.borrow_mut().begin(now) {
            let why = format!("{under_way} requests are under way, and the app is not faster");
            return Err(Refusal::new(Reason::Overloaded, Hop::Inbound, why));
        }
        Ok(Some(Admitted {
            admission,
            started: self.started,
            begun,
            answered: false,
        }))
    }

    fn of(&self, facts: &Facts, rule: AdaptiveConcurrency, now: Duration) -> Port {
        let mut ports = self.ports.borrow_mut();
        let key = (facts.service.clone(), facts.port);
        let port = ports.entry(key);
        Rc::clone(port.or_insert_with(|| Rc::new(RefCell::new(Admission::new(rule, now)))))
    }
}

impl Admitted {
    /// The app answered.
    pub(super) fn answered(mut self) {
        self.answered = true;
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let took = self.answered.then(|| self.begun.elapsed());
        self.admission
            .borrow_mut()
            .end(self.started.elapsed(), took);
    }
}

/// What is declared for a port: its own before what is for all.
fn declared(rules: &InboundRules, port: u16) -> Option<AdaptiveConcurrency> {
    let of = |wanted: u16| {
        let mut rules = rules.admission.iter();
        rules
            .find(|(port, _)| *port == wanted)
            .map(|(_, rule)| *rule)
    };
    of(port).or_else(|| of(0))
}
