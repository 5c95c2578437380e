//! Whether a connection may reach the app, by the snapshot of the moment. No I/O here.

use std::rc::Rc;

use portolan_model::snapshot::{InboundPort, Snapshot};
use portolan_model::{ClusterName, Hop, Reason, Refusal, ServiceKey, WorkloadKey};
use portolan_policy::authorize::{CallFacts, authorize};
use portolan_transport::wire::sni::SniName;

use crate::sessions::{Allowed, Facts, Judgement};

/// What a caller asked for by the name in its ClientHello, if this workload serves it.
///
/// # Errors
/// [`Reason::NoRoute`] for names that are not for this workload; [`Reason::NotReady`] before the
/// first snapshot.
pub(super) fn target(
    snapshot: &Snapshot,
    cluster: &ClusterName,
    workload: &WorkloadKey,
    server_name: Option<&str>,
) -> Result<InboundPort, Refusal> {
    let named = server_name.ok_or_else(|| no_route("the caller named no server".to_owned()))?;
    let name = SniName::parse(named)
        .map_err(|error| no_route(format!("`{named}` is not for this proxy: {error}")))?;
    match name {
        SniName::Service {
            port,
            service,
            cluster: wanted,
        } if &wanted == cluster => served(snapshot, workload, &service, port).cloned(),
        SniName::Service { .. } | SniName::Control { .. } => Err(no_route(format!(
            "`{named}` is not for a workload of {cluster}"
        ))),
    }
}

/// What the connection may do now.
pub(super) fn judge(snapshot: &Snapshot, workload: &WorkloadKey, facts: &Facts) -> Judgement {
    let port = served(snapshot, workload, &facts.service, facts.port)?;
    let Some(mesh) = &snapshot.mesh else {
        return Err(not_ready());
    };
    let permit = authorize(
        mesh,
        CallFacts {
            caller: &facts.caller,
            port,
        },
    )?;
    Ok(Rc::new(Allowed {
        port: port.clone(),
        rule: permit.rule,
    }))
}

fn served<'a>(
    snapshot: &'a Snapshot,
    workload: &WorkloadKey,
    service: &ServiceKey,
    number: u16,
) -> Result<&'a InboundPort, Refusal> {
    let inbound = snapshot.inbound.get(workload).ok_or_else(not_ready)?;
    inbound
        .ports
        .iter()
        .find(|port| &port.service == service && port.port == number)
        .ok_or_else(|| no_route(format!("{workload} does not serve {service}:{number}")))
}

fn no_route(detail: String) -> Refusal {
    Refusal::new(Reason::NoRoute, Hop::Inbound, detail)
}

fn not_ready() -> Refusal {
    Refusal::new(
        Reason::NotReady,
        Hop::Inbound,
        "the control plane has not said yet what this workload serves",
    )
}

#[cfg(test)]
mod tests {
    use super::super::fixtures;
    use super::*;

    fn reason(name: Option<&str>) -> Result<u16, Reason> {
        let (cluster, workload) = (fixtures::cluster(), fixtures::workload());
        target(&fixtures::snapshot(8080), &cluster, &workload, name)
            .map(|port| port.app_port)
            .map_err(|refusal| refusal.reason)
    }

    #[test]
    fn only_what_the_workload_serves_has_a_name() {
        assert_eq!(
            reason(Some("p80.orders.shop.us-east.portolan.internal")),
            Ok(8080)
        );
        for foreign in [
            "p81.orders.shop.us-east.portolan.internal",
            "p80.payments.shop.us-east.portolan.internal",
            "p80.orders.shop.eu-west.portolan.internal",
            "control.us-east.portolan.internal",
            "orders.shop.global",
        ] {
            assert_eq!(reason(Some(foreign)), Err(Reason::NoRoute), "{foreign}");
        }
        assert_eq!(reason(None), Err(Reason::NoRoute));
    }

    #[test]
    fn before_the_snapshot_nobody_is_judged() {
        let snapshot = Snapshot::default();
        let name = Some("p80.orders.shop.us-east.portolan.internal");
        let found = target(&snapshot, &fixtures::cluster(), &fixtures::workload(), name);
        assert_eq!(found.unwrap_err().reason, Reason::NotReady);
    }

    #[test]
    fn the_caller_s_identity_decides() {
        let judged = |caller: &str| {
            let facts = fixtures::facts(caller);
            judge(&fixtures::snapshot(8080), &fixtures::workload(), &facts)
                .map(|allowed| allowed.rule)
                .map_err(|refusal| refusal.reason)
        };
        assert_eq!(judged(fixtures::NEIGHBOUR), Ok("own-trust-domain"));
        assert_eq!(judged(fixtures::PEER), Ok("exported-to-peer"));
        assert_eq!(judged(fixtures::STRANGER), Err(Reason::Denied));
    }
}
