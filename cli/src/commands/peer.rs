//! `portolan peer`: linking and unlinking clusters.

use serde_json::json;

use super::status;
use crate::args::PeerCommand;
use crate::exit::{Code, Failure};
use crate::render;

pub(crate) fn run(command: PeerCommand) -> Result<(), Failure> {
    match command {
        PeerCommand::Show { admin } => {
            let status = status::fetch(&admin)?;
            if status.gateways.is_empty() {
                return Err(Failure::new(
                    Code::NotFound,
                    "no gateway of this cluster has registered yet; start one with `portolan gateway --config FILE`",
                ));
            }
            let gateways: Vec<&String> = status
                .gateways
                .iter()
                .map(|gateway| &gateway.quic)
                .collect();
            let document = json!({
                "apiVersion": "portolan.dev/v1alpha1",
                "kind": "Peer",
                "metadata": { "name": status.cluster },
                "spec": { "trustDomain": status.trust_domain, "region": status.region, "gateways": gateways },
            });
            render::print(&render::yaml(&document)?)
        }
        PeerCommand::List { admin, output } => {
            let peers = status::fetch(&admin)?.peers;
            let documents: Vec<_> = peers.iter().map(status::peer).collect();
            render::value(output.output, &documents, || status::peers_table(&peers))
        }
        PeerCommand::Remove { admin, name } => super::delete::peer(&admin.admin, &name),
    }
}
