//! `portolan status`.

use portolan_api::admin::{PeerStatus, StatusRequest, StatusResponse};
use serde_json::{Value, json};

use super::admin::{Admin, said};
use crate::args::{AdminArgs, StatusArgs};
use crate::exit::Failure;
use crate::render;

pub(crate) fn run(args: &StatusArgs) -> Result<(), Failure> {
    let status = fetch(&args.admin)?;
    render::value(args.output.output, &document(&status), || table(&status))
}

pub(crate) fn fetch(admin: &AdminArgs) -> Result<StatusResponse, Failure> {
    Admin::call(admin, async move |mut client| {
        client.status(StatusRequest {}).await
    })
}

fn document(status: &StatusResponse) -> Value {
    json!({
        "cluster": status.cluster,
        "clusterSet": status.cluster_set,
        "region": status.region,
        "trustDomain": status.trust_domain,
        "version": status.version,
        "generation": status.generation,
        "registry": status.registry,
        "caNotAfter": time(status.ca_not_after_s),
        "services": status.services,
        "exports": status.exports,
        "imports": status.imports,
        "workloads": { "total": status.workloads, "ready": status.workloads_ready },
        "proxies": status.proxies,
        "gateways": status.gateways.iter().map(|gateway| json!({ "name": gateway.name, "tcp": gateway.tcp, "quic": gateway.quic })).collect::<Vec<_>>(),
        "peers": status.peers.iter().map(peer).collect::<Vec<_>>(),
        "problems": status.problems.iter().map(said).collect::<Vec<_>>(),
    })
}

pub(crate) fn peer(peer: &PeerStatus) -> Value {
    json!({
        "name": peer.name,
        "region": peer.region,
        "trustDomain": peer.trust_domain,
        "link": peer.link,
        "rttMs": f64::from(peer.rtt_us) / 1_000.0,
        "catalogue": peer.catalogue,
        "entries": peer.entries,
        "detail": peer.detail,
    })
}

fn table(status: &StatusResponse) -> String {
    let mut text = format!(
        "cluster {} (region {}, set {}), trust domain {}\nversion {}, generation {}, registry {}, CA until {}\nservices: {} own, {} exported, {} imported; workloads: {} of {} ready; proxies: {} connected\n",
        status.cluster,
        status.region,
        status.cluster_set,
        status.trust_domain,
        status.version,
        status.generation,
        status.registry,
        time(status.ca_not_after_s),
        status.services,
        status.exports,
        status.imports,
        status.workloads_ready,
        status.workloads,
        status.proxies,
    );
    let gateways = status.gateways.iter().map(|gateway| {
        [
            gateway.name.clone(),
            gateway.tcp.clone(),
            gateway.quic.clone(),
        ]
    });
    text.push_str(&format!(
        "\n{}\n",
        render::table(["GATEWAY", "SIDECARS DIAL", "PEERS DIAL"], gateways)
    ));
    text.push_str(&format!("\n{}\n", peers_table(&status.peers)));
    if !status.problems.is_empty() {
        text.push_str("\nPROBLEMS\n");
        for problem in &status.problems {
            text.push_str(&format!("{}\n", said(problem)));
        }
    }
    text
}

pub(crate) fn peers_table(peers: &[PeerStatus]) -> String {
    let rows = peers.iter().map(|peer| {
        let rtt = if peer.link == "up" {
            format!("{:.1}ms", f64::from(peer.rtt_us) / 1_000.0)
        } else {
            "-".to_owned()
        };
        [
            peer.name.clone(),
            peer.region.clone(),
            peer.link.clone(),
            rtt,
            peer.catalogue.clone(),
            peer.entries.to_string(),
            peer.detail.clone(),
        ]
    });
    render::table(
        [
            "PEER",
            "REGION",
            "LINK",
            "RTT",
            "CATALOGUE",
            "ENTRIES",
            "DETAIL",
        ],
        rows,
    )
}

fn time(seconds: u64) -> String {
    i64::try_from(seconds)
        .ok()
        .and_then(|seconds| jiff::Timestamp::from_second(seconds).ok())
        .map_or_else(|| "-".to_owned(), |time| time.to_string())
}
