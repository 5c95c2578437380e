//! What is written back to the authors of routes and policies.

use portolan_model::declared::{Declared, DeclaredSpec};
use portolan_model::snapshot::Snapshot;
use portolan_model::{ClusterIdentity, Problem};
use serde_json::{Value, json};

use super::facts::Facts;
use super::{policies, routes, serving};

/// The status of a route or policy, and what is wrong with it beside everything else.
pub(super) fn judge(
    facts: &Facts,
    snapshot: &Snapshot,
    _: &ClusterIdentity,
    declared: &Declared,
) -> (Value, Vec<Problem>) {
    match &declared.spec {
        DeclaredSpec::Route(spec) => routes::report(facts, snapshot, declared, spec),
        DeclaredSpec::Traffic(spec) => policies::judge(facts, snapshot, declared, spec),
        DeclaredSpec::RateLimit(spec) => serving::limits_status(facts, &spec.targets),
        DeclaredSpec::Fault(spec) => serving::faults_status(facts, spec),
        // A grant has no status (it is not one of the specification's); others have statuses of their own kinds.
        DeclaredSpec::Grant
        | DeclaredSpec::Service(_)
        | DeclaredSpec::Export(_)
        | DeclaredSpec::Workload(_)
        | DeclaredSpec::Peer(_) => (json!({}), Vec::new()),
    }
}
