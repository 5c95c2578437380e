//! `FaultPolicy`.

use portolan_model::declared::ResourceKey;
use portolan_model::fault::FaultPolicySpec;
use serde_json::Value;

use super::super::finding::Findings;

pub(super) fn read(
    _key: Option<&ResourceKey>,
    _spec: &Value,
    _findings: &mut Findings,
) -> Option<FaultPolicySpec> {
    None
}
