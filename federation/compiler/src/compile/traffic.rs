//! What is declared about the traffic to a service.

use portolan_model::ServiceKey;
use portolan_model::declared::Face;
use portolan_model::snapshot::{InboundRules, Service};
use portolan_model::traffic::{Frontend, Traffic};

use super::facts::Facts;
use super::service::SessionAffinities;
use super::{affinity, policies, routes, serving};

/// What callers of a service obey.
pub(super) fn compile(facts: &Facts, service: &Service, affinity: SessionAffinities) -> Traffic {
    let declared = Traffic {
        cluster: frontend(facts, service, Face::Cluster),
        set: frontend(facts, service, Face::Set),
    };
    if affinity.cluster.is_none() && affinity.set.is_none() {
        return declared;
    }
    affinity::obey(declared, affinity)
}

fn frontend(facts: &Facts, service: &Service, face: Face) -> Frontend {
    let mut frontend = Frontend {
        routes: routes::accepted(facts, service, face),
        ..Frontend::default()
    };
    let own = service.local.as_ref().map_or(&[][..], |local| &local.ports);
    let ports = match face {
        Face::Cluster => own,
        Face::Set => &service.ports,
    };
    policies::attach(facts, &service.key, face, ports, &mut frontend);
    frontend
}

/// What the workloads of a service obey.
pub(super) fn inbound_rules(facts: &Facts, key: &ServiceKey) -> InboundRules {
    InboundRules {
        limits: serving::limits(facts, key),
        faults: serving::faults(facts, key),
        health_checks: policies::health_checks(facts, key),
        admission: policies::admission(facts, key),
    }
}
