//! The snapshot: what the compiler made of all declarations, and what proxies obey.
//!
//! It travels as named resources of four types ([`Mesh`], [`Trust`], [`Service`], [`Inbound`]);
//! a proxy assembles those it received into one immutable [`Snapshot`] and swaps a pointer.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::cluster::ClusterIdentity;
use crate::declared::{ExportTo, Face};
use crate::endpoint::Endpoint;
use crate::fault::Fault;
use crate::identity::SpiffeId;
use crate::limit::RateLimit;
use crate::names::{ClusterName, HostName, PortName, Region, ServiceKey, TrustDomain, WorkloadKey};
use crate::service::{Port, Protocol, ServiceKind};
use crate::sharing::LocalityHealth;
use crate::traffic::{AdaptiveConcurrency, HealthCheck, Traffic};

/// Everything a proxy (or a DNS server) knows at one moment.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// The snapshot's number; receivers never go backwards.
    pub generation: u64,
    /// The mesh around it; `None` until the first snapshot arrived.
    pub mesh: Option<Arc<Mesh>>,
    /// Whom to trust.
    pub trust: Option<Arc<Trust>>,
    /// Services by key.
    pub services: BTreeMap<ServiceKey, Arc<Service>>,
    /// What workloads accept, by workload.
    pub inbound: BTreeMap<WorkloadKey, Arc<Inbound>>,
    /// Virtual IP → which service, and how far the call may go.
    pub addresses: BTreeMap<IpAddr, (ServiceKey, Scope)>,
}

impl Snapshot {
    /// Rebuilds [`Snapshot::addresses`] from the services. Call after changing them.
    pub fn index(&mut self) {
        self.addresses.clear();
        for (key, service) in &self.services {
            let vips = &service.vips;
            let local = vips.local.iter().map(|ip| (*ip, Scope::Cluster));
            let set = vips.set.iter().map(|ip| (*ip, Scope::Set));
            let pinned = vips.pinned.iter().flat_map(|(cluster, ips)| {
                ips.iter().map(|ip| (*ip, Scope::Pinned(cluster.clone())))
            });
            for (ip, scope) in local.chain(set).chain(pinned) {
                self.addresses.insert(ip, (key.clone(), scope));
            }
        }
    }

    /// The peer with this trust domain.
    #[must_use]
    pub fn peer_by_trust_domain(&self, domain: &TrustDomain) -> Option<&Peer> {
        self.mesh
            .as_ref()?
            .peers
            .iter()
            .find(|peer| &peer.trust_domain == domain)
    }
}

/// How far a call may go, decided by the name (or virtual IP) that was called.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Only the own cluster (`….svc.cluster.local`).
    Cluster,
    /// Any cluster of the set (`….svc.clusterset.local`, `….global`).
    Set,
    /// One named cluster (`….<cluster>.global`).
    Pinned(ClusterName),
}

impl Scope {
    /// Which face of the service such a call sees.
    #[must_use]
    pub fn face(&self) -> Face {
        match self {
            Self::Cluster => Face::Cluster,
            Self::Set | Self::Pinned(_) => Face::Set,
        }
    }
}

/// Resource `mesh`: this cluster, its gateways and its peers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mesh {
    /// This cluster.
    pub cluster: ClusterIdentity,
    /// This cluster's gateways that are alive.
    pub gateways: Vec<Gateway>,
    /// Where this cluster's control planes accept peering calls (gateways forward to them).
    pub control: Vec<SocketAddr>,
    /// The linked clusters.
    pub peers: Vec<Peer>,
}

impl Mesh {
    /// The peer with this name.
    #[must_use]
    pub fn peer(&self, name: &ClusterName) -> Option<&Peer> {
        self.peers.iter().find(|peer| &peer.name == name)
    }
}

/// A gateway of this cluster.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Gateway {
    /// Its name.
    pub name: String,
    /// Where it accepts TCP from local sidecars.
    pub tcp: SocketAddr,
    /// Where it accepts links from peers (UDP).
    pub quic: SocketAddr,
}

/// A linked cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// Its name.
    pub name: ClusterName,
    /// Its trust domain.
    pub trust_domain: TrustDomain,
    /// Its region.
    pub region: Region,
    /// Where its gateways accept links.
    pub gateways: Vec<SocketAddr>,
    /// What our gateways say of the links to it.
    pub link: LinkState,
}

/// What gateways know of the way to a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LinkState {
    /// No gateway has said anything yet: worth a try.
    #[default]
    Unknown,
    /// At least one link is live.
    Up {
        /// The best link's smoothed round-trip time in microseconds.
        rtt_us: u32,
    },
    /// Every gateway says that there is no live link.
    Down,
}

/// Resource `trust`: the roots that certificates must lead to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trust {
    /// Root certificates, DER.
    pub roots: Vec<Vec<u8>>,
}

