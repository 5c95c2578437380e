//! Clusters and places.

use serde::{Deserialize, Serialize};

use crate::names::{ClusterName, ClusterSetName, NameError, Region, TrustDomain, Zone};

/// Where something runs.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Locality {
    /// The region.
    pub region: Region,
    /// The zone within the region, where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<Zone>,
}

/// Who this cluster is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterIdentity {
    /// The cluster's name.
    pub name: ClusterName,
    /// The set it belongs to.
    pub set: ClusterSetName,
    /// Its region.
    pub region: Region,
    /// Its zones.
    pub zones: Vec<Zone>,
    /// The trust domain its CA issues in.
    pub trust_domain: TrustDomain,
}

impl ClusterIdentity {
    /// The trust domain a cluster has when nobody chose one: `<cluster>.<cluster set>`.
    ///
    /// # Errors
    /// When the two together are longer than a trust domain may be.
    pub fn default_trust_domain(
        cluster: &ClusterName,
        set: &ClusterSetName,
    ) -> Result<TrustDomain, NameError> {
        TrustDomain::parse(&format!("{cluster}.{set}"))
    }
}
