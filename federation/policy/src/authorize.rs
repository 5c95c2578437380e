//! Who may call what: at the serving sidecar by identity, at the gateways by cluster.

use portolan_model::snapshot::{InboundPort, Mesh, Snapshot};
use portolan_model::{
    ClusterName, Endpoint, Hop, IdentityKind, Reason, Refusal, ServiceKey, SpiffeId,
};

/// What decides whether a call may reach the app.
#[derive(Debug, Clone, Copy)]
pub struct CallFacts<'a> {
    /// Whom the caller's certificate names.
    pub caller: &'a SpiffeId,
    /// What it calls.
    pub port: &'a InboundPort,
}

/// A permission, with the rule that gave it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Permit {
    /// The rule, for the access log and for `explain`.
    pub rule: &'static str,
}

/// The rule that lets workloads of the own cluster call.
pub const OWN_TRUST_DOMAIN: &str = "own-trust-domain";
/// The rule that lets workloads of a peer call what is exported to it.
pub const EXPORTED_TO_PEER: &str = "exported-to-peer";

/// Whether a caller may call a port of a workload.
///
/// # Errors
/// [`Reason::Denied`] for whoever is no workload, is of no declared peer, or is of a peer that the
/// service is not exported to.
pub fn authorize(mesh: &Mesh, facts: CallFacts<'_>) -> Result<Permit, Refusal> {
    let CallFacts { caller, port } = facts;
    let deny = |why: String| Err(Refusal::new(Reason::Denied, Hop::Inbound, why));
    match caller.kind() {
        IdentityKind::Workload { .. } => {}
        IdentityKind::Control { .. }
        | IdentityKind::Gateway { .. }
        | IdentityKind::Authority
        | IdentityKind::Other => return deny(format!("{caller} is no workload")),
    }
    let domain = caller.trust_domain();
    if domain == &mesh.cluster.trust_domain {
        return Ok(Permit {
            rule: OWN_TRUST_DOMAIN,
        });
    }
    let Some(peer) = mesh.peers.iter().find(|peer| &peer.trust_domain == domain) else {
        return deny(format!("{domain} is no peer's trust domain"));
    };
    if port.exported.allows(&peer.name) {
        return Ok(Permit {
            rule: EXPORTED_TO_PEER,
        });
    }
    deny(format!("{} is not exported to {}", port.service, peer.name))
}

/// The endpoints that the ingress gateway may give a call from the peer `from` to: ready, with weight, serving the port.
///
/// # Errors
/// [`Reason::NotExported`] also for services that don't exist, so that a peer cannot find out which
/// do; [`Reason::NoRoute`] for a port that an exported service does not have; [`Reason::NoHealthyUpstream`] when no endpoint
/// is ready; [`Reason::NotReady`] before the first snapshot.
pub fn ingress<'a>(
    snapshot: &'a Snapshot,
    from: &ClusterName,
    service: &ServiceKey,
    port: u16,
) -> Result<Vec<&'a Endpoint>, Refusal> {
    let refuse = |reason, why: String| Err(Refusal::new(reason, Hop::Ingress, why));
    let Some(mesh) = &snapshot.mesh else {
        return refuse(Reason::NotReady, "no snapshot yet".to_owned());
    };
    let local = snapshot
        .services
        .get(service)
        .and_then(|service| service.local.as_ref())
        .filter(|local| mesh.peer(from).is_some() && local.exported.allows(from));
    let Some(local) = local else {
        return refuse(
            Reason::NotExported,
            format!("{service} is not exported to {from}"),
        );
    };
    if !local.ports.iter().any(|known| known.number == port) {
        return refuse(Reason::NoRoute, format!("{service} has no port {port}"));
    }
    let ready: Vec<&Endpoint> = local
        .endpoints
        .iter()
        .filter(|endpoint| endpoint.ready && endpoint.weight > 0)
        .filter(|endpoint| endpoint.ports.contains_key(&port))
        .collect();
    if ready.is_empty() {
        return refuse(
            Reason::NoHealthyUpstream,
            format!("no endpoint of {service}:{port} is ready"),
        );
    }
    Ok(ready)
}

/// Whether the egress gateway may pass a call on to another cluster: only what is imported from there.
///
/// # Errors
/// [`Reason::NotExported`] when it is not; [`Reason::NotReady`] before the first snapshot.
pub fn egress(
    snapshot: &Snapshot,
    target: &ClusterName,
    service: &ServiceKey,
) -> Result<(), Refusal> {
    let Some(mesh) = &snapshot.mesh else {
        return Err(Refusal::new(
            Reason::NotReady,
            Hop::Egress,
            "no snapshot yet",
        ));
    };
    let imported = mesh.peer(target).is_some()
        && snapshot.services.get(service).is_some_and(|service| {
            service.imported && service.remote.iter().any(|it| &it.cluster == target)
        });
    if imported {
        Ok(())
    } else {
        Err(Refusal::new(
            Reason::NotExported,
            Hop::Egress,
            format!("{service} is not imported from {target}"),
        ))
    }
}
