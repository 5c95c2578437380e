//! What is written back to the authors of routes and policies.

use portolan_model::declared::{Declared, DeclaredSpec};
use portolan_model::snapshot::Snapshot;
use portolan_model::{ClusterIdentity, Problem};
use serde_json::{Value, json};

use super::facts::Facts;
use super::status::condition;
use super::{routes, serving};

/// The status of a route or policy, and what is wrong with it beside everything else.
pub(super) fn judge(
    facts: &Facts,
    snapshot: &Snapshot,
    _: &ClusterIdentity,
    declared: &Declared,
) -> (Value, Vec<Problem>) {
    if let Some(spec) = declared.spec.route() {
        return routes::report(facts, snapshot, declared, spec);
    }
    if let Some(spec) = declared.spec.rate_limit() {
        return serving::limits_status(facts, &spec.targets);
    }
    if let Some(spec) = declared.spec.fault() {
        return serving::faults_status(facts, spec);
    }
    let targets = declared.spec.targets();
    let missing = targets
        .iter()
        .find(|key| !snapshot.services.contains_key(*key));
    let accepted = match (missing, &declared.spec) {
        (Some(key), _) => condition(
            "Accepted",
            "False",
            "TargetNotFound",
            &format!("there is no service {key}"),
        ),
        (None, DeclaredSpec::Route(_) | DeclaredSpec::Traffic(_) | _) => {
            condition("Accepted", "True", "Accepted", "it is in force")
        }
    };
    (json!({ "conditions": [accepted] }), Vec::new())
}
