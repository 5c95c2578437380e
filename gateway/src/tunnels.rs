//! The live tunnels of one worker, grouped by what allowed them, so that a changed snapshot is
//! asked once per group and not once per tunnel.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use portolan_model::snapshot::Snapshot;
use portolan_model::{ClusterName, Reason, ServiceKey};
use portolan_policy::authorize;
use tokio::sync::watch;

/// Which way a tunnel goes, as seen from this gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Direction {
    /// From a local sidecar to a peer.
    Egress,
    /// From a peer to a local sidecar.
    Ingress,
}

impl Direction {
    /// The word in metrics and logs.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Egress => "egress",
            Self::Ingress => "ingress",
        }
    }
}

/// What a tunnel leads to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Wanted {
    /// A service port.
    Service { service: ServiceKey, port: u16 },
    /// The cluster's control plane.
    Control,
}

/// What allowed a tunnel, and must go on allowing it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Claim {
    pub(crate) direction: Direction,
    pub(crate) peer: ClusterName,
    pub(crate) wanted: Wanted,
}

impl Claim {
    /// Whether `snapshot` still allows what it allowed when the tunnel began.
    ///
    /// Health is not asked: a tunnel to an endpoint that became unready may go on. Nor is an
    /// import that vanished: whoever withdrew the export closes the tunnel at its own end, and a
    /// catalogue that is late after a restart must not cost live connections.
    pub(crate) fn judge(&self, snapshot: &Snapshot) -> Result<(), Reason> {
        let Some(mesh) = &snapshot.mesh else {
            return Ok(());
        };
        if mesh.peer(&self.peer).is_none() {
            return Err(Reason::PeerUnreachable);
        }
        match (&self.wanted, self.direction) {
            (Wanted::Control, _) | (_, Direction::Egress) => Ok(()),
            (Wanted::Service { service, port }, Direction::Ingress) => {
                match authorize::ingress(snapshot, &self.peer, service, *port) {
                    Err(refusal) if refusal.reason != Reason::NoHealthyUpstream => {
                        Err(refusal.reason)
                    }
                    Ok(_) | Err(_) => Ok(()),
                }
            }
        }
    }
}

/// Holds the groups of live tunnels of one worker.
#[derive(Debug, Default)]
pub(crate) struct Tunnels {
    groups: RefCell<BTreeMap<Claim, Group>>,
    open: watch::Sender<usize>,
}

#[derive(Debug)]
struct Group {
    members: usize,
    end: watch::Sender<Option<Reason>>,
}

impl Tunnels {
    /// Enters a tunnel. It counts until the returned value is dropped.
    ///
    /// Judge and enter without waiting in between: a snapshot that arrives later finds it here.
    pub(crate) fn enter(self: &Rc<Self>, claim: Claim) -> Tunnel {
        let mut groups = self.groups.borrow_mut();
        let group = groups.entry(claim.clone()).or_insert_with(|| Group {
            members: 0,
            end: watch::Sender::new(None),
        });
        group.members += 1;
        self.open.send_modify(|open| *open += 1);
        Tunnel {
            ended: group.end.subscribe(),
            claim,
            tunnels: Rc::clone(self),
        }
    }

    /// Ends every tunnel that `snapshot` no longer allows. Returns how many.
    pub(crate) fn rejudge(&self, snapshot: &Snapshot) -> usize {
        self.end_where(|claim| claim.judge(snapshot).err())
    }

    /// Ends every tunnel.
    pub(crate) fn end_all(&self, reason: Reason) -> usize {
        self.end_where(|_| Some(reason))
    }

    /// Waits until no tunnel is open.
    pub(crate) async fn all_ended(&self) {
        // The sender lives in self, so the only outcome is that the count reached zero.
        let _ = self.open.subscribe().wait_for(|open| *open == 0).await;
    }

    fn end_where(&self, verdict: impl Fn(&Claim) -> Option<Reason>) -> usize {
        let mut ended = 0;
        self.groups.borrow_mut().retain(|claim, group| {
            let Some(reason) = verdict(claim) else {
                return true;
            };
            ended += group.members;
            group.end.send_replace(Some(reason));
            false
        });
        ended
    }

    fn leave(&self, tunnel: &Tunnel) {
        let mut groups = self.groups.borrow_mut();
        if let Some(group) = groups.get_mut(&tunnel.claim)
            // A group that was ended and begun anew is not the one that the tunnel belongs to.
            && group.end.subscribe().same_channel(&tunnel.ended)
        {
            group.members -= 1;
            if group.members == 0 {
                groups.remove(&tunnel.claim);
            }
        }
        self.open.send_modify(|open| *open -= 1);
    }
}

/// One live tunnel's membership.
#[derive(Debug)]
pub(crate) struct Tunnel {
    claim: Claim,
    tunnels: Rc<Tunnels>,
    ended: watch::Receiver<Option<Reason>>,
}

impl Tunnel {
    /// Waits until the tunnel has to end, and says why.
    pub(crate) async fn ended(&mut self) -> Reason {
        match self.ended.wait_for(Option::is_some).await {
            Ok(reason) => reason.unwrap_or(Reason::Internal),
            // The group is dropped only after its reason was set.
            Err(_) => Reason::Internal,
        }
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        Rc::clone(&self.tunnels).leave(self);
    }
}
