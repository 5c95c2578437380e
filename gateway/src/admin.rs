//! What the gateway adds to its admin port: `GET /links`.

use std::sync::Arc;

use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};
use serde::Serialize;

use crate::table::{LinkTable, LiveLink};

/// One live link, as `GET /links` shows it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct LinkView {
    peer: String,
    address: String,
    identity: String,
    dialled: bool,
    worker: usize,
    draining: bool,
    rtt_ms: f64,
    tunnels: u32,
    sent_packets: u64,
    lost_packets: u64,
}

/// The routes.
pub(crate) fn routes(table: Arc<LinkTable>) -> Router {
    Router::new().route("/links", get(links)).with_state(table)
}

async fn links(State(table): State<Arc<LinkTable>>) -> Json<Vec<LinkView>> {
    Json(
        table
            .all()
            .values()
            .flatten()
            .map(|live| view(live))
            .collect(),
    )
}

fn view(live: &LiveLink) -> LinkView {
    let (sent_packets, lost_packets) = live.packets();
    LinkView {
        peer: live.peer.to_string(),
        address: live.remote.to_string(),
        identity: live.link.peer_id().to_string(),
        dialled: live.link.is_dialled(),
        worker: live.worker,
        draining: live.is_draining(),
        rtt_ms: live.rtt().as_secs_f64() * 1_000.0,
        tunnels: live.open(),
        sent_packets,
        lost_packets,
    }
}
