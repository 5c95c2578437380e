//! `RateLimitPolicy`.

use portolan_model::declared::ResourceKind;
use serde_json::{Value, json};

use super::specified;

pub(super) fn policy() -> Value {
    specified(
        ResourceKind::RateLimitPolicy,
        json!({ "type": "object", "properties": {} }),
    )
}
