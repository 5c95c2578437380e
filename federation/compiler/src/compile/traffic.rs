//! What is declared about the traffic to a service.

use portolan_model::ServiceKey;
use portolan_model::declared::Face;
use portolan_model::snapshot::InboundRules;
use portolan_model::traffic::{Frontend, Traffic};

use super::facts::Facts;

/// What callers of a service obey.
pub(super) fn compile(facts: &Facts, key: &ServiceKey) -> Traffic {
    Traffic {
        cluster: frontend(facts, key, Face::Cluster),
        set: frontend(facts, key, Face::Set),
    }
}

fn frontend(_facts: &Facts, _key: &ServiceKey, _face: Face) -> Frontend {
    Frontend::default()
}

/// What the workloads of a service obey.
pub(super) fn inbound_rules(_facts: &Facts, _key: &ServiceKey) -> InboundRules {
    InboundRules::default()
}
