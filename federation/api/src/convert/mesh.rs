//! Meshes and trust bundles.

use portolan_model::cluster::ClusterIdentity;
use portolan_model::snapshot::{Gateway, LinkState, Mesh, Peer, Trust};

use super::field::{at_most, messages, name, socket, strings, texts};
use super::{GATEWAYS_MAX, Invalid, PEERS_MAX, ROOT_BYTES_MAX, ROOTS_MAX, ZONES_MAX};
use crate::resources;

/// The longest name of a gateway, in bytes: it becomes a part of a SPIFFE ID.
const GATEWAY_NAME_MAX: usize = 253;

impl TryFrom<resources::Mesh> for Mesh {
    type Error = Invalid;

    fn try_from(mesh: resources::Mesh) -> Result<Self, Invalid> {
        Ok(Self {
            cluster: ClusterIdentity {
                name: name("cluster", &mesh.cluster)?,
                set: name("cluster_set", &mesh.cluster_set)?,
                region: name("region", &mesh.region)?,
                zones: texts("zones", &mesh.zones, ZONES_MAX, name)?,
                trust_domain: name("trust_domain", &mesh.trust_domain)?,
            },
            gateways: messages("gateways", mesh.gateways, GATEWAYS_MAX, gateway)?,
            control: texts("control", &mesh.control, GATEWAYS_MAX, socket)?,
            peers: messages("peers", mesh.peers, PEERS_MAX, peer)?,
        })
    }
}

impl From<&Mesh> for resources::Mesh {
    fn from(mesh: &Mesh) -> Self {
        let gateway = |gateway: &Gateway| resources::Gateway {
            name: gateway.name.clone(),
            tcp: gateway.tcp.to_string(),
            quic: gateway.quic.to_string(),
        };
        Self {
            cluster: mesh.cluster.name.to_string(),
            cluster_set: mesh.cluster.set.to_string(),
            region: mesh.cluster.region.to_string(),
            zones: strings(&mesh.cluster.zones),
            trust_domain: mesh.cluster.trust_domain.to_string(),
            gateways: mesh.gateways.iter().map(gateway).collect(),
            control: strings(&mesh.control),
            peers: mesh.peers.iter().map(peer_message).collect(),
        }
    }
}

impl TryFrom<resources::Trust> for Trust {
    type Error = Invalid;

    fn try_from(trust: resources::Trust) -> Result<Self, Invalid> {
        at_most("roots", trust.roots.len(), ROOTS_MAX)?;
        for (at, root) in trust.roots.iter().enumerate() {
            if root.is_empty() || root.len() > ROOT_BYTES_MAX {
                let problem = format!("{} bytes are no certificate", root.len());
                return Err(Invalid::new(format!("roots[{at}]"), problem));
            }
        }
        Ok(Self { roots: trust.roots })
    }
}

impl From<&Trust> for resources::Trust {
    fn from(trust: &Trust) -> Self {
        Self {
            roots: trust.roots.clone(),
        }
    }
}

fn gateway(gateway: resources::Gateway) -> Result<Gateway, Invalid> {
    if gateway.name.is_empty() || gateway.name.len() > GATEWAY_NAME_MAX {
        return Err(Invalid::new("name", "is empty or longer than 253 bytes"));
    }
    Ok(Gateway {
        tcp: socket("tcp", &gateway.tcp)?,
        quic: socket("quic", &gateway.quic)?,
        name: gateway.name,
    })
}

fn peer(peer: resources::Peer) -> Result<Peer, Invalid> {
    let link = match resources::LinkState::try_from(peer.link) {
        Ok(resources::LinkState::Unknown) => LinkState::Unknown,
        Ok(resources::LinkState::Up) => LinkState::Up {
            rtt_us: peer.rtt_us,
        },
        Ok(resources::LinkState::Down) => LinkState::Down,
        Err(_) => {
            let problem = format!("{} is no link state", peer.link);
            return Err(Invalid::new("link", problem));
        }
    };
    Ok(Peer {
        name: name("name", &peer.name)?,
        trust_domain: name("trust_domain", &peer.trust_domain)?,
        region: name("region", &peer.region)?,
        gateways: texts("gateways", &peer.gateways, GATEWAYS_MAX, socket)?,
        link,
    })
}

fn peer_message(peer: &Peer) -> resources::Peer {
    let (link, rtt_us) = match peer.link {
        LinkState::Unknown => (resources::LinkState::Unknown, 0),
        LinkState::Up { rtt_us } => (resources::LinkState::Up, rtt_us),
        LinkState::Down => (resources::LinkState::Down, 0),
    };
    resources::Peer {
        name: peer.name.to_string(),
        trust_domain: peer.trust_domain.to_string(),
        region: peer.region.to_string(),
        gateways: strings(&peer.gateways),
        link: link.into(),
        rtt_us,
    }
}
