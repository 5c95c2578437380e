//! Declarations: what people (and registering proxies) wrote, parsed and valid in themselves.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::cluster::Locality;
use crate::names::{
    ClusterName, HostName, NameError, Namespace, PortName, Region, ServiceAccount, ServiceKey,
    TrustDomain,
};
use crate::service::{Protocol, ServiceKind};

/// The port on which a sidecar accepts mutual TLS unless its workload says otherwise.
pub const DEFAULT_INBOUND_PORT: u16 = 15_008;

/// The kinds of resource that Portolan keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ResourceKind {
    /// `v1/Service`
    Service,
    /// `multicluster.x-k8s.io/v1beta1/ServiceExport`
    ServiceExport,
    /// `multicluster.x-k8s.io/v1beta1/ServiceImport`; written by Portolan alone.
    ServiceImport,
    /// `portolan.dev/v1alpha1/Workload`
    Workload,
    /// `portolan.dev/v1alpha1/Peer`
    Peer,
}

impl ResourceKind {
    /// Every kind.
    pub const ALL: &[Self] = &[
        Self::Service,
        Self::ServiceExport,
        Self::ServiceImport,
        Self::Workload,
        Self::Peer,
    ];

    /// The `kind` field.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Service => "Service",
            Self::ServiceExport => "ServiceExport",
            Self::ServiceImport => "ServiceImport",
            Self::Workload => "Workload",
            Self::Peer => "Peer",
        }
    }

    /// The `apiVersion` that is stored and printed.
    #[must_use]
    pub fn api_version(self) -> &'static str {
        match self {
            Self::Service => "v1",
            Self::ServiceExport | Self::ServiceImport => "multicluster.x-k8s.io/v1beta1",
            Self::Workload | Self::Peer => "portolan.dev/v1alpha1",
        }
    }

    /// Every `apiVersion` that is accepted.
    #[must_use]
    pub fn accepted_api_versions(self) -> &'static [&'static str] {
        match self {
            Self::Service => &["v1"],
            Self::ServiceExport | Self::ServiceImport => &[
                "multicluster.x-k8s.io/v1beta1",
                "multicluster.x-k8s.io/v1alpha1",
            ],
            Self::Workload | Self::Peer => &["portolan.dev/v1alpha1"],
        }
    }

    /// The lower-case plural, as typed after `portolan get`.
    #[must_use]
    pub fn plural(self) -> &'static str {
        match self {
            Self::Service => "services",
            Self::ServiceExport => "serviceexports",
            Self::ServiceImport => "serviceimports",
            Self::Workload => "workloads",
            Self::Peer => "peers",
        }
    }

    /// Whether resources of this kind live in a namespace.
    #[must_use]
    pub fn namespaced(self) -> bool {
        !matches!(self, Self::Peer)
    }

    /// Reads a kind as typed: `Service`, `service`, `services`, `svc`, `export`, `import`, `wl`, …
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        let word = word.to_ascii_lowercase();
        let short = match word.as_str() {
            "svc" => Some(Self::Service),
            "export" | "exports" | "svcex" => Some(Self::ServiceExport),
            "import" | "imports" | "svcim" => Some(Self::ServiceImport),
            "wl" => Some(Self::Workload),
            _ => None,
        };
        short.or_else(|| {
            Self::ALL
                .iter()
                .copied()
                .find(|kind| kind.plural() == word || kind.as_str().eq_ignore_ascii_case(&word))
        })
    }
}

impl fmt::Display for ResourceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Which resource. Displays as `Kind namespace/name`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ResourceKey {
    /// Its kind.
    pub kind: ResourceKind,
    /// Its namespace, for kinds that have one.
    pub namespace: Option<Namespace>,
    /// Its name.
    pub name: String,
}

impl ResourceKey {
    /// A namespaced resource's key.
    #[must_use]
    pub fn namespaced(kind: ResourceKind, namespace: Namespace, name: impl Into<String>) -> Self {
        Self {
            kind,
            namespace: Some(namespace),
            name: name.into(),
        }
    }

    /// A cluster-wide resource's key.
    #[must_use]
    pub fn cluster_wide(kind: ResourceKind, name: impl Into<String>) -> Self {
        Self {
            kind,
            namespace: None,
            name: name.into(),
        }
    }

    /// The key under which the registry keeps the resource: `services/shop/orders`, `peers/us-west`.
    #[must_use]
    pub fn path(&self) -> String {
        match &self.namespace {
            Some(namespace) => format!("{}/{namespace}/{}", self.kind.plural(), self.name),
            None => format!("{}/{}", self.kind.plural(), self.name),
        }
    }

    /// Reads a key from [`ResourceKey::path`].
    #[must_use]
    pub fn parse_path(path: &str) -> Option<Self> {
        let mut parts = path.split('/');
        let plural = parts.next()?;
        let kind = ResourceKind::ALL
            .iter()
            .copied()
            .find(|kind| kind.plural() == plural)?;
        let namespace = if kind.namespaced() {
            Some(Namespace::parse(parts.next()?).ok()?)
        } else {
            None
        };
        let name = parts.next()?.to_owned();
        parts.next().is_none().then_some(Self {
            kind,
            namespace,
            name,
        })
    }

    /// The service that a Service, ServiceExport or ServiceImport is about (the MCS API maps by name).
    ///
    /// # Errors
    /// When the resource has no namespace or its name is no service name.
    pub fn service(&self) -> Result<ServiceKey, NameError> {
        let namespace = self
            .namespace
            .clone()
            .ok_or_else(|| NameError::new("service", &self.name, "a service has a namespace"))?;
        Ok(ServiceKey::new(namespace, self.name.parse()?))
    }
}

impl fmt::Display for ResourceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{} {namespace}/{}", self.kind, self.name),
            None => write!(f, "{} {}", self.kind, self.name),
        }
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registry_paths_round_trip() {
        let keys = [
            ResourceKey::namespaced(ResourceKind::Service, "shop".parse().unwrap(), "orders"),
            ResourceKey::cluster_wide(ResourceKind::Peer, "us-west"),
        ];
        for key in keys {
            assert_eq!(ResourceKey::parse_path(&key.path()), Some(key));
        }
        for bad in [
            "",
            "services",
            "services/shop",
            "services/Shop/x",
            "peers/a/b",
            "pods/a/b",
        ] {
            assert_eq!(ResourceKey::parse_path(bad), None, "{bad}");
        }
    }

    #[test]
    fn kinds_are_read_as_people_type_them() {
        for (word, kind) in [
            ("svc", ResourceKind::Service),
            ("Peer", ResourceKind::Peer),
            ("EXPORTS", ResourceKind::ServiceExport),
        ] {
            assert_eq!(ResourceKind::parse(word), Some(kind));
        }
        assert_eq!(ResourceKind::parse("pod"), None);
    }
}
