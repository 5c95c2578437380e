//! The kinds of resource, and which resource.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::names::{NameError, Namespace, ServiceKey};

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
    /// `gateway.networking.k8s.io/v1/HTTPRoute`
    HttpRoute,
    /// `gateway.networking.k8s.io/v1/GRPCRoute`
    GrpcRoute,
    /// `gateway.networking.k8s.io/v1/TLSRoute`
    TlsRoute,
    /// `gateway.networking.k8s.io/v1/TCPRoute`
    TcpRoute,
    /// `gateway.networking.k8s.io/v1beta1/ReferenceGrant`
    ReferenceGrant,
    /// `portolan.dev/v1alpha1/TrafficPolicy`
    TrafficPolicy,
    /// `portolan.dev/v1alpha1/RateLimitPolicy`
    RateLimitPolicy,
    /// `portolan.dev/v1alpha1/FaultPolicy`
    FaultPolicy,
}

impl ResourceKind {
    /// Every kind.
    pub const ALL: &[Self] = &[
        Self::Service,
        Self::ServiceExport,
        Self::ServiceImport,
        Self::Workload,
        Self::Peer,
        Self::HttpRoute,
        Self::GrpcRoute,
        Self::TlsRoute,
        Self::TcpRoute,
        Self::ReferenceGrant,
        Self::TrafficPolicy,
        Self::RateLimitPolicy,
        Self::FaultPolicy,
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
            Self::HttpRoute => "HTTPRoute",
            Self::GrpcRoute => "GRPCRoute",
            Self::TlsRoute => "TLSRoute",
            Self::TcpRoute => "TCPRoute",
            Self::ReferenceGrant => "ReferenceGrant",
            Self::TrafficPolicy => "TrafficPolicy",
            Self::RateLimitPolicy => "RateLimitPolicy",
            Self::FaultPolicy => "FaultPolicy",
        }
    }

    /// The `apiVersion` that is stored and printed.
    #[must_use]
    pub fn api_version(self) -> &'static str {
        match self {
            Self::Service => "v1",
            Self::ServiceExport | Self::ServiceImport => "multicluster.x-k8s.io/v1beta1",
            Self::HttpRoute | Self::GrpcRoute | Self::TlsRoute => "gateway.networking.k8s.io/v1",
            Self::TcpRoute => "gateway.networking.k8s.io/v1alpha2",
            Self::ReferenceGrant => "gateway.networking.k8s.io/v1beta1",
            Self::Workload
            | Self::Peer
            | Self::TrafficPolicy
            | Self::RateLimitPolicy
            | Self::FaultPolicy => "portolan.dev/v1alpha1",
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
            Self::HttpRoute => &[
                "gateway.networking.k8s.io/v1",
                "gateway.networking.k8s.io/v1beta1",
            ],
            Self::GrpcRoute => &[
                "gateway.networking.k8s.io/v1",
                "gateway.networking.k8s.io/v1alpha2",
            ],
            Self::TlsRoute => &[
                "gateway.networking.k8s.io/v1",
                "gateway.networking.k8s.io/v1alpha3",
                "gateway.networking.k8s.io/v1alpha2",
            ],
            Self::TcpRoute => &[
                "gateway.networking.k8s.io/v1alpha2",
                "gateway.networking.k8s.io/v1",
            ],
            Self::ReferenceGrant => &[
                "gateway.networking.k8s.io/v1beta1",
                "gateway.networking.k8s.io/v1",
            ],
            Self::Workload
            | Self::Peer
            | Self::TrafficPolicy
            | Self::RateLimitPolicy
            | Self::FaultPolicy => &["portolan.dev/v1alpha1"],
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
            Self::HttpRoute => "httproutes",
            Self::GrpcRoute => "grpcroutes",
            Self::TlsRoute => "tlsroutes",
            Self::TcpRoute => "tcproutes",
            Self::ReferenceGrant => "referencegrants",
            Self::TrafficPolicy => "trafficpolicies",
            Self::RateLimitPolicy => "ratelimitpolicies",
            Self::FaultPolicy => "faultpolicies",
        }
    }

    /// Whether resources of this kind live in a namespace.
    #[must_use]
    pub fn namespaced(self) -> bool {
        !matches!(self, Self::Peer)
    }

    /// Whether it is one of the Gateway API's route kinds.
    #[must_use]
    pub fn is_route(self) -> bool {
        matches!(
            self,
            Self::HttpRoute | Self::GrpcRoute | Self::TlsRoute | Self::TcpRoute
        )
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
