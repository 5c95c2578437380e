//! Judges declarations that are valid in themselves against everything else that is declared.

use std::collections::BTreeMap;

use portolan_model::declared::{Declared, ResourceKey};
use portolan_model::{ClusterIdentity, Problem};

/// Judges the declarations of a batch as if they were stored beside (and over) what is `stored`
/// already. Errors must keep the batch from being stored; warnings are told and no more.
#[must_use]
pub fn check(
    _identity: &ClusterIdentity,
    _batch: &[Declared],
    _stored: &BTreeMap<ResourceKey, Declared>,
) -> Vec<Problem> {
    Vec::new()
}
