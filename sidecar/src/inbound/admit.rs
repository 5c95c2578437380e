//! How many requests the app is given at a time, where a policy asks for that.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use portolan_model::snapshot::{Inbound, Snapshot};
use portolan_model::traffic::AdaptiveConcurrency;
use portolan_model::{Hop, Reason, Refusal, ServiceKey, WorkloadKey};
use portolan_policy::admission::Admission;
use tokio::time::Instant;

use crate::sessions::Facts;

/// What was found out by all workers of the process, by service and service port. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Admissions {
    started: Instant,
    ports: Arc<Mutex<HashMap<(ServiceKey, u16), Port>>>,
}

type Port = Arc<Mutex<Admission>>;

/// A request that was let in, until it is dropped.
#[derive(Debug)]
pub(super) struct Admitted {
    admission: Port,
    started: Instant,
    begun: Instant,
    answered: bool,
}

impl Admissions {
    pub(crate) fn new() -> Self {
        Self {
            started: Instant::now(),
            ports: Arc::default(),
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
        let Some(inbound) = snapshot.inbound.get(workload) else {
            return Ok(None);
        };
        let Some(rule) = declared(inbound, &facts.service, facts.port) else {
            return Ok(None);
        };
        let begun = Instant::now();
        let now = begun.saturating_duration_since(self.started);
        let admission = self.of(inbound, facts, rule, now);
        let begun_or_not = {
            let mut admission = locked(&admission);
            admission.obey(rule);
            admission.begin(now)
        };
        if let Err(under_way) = begun_or_not {
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

    fn of(
        &self,
        inbound: &Inbound,
        facts: &Facts,
        rule: AdaptiveConcurrency,
        now: Duration,
    ) -> Port {
        let mut ports = locked(&self.ports);
        let key = (facts.service.clone(), facts.port);
        if let Some(port) = ports.get(&key) {
            return Arc::clone(port);
        }
        // As many as are declared.
        ports.retain(|(service, port), _| declared(inbound, service, *port).is_some());
        let port = ports.entry(key);
        Arc::clone(port.or_insert_with(|| Arc::new(Mutex::new(Admission::new(rule, now)))))
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
        locked(&self.admission).end(self.started.elapsed(), took);
    }
}

/// What is declared for a port: its own before what is for all.
fn declared(inbound: &Inbound, service: &ServiceKey, port: u16) -> Option<AdaptiveConcurrency> {
    let rules = inbound.rules.get(service)?;
    let of = |wanted: u16| {
        let mut rules = rules.admission.iter();
        rules
            .find(|(port, _)| *port == wanted)
            .map(|(_, rule)| *rule)
    };
    of(port).or_else(|| of(0))
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
