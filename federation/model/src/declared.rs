//! Declarations: what people (and registering proxies) wrote, parsed and valid in themselves.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::cluster::Locality;
use crate::fault::FaultPolicySpec;
use crate::limit::RateLimitPolicySpec;
use crate::names::{
    ClusterName, HostName, PortName, Region, ServiceAccount, ServiceKey, TrustDomain,
};
use crate::route::RouteSpec;
use crate::service::{Protocol, ServiceKind, SessionAffinity};
use crate::traffic::TrafficPolicySpec;

pub use crate::resource::{ResourceKey, ResourceKind};

/// The port on which a sidecar accepts mutual TLS unless its workload says otherwise.
pub const DEFAULT_INBOUND_PORT: u16 = 15_008;

/// One valid declaration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Declared {
    /// Which resource.
    pub key: ResourceKey,
    /// When it was first stored, in milliseconds since the Unix epoch (MCS precedence goes by it).
    pub created_ms: u64,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// What it says.
    pub spec: DeclaredSpec,
}

/// What a declaration says, by kind. ServiceImports are output and never declared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeclaredSpec {
    /// A `v1/Service`.
    Service(ServiceSpec),
    /// A `ServiceExport`.
    Export(ExportSpec),
    /// A `Workload`.
    Workload(WorkloadSpec),
    /// A `Peer`.
    Peer(PeerSpec),
    /// An `HTTPRoute`, `GRPCRoute`, `TCPRoute` or `TLSRoute`.
    Route(RouteSpec),
    /// A `ReferenceGrant`. Routes of a mesh need none (GEP-1426), so nothing of it is kept.
    Grant,
    /// A `TrafficPolicy`.
    Traffic(Box<TrafficPolicySpec>),
    /// A `RateLimitPolicy`.
    RateLimit(RateLimitPolicySpec),
    /// A `FaultPolicy`.
    Fault(FaultPolicySpec),
}

macro_rules! accessors {
    ($($(#[$doc:meta])* $name:ident: $variant:ident($spec:ty);)*) => {
        impl DeclaredSpec {
            $($(#[$doc])*
            #[must_use]
            pub fn $name(&self) -> Option<&$spec> {
                if let Self::$variant(spec) = self {
                    Some(spec)
                } else {
                    None
                }
            })*
        }
    };
}

accessors! {
    /// The Service, if it is one.
    service: Service(ServiceSpec);
    /// The export, if it is one.
    export: Export(ExportSpec);
    /// The workload, if it is one.
    workload: Workload(WorkloadSpec);
    /// The peer, if it is one.
    peer: Peer(PeerSpec);
    /// The route, if it is one.
    route: Route(RouteSpec);
    /// The traffic policy, if it is one.
    traffic: Traffic(TrafficPolicySpec);
    /// The rate limits, if it is that.
    rate_limit: RateLimit(RateLimitPolicySpec);
    /// The faults, if it is that.
    fault: Fault(FaultPolicySpec);
}

impl DeclaredSpec {
    /// The services that it is attached to (its own namespace's, but for consumer routes).
    #[must_use]
    pub fn targets(&self) -> BTreeSet<ServiceKey> {
        match self {
            Self::Route(spec) => spec.parents.iter().filter_map(|it| it.service()).collect(),
            Self::Traffic(spec) => spec.targets.iter().map(|it| it.service.clone()).collect(),
            Self::RateLimit(spec) => spec.targets.iter().map(|it| it.service.clone()).collect(),
            Self::Fault(spec) => spec.targets.iter().map(|it| it.service.clone()).collect(),
            Self::Service(_)
            | Self::Export(_)
            | Self::Workload(_)
            | Self::Peer(_)
            | Self::Grant => BTreeSet::new(),
        }
    }
}

/// A frontend that a policy is attached to, in the policy's own namespace.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TargetRef {
    /// Which of the service's two faces.
    pub face: Face,
    /// The service.
    pub service: ServiceKey,
    /// One of its ports, by `sectionName`; all without it.
    pub port: Option<PortName>,
}

/// The two faces of a service: what its name in the cluster means, and what its name in the cluster set
/// means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Face {
    /// The `Service`: names of `svc.cluster.local`.
    Cluster,
    /// The `ServiceImport`: names of `svc.clusterset.local` and `global`.
    Set,
}

/// What Portolan reads of a `v1/Service`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceSpec {
    /// Its type.
    pub kind: DeclaredServiceKind,
    /// Its ports, in the declared order, with unique names and unique (transport, number).
    pub ports: Vec<ServicePort>,
    /// Labels that its workloads carry. Empty selects nothing.
    pub selector: BTreeMap<String, String>,
    /// Its cluster IPs, where somebody gave it some.
    pub cluster_ips: Vec<IpAddr>,
    /// Whether endpoints that are not ready are listed as well (headless services only).
    pub publish_not_ready: bool,
    /// Whether calls of one client keep to one endpoint. Headless services have none.
    pub affinity: SessionAffinity,
}

/// A declared service's type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeclaredServiceKind {
    /// Virtual or headless.
    Of(ServiceKind),
    /// `ExternalName`: an alias; it cannot be exported (MCS API: `InvalidServiceType`).
    ExternalName(String),
}

/// A declared service port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePort {
    /// Its name.
    pub name: Option<PortName>,
    /// Its number.
    pub number: u16,
    /// What is spoken.
    pub protocol: Protocol,
    /// The workload's port.
    pub target: TargetPort,
}

/// How a service port finds the workload's port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TargetPort {
    /// By number.
    Number(u16),
    /// By the name of one of the workload's ports.
    Name(PortName),
}

/// A `ServiceExport`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportSpec {
    /// To whom; from the annotation `portolan.dev/export-to`, everyone without it.
    pub to: ExportTo,
}

/// To which peers a service is exported.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ExportTo {
    /// To nobody: calls from other clusters are refused.
    #[default]
    Nobody,
    /// To every peer.
    Everyone,
    /// To these peers.
    Peers(BTreeSet<ClusterName>),
}

impl ExportTo {
    /// Whether `cluster` may call.
    #[must_use]
    pub fn allows(&self, cluster: &ClusterName) -> bool {
        match self {
            Self::Nobody => false,
            Self::Everyone => true,
            Self::Peers(peers) => peers.contains(cluster),
        }
    }
}

/// A `Workload`: one instance outside Kubernetes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct WorkloadSpec {
    /// The instance's address.
    pub address: IpAddr,
    /// Its ports by name.
    #[serde(default)]
    pub ports: BTreeMap<PortName, u16>,
    /// The service account it runs as.
    pub service_account: ServiceAccount,
    /// Where it runs; the cluster's region without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub locality: Option<Locality>,
    /// Its share relative to its siblings, 100 by default; 0 takes no new work.
    #[serde(default = "default_weight")]
    pub weight: u32,
    /// Where its sidecar accepts mutual TLS: a port of `address`.
    #[serde(default = "default_inbound_port")]
    pub inbound_port: u16,
    /// Its DNS host name in headless services.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<HostName>,
    /// Whether a sidecar registered it and keeps it alive; without its sidecar it is not ready.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub leased: bool,
}

fn default_weight() -> u32 {
    100
}

fn default_inbound_port() -> u16 {
    DEFAULT_INBOUND_PORT
}

/// A `Peer`: a linked cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct PeerSpec {
    /// The only trust domain in which this peer may name identities.
    pub trust_domain: TrustDomain,
    /// Its region.
    pub region: Region,
    /// Where its gateways accept links (UDP). Empty for a cluster that cannot be dialled: it dials us.
    #[serde(default)]
    pub gateways: Vec<SocketAddr>,
}
