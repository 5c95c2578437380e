//! Which requests a limit or fault is for: the matches of an HTTPRoute.

use portolan_model::route::MATCHES_PER_RULE_MAX;
use serde_json::{Value, json};

/// The most headers, and the most query parameters, of one match.
const VALUES_MAX: usize = 16;

pub(super) fn matches() -> Value {
    let value = json!({
        "type": "object",
        "required": ["name", "value"],
        "properties": {
            "type": { "type": "string", "enum": ["Exact", "RegularExpression"] },
            "name": { "type": "string", "minLength": 1, "maxLength": 256 },
            "value": { "type": "string", "minLength": 1, "maxLength": 4096 },
        },
    });
    let path = json!({
        "type": "object",
        "required": ["value"],
        "properties": {
            "type": { "type": "string", "enum": ["Exact", "PathPrefix", "RegularExpression"] },
            "value": { "type": "string", "minLength": 1, "maxLength": 1024 },
        },
    });
    let one = json!({
        "type": "object",
        "minProperties": 1,
        "properties": {
            "path": path,
            "method": { "type": "string", "minLength": 1, "maxLength": 64 },
            "headers": { "type": "array", "maxItems": VALUES_MAX, "items": value },
            "queryParams": { "type": "array", "maxItems": VALUES_MAX, "items": value },
        },
    });
    json!({ "type": "array", "maxItems": MATCHES_PER_RULE_MAX, "items": one })
}

/// What a policy is attached to.
pub(super) fn targets() -> Value {
    let target = json!({
        "type": "object",
        "required": ["kind", "name"],
        "properties": {
            "group": { "type": "string" },
            "kind": { "type": "string" },
            "name": { "type": "string" },
            "sectionName": { "type": "string" },
        },
    });
    json!({ "type": "array", "minItems": 1, "maxItems": 16, "items": target })
}
