//! Session affinity: the traffic policies that a Service's `sessionAffinity: ClientIP` makes of the declared
//! ones. A hash of the caller keeps it with its endpoint, and needs neither memory nor a timeout.

use portolan_model::traffic::{Algorithm, Frontend, HashKey, HashOn, Traffic, TrafficPolicy};

use super::service::SessionAffinities;

/// What callers obey where at least one face has session affinity.
pub(super) fn obey(declared: Traffic, affinity: SessionAffinities) -> Traffic {
    let mut traffic = Traffic {
        set: on_its_own(declared.set, &declared.cluster),
        cluster: declared.cluster,
    };
    if !affinity.cluster.is_none() {
        by_caller(&mut traffic.cluster);
    }
    if !affinity.set.is_none() {
        by_caller(&mut traffic.set);
    }
    traffic
}

/// The face of the set with policies of its own for all that it would take from the Service's: the two faces
/// may differ in affinity.
fn on_its_own(mut set: Frontend, cluster: &Frontend) -> Frontend {
    if set.policy.is_none() {
        for (port, policy) in &cluster.port_policies {
            let of_port = set.port_policies.entry(*port);
            of_port.or_insert_with(|| policy.clone());
        }
        set.policy = Some(cluster.policy.clone().unwrap_or_default());
    }
    set
}

fn by_caller(frontend: &mut Frontend) {
    sticky(frontend.policy.get_or_insert_default());
    frontend.port_policies.values_mut().for_each(sticky);
}

/// A policy that hashes by itself says more exactly what is to stay together.
fn sticky(policy: &mut TrafficPolicy) {
    let algorithm = &mut policy.balancing.algorithm;
    if !matches!(algorithm, Algorithm::RingHash(_) | Algorithm::Maglev(_)) {
        *algorithm = Algorithm::Maglev(HashOn {
            keys: vec![HashKey::Source],
        });
    }
}
