//! `TrafficPolicy`.

use portolan_model::declared::ResourceKind;
use serde_json::{Value, json};

use super::specified;

pub(super) fn policy() -> Value {
    specified(
        ResourceKind::TrafficPolicy,
        json!({ "type": "object", "properties": {} }),
    )
}
