//! What a declared route makes of an answer's head.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use http::{HeaderMap, header};
use portolan_model::route::{BackendRef, Filter, Route as Declared};
use portolan_policy::filters;
use portolan_policy::matching::Matched;
use portolan_policy::session::{self, Session};

use crate::upstreams::{Place, Target};

/// What happens to an answer.
#[derive(Default)]
pub(super) struct After {
    /// The rule that decided.
    pub(super) decided: Option<(Arc<Declared>, usize)>,
    /// Its backend, once it is chosen.
    pub(super) backend: Option<usize>,
    /// Headers for the browser.
    pub(super) marks: HeaderMap,
    /// Who had the client's earlier requests.
    pub(super) session: Option<Session>,
}

impl After {
    /// Changes an answer's headers as the rule says. `target`: who answers; `None` for this proxy itself.
    pub(super) fn apply(&self, target: Option<&Rc<Target>>, headers: &mut HeaderMap) {
        let Some((route, index)) = &self.decided else {
            return;
        };
        let Some(rule) = route.rules.get(*index) else {
            return;
        };
        let backend = self.backend.and_then(|backend| rule.backends.get(backend));
        let of_backend = backend.into_iter().flat_map(|backend| &backend.filters);
        for filter in rule.filters.iter().chain(of_backend) {
            if let Filter::ResponseHeaders(changes) = filter {
                filters::change_headers(changes, headers);
            }
        }
        for (name, value) in &self.marks {
            if name == header::VARY {
                headers.append(name, value.clone());
            } else {
                headers.insert(name, value.clone());
            }
        }
        let place = target.map(|target| place(target));
        let (Some(persistence), Some(place)) = (&rule.session, place) else {
            return;
        };
        let Some(BackendRef::Service(to)) = backend.map(|backend| &backend.to) else {
            return;
        };
        if self.session.as_ref() == Some(&place) {
            return;
        }
        let matched = Matched {
            route,
            index: *index,
            rule,
            by: None,
        };
        if let Some((name, value)) = session::issue(persistence, &matched, to, &place, now_s()) {
            headers.append(name, value);
        }
    }
}

/// What a session with whoever answers sticks to.
fn place(target: &Target) -> Session {
    match &target.place {
        Place::Endpoint { workload, .. } => Session::Endpoint(workload.clone()),
        Place::Cluster { cluster, .. } => Session::Cluster(cluster.clone()),
    }
}

/// Seconds since 1970.
pub(super) fn now_s() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| now.as_secs())
}
