//! How this cluster stands.

use portolan_api::admin::{GatewayStatus, PeerStatus, StatusResponse};
use portolan_model::declared::ResourceKind;
use portolan_model::snapshot::{LinkState, Peer};
use serde_json::Value;

use super::{AdminService, proxies};
use crate::view::View;

/// Everything that `portolan status` shows.
pub(super) fn report(admin: &AdminService) -> StatusResponse {
    let view = admin.applier.views.borrow().clone();
    let cluster = &admin.applier.cluster;
    let mesh = view.snapshot.mesh.as_ref();
    let count =
        |kind: ResourceKind| size(view.documents.keys().filter(|key| key.kind == kind).count());
    let problems = view.problems.values().flatten();
    let sources = admin.sources.now();
    StatusResponse {
        cluster: cluster.name.to_string(),
        cluster_set: cluster.set.to_string(),
        region: cluster.region.to_string(),
        trust_domain: cluster.trust_domain.to_string(),
        generation: view.generation,
        registry: admin.applier.store.describe(),
        ca_not_after_s: admin.authority.ca.authority.not_after_s(),
        services: count(ResourceKind::Service),
        exports: count(ResourceKind::ServiceExport),
        imports: size(view.imports.len()),
        workloads: count(ResourceKind::Workload),
        workloads_ready: ready_workloads(&view),
        gateways: mesh
            .iter()
            .flat_map(|mesh| &mesh.gateways)
            .map(|gateway| GatewayStatus {
                name: gateway.name.clone(),
                tcp: gateway.tcp.to_string(),
                quic: gateway.quic.to_string(),
            })
            .collect(),
        peers: mesh
            .iter()
            .flat_map(|mesh| &mesh.peers)
            .map(|peer| peer_status(admin, &view, peer))
            .collect(),
        problems: problems.chain(&sources).map(Into::into).collect(),
        proxies: proxies(&admin.metrics),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    }
}

fn peer_status(admin: &AdminService, view: &View, peer: &Peer) -> PeerStatus {
    let standing = admin.progress.of(&peer.name);
    let (link, rtt_us) = match peer.link {
        LinkState::Unknown => ("unknown", 0),
        LinkState::Up { rtt_us } => ("up", rtt_us),
        LinkState::Down => ("down", 0),
    };
    let refused = view.refused.get(&peer.name).cloned();
    let details = [Some(standing.detail), refused].into_iter().flatten();
    let details: Vec<String> = details.filter(|detail| !detail.is_empty()).collect();
    PeerStatus {
        name: peer.name.to_string(),
        region: peer.region.to_string(),
        trust_domain: peer.trust_domain.to_string(),
        link: link.to_owned(),
        rtt_us,
        catalogue: standing.freshness.as_str().to_owned(),
        catalogue_version: standing.version,
        entries: size(standing.entries),
        detail: details.join("; "),
    }
}

/// Workloads whose condition `Ready` is true, as `portolan get workloads` shows it. One that only
/// calls others belongs to no service, and counts too.
fn ready_workloads(view: &View) -> u32 {
    let statuses = view.statuses.iter();
    let workloads = statuses.filter(|(key, _)| key.kind == ResourceKind::Workload);
    size(workloads.filter(|(_, status)| is_ready(status)).count())
}

fn is_ready(status: &Value) -> bool {
    let conditions = status.get("conditions").and_then(Value::as_array);
    conditions
        .into_iter()
        .flatten()
        .any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}

fn size(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}
