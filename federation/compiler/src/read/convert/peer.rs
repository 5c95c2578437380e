//! `Peer`.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use portolan_model::declared::PeerSpec;
use serde_json::Value;

use super::super::finding::Findings;
use super::super::path::item;
use super::text;

pub(super) fn read(spec: &Value, findings: &mut Findings) -> Option<PeerSpec> {
    let trust_domain =
        text(spec, "trustDomain").and_then(|name| findings.name(name, "spec.trustDomain"));
    let region = text(spec, "region").and_then(|name| findings.name(name, "spec.region"));
    let gateways = gateways(spec, findings);
    Some(PeerSpec {
        trust_domain: trust_domain?,
        region: region?,
        gateways,
    })
}

fn gateways(spec: &Value, findings: &mut Findings) -> Vec<SocketAddr> {
    let mut seen = BTreeSet::new();
    let mut gateways = Vec::new();
    let listed = spec.get("gateways").and_then(Value::as_array);
    for (index, text) in listed.into_iter().flatten().enumerate() {
        let path = item("spec.gateways", index);
        let Some(text) = text.as_str() else { continue };
        let remedy = "write an IP address and a port, as 203.0.113.7:15443 or [2001:db8::7]:15443";
        let Some(address) =
            findings.parse::<SocketAddr>(text, &path, "an address with a port", remedy)
        else {
            continue;
        };
        if address.port() == 0 || address.ip().is_unspecified() || address.ip().is_multicast() {
            let message = format!("`{address}` is no address that can be dialled");
            findings.error(path, message, remedy);
        } else if !seen.insert(address) {
            let message = format!("`{address}` is listed twice");
            findings.warning(path, message, "list it once");
        } else {
            gateways.push(address);
        }
    }
    gateways
}
