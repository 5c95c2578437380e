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

/// The endpoints that the ingress gateway may give a call from the peer `from` to: ready, with
/// weight, serving the port.
///
/// # Errors
/// [`Reason::NotExported`] also for services that don't exist, so that a peer cannot find out which
/// do; [`Reason::NoRoute`] for a port that an exported service does not have;
/// [`Reason::NoHealthyUpstream`] when no endpoint is ready; [`Reason::NotReady`] before the first
/// snapshot.
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

/// Whether the egress gateway may pass a call on to another cluster: only what is imported from
/// there.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::example;
    use portolan_model::Protocol;
    use portolan_model::declared::ExportTo;

    fn only(peer: &str) -> ExportTo {
        ExportTo::Peers([example::cluster(peer)].into())
    }

    fn rule(caller: &str, exported: &ExportTo) -> Option<&'static str> {
        let port = InboundPort {
            service: example::orders(),
            port: 80,
            app_port: 8080,
            protocol: Protocol::Http,
            exported: exported.clone(),
        };
        let caller = &example::spiffe(caller);
        let facts = CallFacts {
            caller,
            port: &port,
        };
        match authorize(&example::mesh(), facts) {
            Ok(permit) => Some(permit.rule),
            Err(refusal) => {
                assert_eq!(
                    (refusal.reason, refusal.hop),
                    (Reason::Denied, Hop::Inbound)
                );
                None
            }
        }
    }

    #[test]
    fn who_may_call() {
        let (nobody, all, west) = (ExportTo::Nobody, ExportTo::Everyone, only("us-west"));
        let (own, peer) = (Some(OWN_TRUST_DOMAIN), Some(EXPORTED_TO_PEER));
        let table = [
            ("spiffe://us-east.demo/ns/shop/sa/frontend", [own, own, own]),
            (
                "spiffe://us-west.demo/ns/shop/sa/frontend",
                [None, peer, peer],
            ),
            (
                "spiffe://eu-west.demo/ns/shop/sa/frontend",
                [None, peer, None],
            ),
            ("spiffe://evil.demo/ns/shop/sa/frontend", [None; 3]),
            ("spiffe://us-east.demo/portolan/gateway/gw-0", [None; 3]),
            ("spiffe://us-east.demo/portolan/control/us-east", [None; 3]),
            ("spiffe://us-west.demo/portolan/gateway/gw-0", [None; 3]),
            ("spiffe://us-east.demo", [None; 3]),
            ("spiffe://us-east.demo/other", [None; 3]),
        ];
        for (caller, expected) in table {
            let found = [&nobody, &all, &west].map(|exported| rule(caller, exported));
            assert_eq!(found, expected, "{caller}");
        }
    }

    fn admitted(exported: ExportTo, from: &str, ready: usize, port: u16) -> Result<usize, Reason> {
        let mut local = example::local(ready, 3);
        local.exported = exported;
        let snapshot = example::snapshot(example::service(Some(local), vec![]));
        ingress(&snapshot, &example::cluster(from), &example::orders(), port)
            .map(|endpoints| endpoints.len())
            .map_err(|refusal| refusal.reason)
    }

    #[test]
    fn what_the_ingress_gateway_lets_in() {
        let all = ExportTo::Everyone;
        assert_eq!(admitted(all.clone(), "us-west", 2, 80), Ok(2));
        assert_eq!(admitted(only("us-west"), "us-west", 2, 80), Ok(2));
        assert_eq!(
            admitted(only("us-west"), "eu-west", 2, 80),
            Err(Reason::NotExported)
        );
        assert_eq!(
            admitted(ExportTo::Nobody, "us-west", 2, 80),
            Err(Reason::NotExported)
        );
        assert_eq!(
            admitted(all.clone(), "stranger", 2, 80),
            Err(Reason::NotExported)
        );
        assert_eq!(
            admitted(all.clone(), "us-west", 2, 81),
            Err(Reason::NoRoute)
        );
        assert_eq!(
            admitted(all, "us-west", 0, 80),
            Err(Reason::NoHealthyUpstream)
        );
    }

    #[test]
    fn a_peer_cannot_tell_a_hidden_service_from_none() {
        let mut local = example::local(1, 1);
        local.exported = ExportTo::Nobody;
        let hidden = example::snapshot(example::service(Some(local), vec![]));
        let mut none = hidden.clone();
        none.services.clear();
        let answer = |snapshot: &Snapshot| {
            ingress(
                snapshot,
                &example::cluster("us-west"),
                &example::orders(),
                80,
            )
            .unwrap_err()
        };
        assert_eq!(answer(&hidden), answer(&none));
    }

    #[test]
    fn the_egress_gateway_passes_on_what_is_imported_from_there() {
        let service = example::service(None, vec![example::remote("eu-west", 1, 1)]);
        let reason = |snapshot: &Snapshot, target: &str| {
            egress(snapshot, &example::cluster(target), &example::orders())
                .err()
                .map(|refusal| refusal.reason)
        };
        let mut snapshot = example::snapshot(service.clone());
        assert_eq!(reason(&snapshot, "eu-west"), None);
        assert_eq!(reason(&snapshot, "us-west"), Some(Reason::NotExported));
        assert_eq!(reason(&snapshot, "us-east"), Some(Reason::NotExported));
        snapshot.mesh = None;
        assert_eq!(reason(&snapshot, "eu-west"), Some(Reason::NotReady));
        let mut hidden = service;
        hidden.imported = false;
        let hidden = example::snapshot(hidden);
        assert_eq!(reason(&hidden, "eu-west"), Some(Reason::NotExported));
    }
}
