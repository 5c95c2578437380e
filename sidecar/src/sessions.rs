//! The live inbound connections of one worker, judged again whenever the snapshot changes.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ops::Deref;
use std::rc::Rc;

use portolan_model::snapshot::InboundPort;
use portolan_model::{Refusal, ServiceKey, SpiffeId};
use portolan_transport::wire::trace::TraceId;
use rustls_pki_types::CertificateDer;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// What a connection is judged by, for as long as it lives.
#[derive(Debug, Clone)]
pub(crate) struct Facts {
    /// Whom the caller's certificate names.
    pub(crate) caller: SpiffeId,
    /// The certificates that the caller presented, leaf first.
    pub(crate) chain: Vec<CertificateDer<'static>>,
    /// The service it asked for.
    pub(crate) service: ServiceKey,
    /// The service's port.
    pub(crate) port: u16,
    /// What every hop calls the connection.
    pub(crate) tunnel: Option<TraceId>,
}

/// What a connection may do now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Allowed {
    /// Where its calls go.
    pub(crate) port: InboundPort,
    /// The rule that allows them.
    pub(crate) rule: &'static str,
}

/// The judgement of a connection.
pub(crate) type Judgement = Result<Rc<Allowed>, Refusal>;

/// One live connection.
#[derive(Debug)]
pub(crate) struct Session {
    facts: Facts,
    judgement: RefCell<Judgement>,
    revoked: CancellationToken,
}

/// Every live connection of a worker.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    live: RefCell<BTreeMap<u64, Rc<Session>>>,
    next: Cell<u64>,
    closed: Notify,
}

/// Keeps a session in the list. The last one to go takes it out.
#[derive(Debug)]
pub(crate) struct Open {
    sessions: Rc<Sessions>,
    number: u64,
    session: Rc<Session>,
}

impl Session {
    pub(crate) fn facts(&self) -> &Facts {
        &self.facts
    }

    /// What the connection may do at this moment.
    pub(crate) fn judgement(&self) -> Judgement {
        self.judgement.borrow().clone()
    }

    /// Ends when what was allowed is allowed no more, or [`Sessions::revoke_all`] was called.
    pub(crate) async fn revoked(&self) {
        self.revoked.cancelled().await;
    }
}

impl Sessions {
    /// Adds a connection.
    pub(crate) fn open(self: &Rc<Self>, facts: Facts, judgement: Judgement) -> Open {
        let number = self.next.replace(self.next.get() + 1);
        let session = Rc::new(Session {
            facts,
            judgement: RefCell::new(judgement),
            revoked: CancellationToken::new(),
        });
        self.live.borrow_mut().insert(number, Rc::clone(&session));
        Open {
            sessions: Rc::clone(self),
            number,
            session,
        }
    }

    /// Judges every connection again, and revokes those that were allowed and are no more. Returns
    /// how many.
    pub(crate) fn rejudge(&self, judge: impl Fn(&Facts) -> Judgement) -> usize {
        let mut revoked = 0;
        for session in self.live.borrow().values() {
            // What is ending stays revoked.
            if session.revoked.is_cancelled() {
                continue;
            }
            let now = judge(&session.facts);
            let before = session.judgement.replace(now.clone());
            if let (Ok(_), Err(refusal)) = (before, now) {
                let Facts {
                    caller,
                    service,
                    port,
                    ..
                } = &session.facts;
                tracing::info!(%caller, %service, port, %refusal, "connection revoked");
                session.revoked.cancel();
                revoked += 1;
            }
        }
        revoked
    }

    /// Tells every connection to end at once.
    pub(crate) fn revoke_all(&self) {
        for session in self.live.borrow().values() {
            session.revoked.cancel();
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.live.borrow().len()
    }

    /// Waits until there is no connection left.
    pub(crate) async fn empty(&self) {
        loop {
            let closed = self.closed.notified();
            if self.len() == 0 {
                return;
            }
            closed.await;
        }
    }
}

impl Deref for Open {
    type Target = Session;

    fn deref(&self) -> &Session {
        &self.session
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.sessions.live.borrow_mut().remove(&self.number);
        self.sessions.closed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use portolan_model::declared::ExportTo;
    use portolan_model::{Hop, Protocol, Reason};

    fn facts(caller: &str) -> Facts {
        Facts {
            caller: caller.parse().unwrap(),
            chain: vec![],
            service: "shop/orders".parse().unwrap(),
            port: 80,
            tunnel: None,
        }
    }

    fn yes() -> Judgement {
        Ok(Rc::new(Allowed {
            port: InboundPort {
                service: "shop/orders".parse().unwrap(),
                port: 80,
                app_port: 8080,
                protocol: Protocol::Http,
                exported: ExportTo::Nobody,
            },
            rule: "test",
        }))
    }

    fn no() -> Judgement {
        Err(Refusal::new(Reason::Denied, Hop::Inbound, "test"))
    }

    #[tokio::test]
    async fn only_what_lost_its_permission_is_revoked() {
        let sessions = Rc::new(Sessions::default());
        let stays = sessions.open(facts("spiffe://a/ns/x/sa/y"), yes());
        let loses = sessions.open(facts("spiffe://b/ns/x/sa/y"), yes());
        let gains = sessions.open(facts("spiffe://a/ns/x/sa/z"), no());
        let judge = |facts: &Facts| match facts.caller.trust_domain().as_str() {
            "a" => yes(),
            _ => no(),
        };
        assert_eq!(sessions.rejudge(judge), 1);
        loses.revoked().await;
        assert!(loses.judgement().is_err());
        assert!(stays.judgement().is_ok() && !stays.revoked.is_cancelled());
        assert!(gains.judgement().is_ok() && !gains.revoked.is_cancelled());
        assert_eq!(sessions.rejudge(judge), 0, "told once");
    }

    #[tokio::test]
    async fn the_last_one_out_is_noticed() {
        let sessions = Rc::new(Sessions::default());
        sessions.empty().await;
        let one = sessions.open(facts("spiffe://a/ns/x/sa/y"), yes());
        let two = sessions.open(facts("spiffe://a/ns/x/sa/y"), yes());
        drop(one);
        assert_eq!(sessions.len(), 1);
        sessions.revoke_all();
        let leaves = async {
            two.revoked().await;
            drop(two);
        };
        tokio::join!(sessions.empty(), leaves);
    }
}
