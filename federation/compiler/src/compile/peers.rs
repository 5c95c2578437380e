//! Which declared peers are admitted into the mesh.

use std::collections::BTreeMap;

use portolan_model::declared::PeerSpec;
use portolan_model::{ClusterIdentity, ClusterName, Problem, Severity, TrustDomain};

/// The outcome of judging all declared peers together.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Peers {
    /// The linked clusters.
    pub(super) admitted: BTreeMap<ClusterName, PeerSpec>,
    /// Why the others are none.
    pub(super) rejected: BTreeMap<ClusterName, Problem>,
}

impl Peers {
    /// Judges the declared peers. Of several that claim one trust domain the oldest has it.
    pub(super) fn judge<'a>(
        identity: &ClusterIdentity,
        declared: impl Iterator<Item = (ClusterName, &'a PeerSpec, u64)>,
    ) -> Self {
        let mut by_age: Vec<_> = declared.collect();
        by_age.sort_by(|(a, _, a_ms), (b, _, b_ms)| (a_ms, a).cmp(&(b_ms, b)));
        let mut peers = Self::default();
        let mut owners: BTreeMap<&TrustDomain, ClusterName> = BTreeMap::new();
        for (name, spec, _) in by_age {
            let problem = own_name_or_domain(identity, &name, spec).or_else(|| {
                owners
                    .get(&spec.trust_domain)
                    .map(|owner| shared_domain(&spec.trust_domain, owner))
            });
            if let Some(problem) = problem {
                peers.rejected.insert(name, problem);
            } else {
                owners.insert(&spec.trust_domain, name.clone());
                peers.admitted.insert(name, spec.clone());
            }
        }
        peers
    }
}

/// A peer may be neither this cluster nor speak for it.
pub(crate) fn own_name_or_domain(
    identity: &ClusterIdentity,
    name: &ClusterName,
    spec: &PeerSpec,
) -> Option<Problem> {
    if *name == identity.name {
        return Some(error(
            "metadata.name",
            format!("`{name}` is this very cluster"),
            "declare a Peer for each other cluster of the set, and none for this one",
        ));
    }
    (spec.trust_domain == identity.trust_domain).then(|| {
        error(
            "spec.trustDomain",
            format!("`{}` is this cluster's own trust domain", spec.trust_domain),
            "name the trust domain in which the other cluster's CA issues, by default `<cluster>.<cluster set>`",
        )
    })
}

/// Two peers may not share a trust domain: each could speak for the other.
pub(crate) fn shared_domain(domain: &TrustDomain, owner: &ClusterName) -> Problem {
    error(
        "spec.trustDomain",
        format!("the trust domain `{domain}` already belongs to Peer {owner}"),
        "give each peer the trust domain of its own CA, or delete the other Peer",
    )
}

fn error(path: &str, message: String, remedy: &str) -> Problem {
    Problem {
        severity: Severity::Error,
        resource: None,
        position: None,
        path: path.to_owned(),
        message,
        remedy: remedy.to_owned(),
    }
}
