//! `RateLimitPolicy`.

use portolan_model::declared::ResourceKind;
use portolan_model::limit::LIMITS_MAX;
use serde_json::{Value, json};

use super::{matching, specified};

pub(super) fn policy() -> Value {
    let count = json!({ "type": "integer", "minimum": 1, "maximum": u32::MAX });
    let limit = json!({
        "type": "object",
        "required": ["name"],
        "properties": {
            "name": { "type": "string", "minLength": 1, "maxLength": 63 },
            "match": matching::matches(),
            "per": { "type": "string", "enum": ["Service", "Identity", "Namespace", "Header"] },
            "header": { "type": "string", "minLength": 1, "maxLength": 256 },
            "requests": {
                "type": "object",
                "required": ["count", "per"],
                "properties": {
                    "count": count,
                    "per": { "type": "string" },
                    "burst": count,
                },
            },
            "connections": count,
            "bytes": {
                "type": "object",
                "required": ["count", "per"],
                "properties": {
                    "count": { "type": "integer", "minimum": 1, "maximum": 1_u64 << 53 },
                    "per": { "type": "string" },
                },
            },
            "counted": { "type": "string", "enum": ["Instance", "Cluster"] },
            "alone": { "type": "string", "enum": ["Open", "Closed", "LastShare"] },
        },
    });
    specified(
        ResourceKind::RateLimitPolicy,
        json!({
            "type": "object",
            "required": ["targetRefs", "limits"],
            "properties": {
                "targetRefs": matching::targets(),
                "limits": { "type": "array", "minItems": 1, "maxItems": LIMITS_MAX, "items": limit },
            },
        }),
    )
}
