//! One connection of the app, as its requests see it.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::{Arc, Weak};

use ::http::Request;
use ::http::header::HOST;
use ::http::uri::Authority;
use portolan_model::Refusal;
use portolan_model::snapshot::Snapshot;
use portolan_policy::route::Route;

use super::destination::{Destination, Origin};
use crate::http::{self, Activity};
use crate::worker::Worker;

/// A connection whose requests are routed one by one.
pub(super) struct Client {
    pub(super) worker: Rc<Worker>,
    pub(super) activity: Rc<Activity>,
    origin: Origin,
    /// Where the last request led: most connections call one host, and finding out what its name means takes
    /// longer than to see that it is the same.
    last: RefCell<Option<Led>>,
}

struct Led {
    authority: Authority,
    /// What it was looked up in. It is not kept alive, but no other can have its address.
    snapshot: Weak<Snapshot>,
    route: Rc<Route>,
}

impl Client {
    pub(super) fn new(worker: &Rc<Worker>, origin: Origin) -> Self {
        Self {
            worker: Rc::clone(worker),
            activity: Activity::new(),
            origin,
            last: RefCell::default(),
        }
    }

    /// The authority that a request is meant for; `None` when there is none, or more than one, or it is
    /// malformed.
    pub(super) fn authority<B>(&self, request: &Request<B>) -> Option<Authority> {
        let (uri, headers) = (request.uri(), request.headers());
        if uri.authority().is_none() {
            let mut hosts = headers.get_all(HOST).iter();
            let Some(host) = hosts.next() else {
                return self.origin.authority();
            };
            if let Some(last) = &*self.last.borrow()
                && last.authority.as_str().as_bytes() == host.as_bytes()
                && hosts.next().is_none()
            {
                return Some(last.authority.clone());
            }
        }
        http::authority(uri, headers)
    }

    /// Where a request with this authority goes.
    ///
    /// # Errors
    /// When the name or address is in the mesh, but leads nowhere.
    pub(super) fn destination(
        &self,
        snapshot: &Arc<Snapshot>,
        authority: &Authority,
    ) -> Result<Destination, Refusal> {
        if let Some(last) = &*self.last.borrow()
            && last.snapshot.as_ptr() == Arc::as_ptr(snapshot)
            && last.authority.as_str() == authority.as_str()
        {
            return Ok(Destination::Mesh(Rc::clone(&last.route)));
        }
        let destination = self.origin.destination(snapshot, authority)?;
        if let Destination::Mesh(route) = &destination {
            self.last.replace(Some(Led {
                authority: authority.clone(),
                snapshot: Arc::downgrade(snapshot),
                route: Rc::clone(route),
            }));
        }
        Ok(destination)
    }
}