/// A service as seen from this cluster, local, imported or both.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// Which service.
    pub key: ServiceKey,
    /// Virtual or headless, after the merge of all exports.
    pub kind: ServiceKind,
    /// The merged ports (MCS API: union by name, then by protocol and number).
    pub ports: Vec<Port>,
    /// Its virtual IPs.
    pub vips: Vips,
    /// Whether names of the cluster set exist for it: somebody exports it, to us or from here.
    pub imported: bool,
    /// What this cluster itself has of it.
    pub local: Option<LocalBackend>,
    /// What peers offer of it.
    pub remote: Vec<RemoteBackend>,
    /// What is declared about the traffic to it.
    #[serde(default)]
    pub traffic: Traffic,
}

impl Service {
    /// The merged port with this number.
    #[must_use]
    pub fn port(&self, number: u16) -> Option<&Port> {
        self.ports.iter().find(|port| port.number == number)
    }

    /// The merged port with this name.
    #[must_use]
    pub fn port_named(&self, name: &PortName) -> Option<&Port> {
        self.ports
            .iter()
            .find(|port| port.name.as_ref() == Some(name))
    }
}

/// A service's virtual IPs: at most one per address family each, stable for the service's life.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Vips {
    /// For the name in this cluster alone.
    pub local: Vec<IpAddr>,
    /// For the name in the whole set.
    pub set: Vec<IpAddr>,
    /// For the names of single clusters.
    pub pinned: BTreeMap<ClusterName, Vec<IpAddr>>,
}

/// A service's part in this cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalBackend {
    /// The service's own ports here, before any merge.
    pub ports: Vec<Port>,
    /// Its endpoints.
    pub endpoints: Vec<Endpoint>,
    /// To whom it is exported.
    pub exported: ExportTo,
}

/// A service's part in another cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoteBackend {
    /// The cluster.
    pub cluster: ClusterName,
    /// Its region.
    pub region: Region,
    /// The ports that are really offered there.
    pub ports: Vec<Port>,
    /// Endpoints by place.
    pub localities: Vec<LocalityHealth>,
    /// The identities its endpoints may present.
    pub identities: Vec<SpiffeId>,
    /// Host names of ready endpoints, for headless services.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<HostName>,
}

impl RemoteBackend {
    /// Ready endpoints.
    #[must_use]
    pub fn ready(&self) -> u32 {
        LocalityHealth::ready_in(&self.localities)
    }

    /// All endpoints.
    #[must_use]
    pub fn total(&self) -> u32 {
        LocalityHealth::total_in(&self.localities)
    }
}

/// Resource `inbound`: what one workload's sidecar accepts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inbound {
    /// The workload.
    pub workload: WorkloadKey,
    /// The ports it serves, one entry per service and service port.
    pub ports: Vec<InboundPort>,
    /// What holds for the requests to each of those services.
    #[serde(default)]
    pub rules: BTreeMap<ServiceKey, InboundRules>,
}

/// What holds for the requests that one workload takes as an endpoint of one service.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct InboundRules {
    /// How much it takes, by service port; the port 0 stands for all.
    #[serde(default)]
    pub limits: Vec<(u16, RateLimit)>,
    /// What goes wrong on purpose, by service port; the port 0 stands for all.
    #[serde(default)]
    pub faults: Vec<(u16, Fault)>,
    /// How the sidecar looks after its app.
    #[serde(default)]
    pub health_checks: Vec<HealthCheck>,
    /// How it finds out what the app can take, by service port; the port 0 stands for all.
    #[serde(default)]
    pub admission: Vec<(u16, AdaptiveConcurrency)>,
}

impl InboundRules {
    /// Whether nothing is declared.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.limits.is_empty()
            && self.faults.is_empty()
            && self.health_checks.is_empty()
            && self.admission.is_empty()
    }
}

/// One service port that a workload serves.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct InboundPort {
    /// The service.
    pub service: ServiceKey,
    /// The service port.
    pub port: u16,
    /// The app's port.
    pub app_port: u16,
    /// What the app speaks.
    pub protocol: Protocol,
    /// Which peers' workloads may call.
    pub exported: ExportTo,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_index_knows_every_virtual_ip_and_its_scope() {
        let key: ServiceKey = "shop/orders".parse().unwrap();
        let cluster: ClusterName = "eu-west".parse().unwrap();
        let vips = Vips {
            local: vec!["10.0.0.1".parse().unwrap()],
            set: vec!["240.241.0.1".parse().unwrap(), "fd24::1".parse().unwrap()],
            pinned: [(cluster.clone(), vec!["240.241.0.2".parse().unwrap()])].into(),
        };
        let service = Service {
            key: key.clone(),
            kind: ServiceKind::Virtual,
            ports: vec![],
            vips,
            imported: true,
            local: None,
            remote: vec![],
            traffic: Traffic::default(),
        };
        let mut snapshot = Snapshot::default();
        snapshot.services.insert(key.clone(), Arc::new(service));
        snapshot.index();
        let scope = |ip: &str| snapshot.addresses[&ip.parse::<IpAddr>().unwrap()].1.clone();
        assert_eq!(scope("10.0.0.1"), Scope::Cluster);
        assert_eq!(scope("fd24::1"), Scope::Set);
        assert_eq!(scope("240.241.0.2"), Scope::Pinned(cluster));
    }
}
