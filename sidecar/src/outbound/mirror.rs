//! Copies of requests: sent after them, bounded in number and size, their answers ignored.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::request;
use http_body_util::BodyExt;
use portolan_model::snapshot::Snapshot;
use portolan_policy::route::Route;
use tokio::task::spawn_local;
use tokio::time::timeout;

use super::call;
use super::exchange::Exchange;
use crate::http::Replay;
use crate::worker::Worker;

/// The most copies under way in one worker; there are no more then.
const COPIES_MAX: u32 = 256;
/// How long a copy may be under way.
const COPY_MAX: Duration = Duration::from_secs(30);

/// Copies under way.
#[derive(Debug, Default)]
pub(crate) struct Copies(Rc<Cell<u32>>);

/// One copy under way, until it is dropped.
struct UnderWay(Rc<Cell<u32>>);

impl Copies {
    fn begin(&self) -> Option<UnderWay> {
        let count = self.0.get();
        (count < COPIES_MAX).then(|| {
            self.0.set(count + 1);
            UnderWay(Rc::clone(&self.0))
        })
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}

/// Copies of one request that are to be sent.
pub(super) struct Wanted {
    snapshot: Arc<Snapshot>,
    routes: Vec<Route>,
    head: request::Parts,
}

impl Wanted {
    /// `None` where nothing is mirrored, as for requests that change protocols.
    pub(super) fn of(
        snapshot: &Arc<Snapshot>,
        routes: Vec<Route>,
        head: &request::Parts,
        upgrades: bool,
    ) -> Option<Self> {
        if routes.is_empty() || upgrades {
            return None;
        }
        let mut head = head.clone();
        head.extensions.clear();
        Some(Self {
            snapshot: Arc::clone(snapshot),
            routes,
            head,
        })
    }

    /// Sends the copies if the request's body is whole and was kept; gives them back if it is not yet.
    pub(super) fn send(self, worker: &Rc<Worker>, replay: &Replay) -> Option<Self> {
        if replay.finished().is_none() {
            return Some(self);
        }
        for route in self.routes {
            let copy = replay.copy();
            let (Some(copy), Some(under_way)) = (copy, worker.copies.begin()) else {
                tracing::debug!(to = %route.destination, "a request is not mirrored: it is too large, or too many are");
                continue;
            };
            let (worker, snapshot) = (Rc::clone(worker), Arc::clone(&self.snapshot));
            let head = self.head.clone();
            spawn_local(async move {
                let _under_way = under_way;
                let sending = Box::pin(send(&worker, snapshot, route, head, copy));
                if timeout(COPY_MAX, sending).await.is_err() {
                    tracing::debug!("a copy of a request took too long");
                }
            });
        }
        None
    }
}

async fn send(
    worker: &Rc<Worker>,
    snapshot: Arc<Snapshot>,
    route: Route,
    head: request::Parts,
    replay: Replay,
) {
    let mut exchange = Exchange::begin(worker, &head.method, head.uri.path());
    head.uri
        .host()
        .unwrap_or_default()
        .clone_into(&mut exchange.entry.host);
    exchange.routed(&route.destination.service, &route.name);
    let request = call::Request {
        head,
        replay,
        upgrades: false,
    };
    match call::call(worker, snapshot, Rc::new(route), request, &mut exchange).await {
        Ok(answer) => {
            exchange.answered(answer.response.status().as_u16());
            let mut body = answer.response.into_body();
            while let Some(Ok(_)) = body.frame().await {}
            exchange.entry.complete = true;
        }
        Err(refusal) => exchange.refuse(&refusal, 0),
    }
}
