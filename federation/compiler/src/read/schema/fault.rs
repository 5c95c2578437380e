//! `FaultPolicy`.

use portolan_model::declared::ResourceKind;
use portolan_model::fault::FAULTS_MAX;
use serde_json::{Value, json};

use super::{matching, specified};

/// The most names of one kind that tell a fault's callers.
const CALLERS_MAX: usize = 64;

pub(super) fn policy() -> Value {
    let names = json!({ "type": "array", "maxItems": CALLERS_MAX, "items": { "type": "string" } });
    let percent = json!({ "type": "number", "minimum": 0, "maximum": 100 });
    let fault = json!({
        "type": "object",
        "required": ["name"],
        "properties": {
            "name": { "type": "string", "minLength": 1, "maxLength": 63 },
            "match": matching::matches(),
            "callers": {
                "type": "object",
                "properties": { "namespaces": names, "serviceAccounts": names, "clusters": names },
            },
            "delay": {
                "type": "object",
                "required": ["fixed"],
                "properties": { "fixed": { "type": "string" }, "percent": percent },
            },
            "abort": {
                "type": "object",
                "properties": {
                    "httpStatus": { "type": "integer", "minimum": 200, "maximum": 599 },
                    "grpcStatus": { "type": "integer", "minimum": 1, "maximum": 16 },
                    "reset": { "type": "boolean", "enum": [true] },
                    "percent": percent,
                },
            },
        },
    });
    specified(
        ResourceKind::FaultPolicy,
        json!({
            "type": "object",
            "required": ["targetRefs", "faults"],
            "properties": {
                "targetRefs": matching::targets(),
                "ends": { "type": "string" },
                "lasts": { "type": "string" },
                "faults": { "type": "array", "minItems": 1, "maxItems": FAULTS_MAX, "items": fault },
            },
        }),
    )
}
