//! Whom to dial.

use std::fmt;
use std::net::SocketAddr;

use portolan_model::snapshot::Snapshot;
use portolan_model::{ClusterName, ServiceKey, SpiffeId, WorkloadKey};
use portolan_transport::mtls::Expect;
use portolan_transport::wire::sni::SniName;

use crate::balancer::Subject;
use crate::http::Reach;

/// A service port at one place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    /// The service.
    pub(crate) service: ServiceKey,
    /// The service port.
    pub(crate) port: u16,
    /// Where.
    pub(crate) place: Place,
}

/// Where a service port is served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// By one endpoint of the own cluster.
    Endpoint {
        /// The workload.
        workload: WorkloadKey,
        /// Where its sidecar accepts mutual TLS.
        inbound: SocketAddr,
        /// Whom its certificate must name.
        identity: SpiffeId,
        /// The own cluster.
        cluster: ClusterName,
    },
    /// By another cluster, whose gateway picks the endpoint.
    Cluster {
        /// The cluster.
        cluster: ClusterName,
        /// Whom its endpoints' certificates may name.
        identities: Vec<SpiffeId>,
        /// How many of its endpoints are ready.
        ready: u32,
    },
}

/// What tells targets apart that keep connections.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct TargetKey {
    service: ServiceKey,
    port: u16,
    /// `None`: another cluster.
    workload: Option<WorkloadKey>,
    cluster: ClusterName,
}

impl Target {
    pub(crate) fn key(&self) -> TargetKey {
        let workload = match &self.place {
            Place::Endpoint { workload, .. } => Some(workload.clone()),
            Place::Cluster { .. } => None,
        };
        TargetKey {
            service: self.service.clone(),
            port: self.port,
            workload,
            cluster: self.cluster().clone(),
        }
    }

    /// The cluster that serves.
    pub(crate) fn cluster(&self) -> &ClusterName {
        match &self.place {
            Place::Endpoint { cluster, .. } | Place::Cluster { cluster, .. } => cluster,
        }
    }

    /// Whether it is in the own cluster.
    pub(crate) fn own(&self) -> bool {
        matches!(self.place, Place::Endpoint { .. })
    }

    /// How many endpoints it has.
    pub(crate) fn endpoints(&self) -> u32 {
        match &self.place {
            Place::Endpoint { .. } => 1,
            Place::Cluster { ready, .. } => *ready,
        }
    }

    /// How far away it is.
    pub(crate) fn reach(&self) -> Reach {
        if self.own() { Reach::Near } else { Reach::Far }
    }

    /// Who is judged by how it answers.
    pub(crate) fn subject(&self) -> Subject<'_> {
        match &self.place {
            Place::Endpoint { workload, .. } => Subject::Endpoint(workload),
            Place::Cluster { cluster, .. } => Subject::Cluster(&self.service, cluster),
        }
    }

    /// The name that TLS asks for.
    pub(crate) fn sni(&self) -> String {
        SniName::Service {
            port: self.port,
            service: self.service.clone(),
            cluster: self.cluster().clone(),
        }
        .to_string()
    }

    /// Whom its certificate must name.
    pub(crate) fn expect(&self) -> Expect {
        match &self.place {
            Place::Endpoint { identity, .. } => Expect::Exact(identity.clone()),
            Place::Cluster { identities, .. } => Expect::AnyOf(identities.clone()),
        }
    }

    /// Whether both are reached in the same way: how many endpoints are ready does not matter.
    pub(crate) fn same_way(&self, other: &Self) -> bool {
        let same_place = match (&self.place, &other.place) {
            (
                Place::Cluster {
                    cluster,
                    identities,
                    ..
                },
                Place::Cluster {
                    cluster: other,
                    identities: theirs,
                    ..
                },
            ) => cluster == other && identities == theirs,
            (one, other) => one == other,
        };
        same_place && self.service == other.service && self.port == other.port
    }

    /// Whether the snapshot still has it, at the same place and under the same identity.
    pub(crate) fn is_in(&self, snapshot: &Snapshot) -> bool {
        let Some(service) = snapshot.services.get(&self.service) else {
            return false;
        };
        match &self.place {
            Place::Endpoint {
                workload,
                inbound,
                identity,
                ..
            } => service
                .local
                .iter()
                .flat_map(|local| &local.endpoints)
                .any(|it| {
                    &it.workload == workload && &it.inbound == inbound && &it.identity == identity
                }),
            Place::Cluster {
                cluster,
                identities,
                ..
            } => service
                .remote
                .iter()
                .any(|remote| &remote.cluster == cluster && &remote.identities == identities),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Endpoint {
                workload, inbound, ..
            } => write!(f, "{workload} at {inbound}"),
            Place::Cluster { cluster, .. } => write!(f, "{} in {cluster}", self.service),
        }
    }
}
