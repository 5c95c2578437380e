//! Two clusters of Portolan: control plane, gateway and sidecars, as real processes.

use std::net::SocketAddr;

use anyhow::Result;

use super::cluster::{BULK_PORT, Cluster, NAMESPACE, authorities};
use super::{Ground, Proxy, Started, Subject};
use crate::load::Entrance;
use crate::load::bulk::BulkEntrance;
use crate::network::Side;

/// Sidecar to sidecar, in one cluster.
pub(crate) const LOCAL: &str = "portolan";
/// Sidecar to gateway to gateway to sidecar.
pub(crate) const REMOTE: &str = "portolan gateways";

/// Starts both clusters; the near one has a sidecar beside the origin, too, if calls are to stay in it.
pub(super) async fn start(ground: &Ground<'_>, local: bool) -> Result<Started> {
    let folder = ground.folder.join("portolan");
    std::fs::create_dir_all(&folder)?;
    let clusters = [Side::Near, Side::Far].map(|side| Cluster::new(ground, side, &folder));
    authorities(&clusters, &folder).await?;
    let mut started = Started::default();
    let mut services = vec!["origin".to_owned()];
    services.extend((0..ground.cold).map(|number| format!("cold-{number}")));
    let [near, far] = &clusters;
    for (cluster, peer) in [(near, far), (far, near)] {
        started.keep("control plane", cluster.start_control(None).await?);
        cluster.declare(&services, Some(peer)).await?;
    }
    let gateways = [
        started.keep("gateway (near)", near.start_gateway()?),
        started.keep("gateway (far)", far.start_gateway()?),
    ];
    let far_origin = started.keep("origin's sidecar", far.start_origin_sidecar(Side::Far)?);
    // Each path has a caller of its own, so that what one leaves behind is not seen in the other.
    if local {
        let origin = started.keep("origin's sidecar", near.start_origin_sidecar(Side::Far)?);
        let (caller, outbound) = near.start_caller_sidecar("caller-near", None)?;
        let caller = started.keep("caller's sidecar", caller);
        let subject = subject(ground, (LOCAL, near.name()), outbound, vec![caller, origin]);
        started.subjects.push(subject);
    }
    let (caller, outbound) = near.start_caller_sidecar("caller-far", None)?;
    let caller = started.keep("caller's sidecar", caller);
    let [near_gateway, far_gateway] = gateways;
    let proxies = vec![caller, near_gateway, far_gateway, far_origin];
    let subject = subject(ground, (REMOTE, far.name()), outbound, proxies);
    started.subjects.push(subject);
    Ok(started)
}

fn subject(
    ground: &Ground<'_>,
    (name, cluster): (&'static str, &str),
    outbound: SocketAddr,
    proxies: Vec<Proxy>,
) -> Subject {
    let entrance = |service: &str| Entrance {
        address: outbound,
        host: format!("{service}.{NAMESPACE}.{cluster}.global"),
    };
    let origin = entrance("origin");
    Subject {
        name,
        cold: (0..ground.cold)
            .map(|number| entrance(&format!("cold-{number}")))
            .collect(),
        bulk: Some(BulkEntrance {
            address: outbound,
            connect: Some(format!("{}:{BULK_PORT}", origin.host)),
        }),
        entrance: origin,
        proxies,
    }
}
