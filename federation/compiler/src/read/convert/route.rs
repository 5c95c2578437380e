//! `HTTPRoute`, `GRPCRoute`, `TLSRoute`, `TCPRoute`.

use portolan_model::declared::{ResourceKey, ResourceKind};
use portolan_model::route::RouteSpec;
use serde_json::Value;

use super::super::finding::Findings;

pub(super) fn read(
    _kind: ResourceKind,
    _key: Option<&ResourceKey>,
    _spec: &Value,
    _findings: &mut Findings,
) -> Option<RouteSpec> {
    None
}
