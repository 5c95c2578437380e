//! The Gateway API's route kinds: the standard channel's fields, and of the experimental one `retry`
//! and `sessionPersistence`. Words of closed lists (`type`, `method`) are judged when the document is
//! converted: one that a newer version knows must be told in the route's status.

mod filters;
mod rules;

use portolan_model::declared::ResourceKind;
use portolan_model::route::{PARENTS_MAX, RULES_MAX};
use serde_json::{Map, Value, json};

use super::specified;

/// The most host names of a route.
const HOSTNAMES_MAX: usize = 16;
/// The most entries of a grant's lists.
const GRANTED_MAX: usize = 16;

pub(super) fn http() -> Value {
    let rule = object(
        "What becomes of the requests that match.",
        [
            ("name", rules::name()),
            ("matches", rules::http_matches()),
            ("filters", filters::http()),
            ("backendRefs", rules::backends(Some(filters::http()))),
            ("timeouts", rules::timeouts()),
            ("retry", rules::retry()),
            ("sessionPersistence", rules::session()),
        ],
    );
    route(ResourceKind::HttpRoute, rule, false)
}

pub(super) fn grpc() -> Value {
    let rule = object(
        "What becomes of the calls that match.",
        [
            ("name", rules::name()),
            ("matches", rules::grpc_matches()),
            ("filters", filters::grpc()),
            ("backendRefs", rules::backends(Some(filters::grpc()))),
            ("sessionPersistence", rules::session()),
        ],
    );
    route(ResourceKind::GrpcRoute, rule, false)
}

pub(super) fn tls() -> Value {
    route(ResourceKind::TlsRoute, opaque_rule(), true)
}

pub(super) fn tcp() -> Value {
    let mut schema = route(ResourceKind::TcpRoute, opaque_rule(), true);
    if let Some(fields) = schema["properties"]["spec"]["properties"].as_object_mut() {
        fields.remove("hostnames");
    }
    schema
}

pub(super) fn grant() -> Value {
    let group = || text("The API group; empty for the core group.");
    let kind = || text("The kind.");
    let from = [
        ("group", group()),
        ("kind", kind()),
        (
            "namespace",
            text("The namespace that references come from."),
        ),
    ];
    let mut from = object("Who may refer to something in this namespace.", from);
    from["required"] = json!(["group", "kind", "namespace"]);
    let to = [
        ("group", group()),
        ("kind", kind()),
        ("name", text("One resource of the kind; all without it.")),
    ];
    let mut to = object("What may be referred to.", to);
    to["required"] = json!(["group", "kind"]);
    let granted = |description: &str, of: Value| {
        let mut granted = list(description, GRANTED_MAX, of);
        granted["minItems"] = json!(1);
        granted
    };
    let lists = [
        ("from", granted("Who is trusted.", from)),
        ("to", granted("With what.", to)),
    ];
    let mut spec = object("References across namespaces. No effect in a mesh.", lists);
    spec["required"] = json!(["from", "to"]);
    specified(ResourceKind::ReferenceGrant, spec)
}

fn opaque_rule() -> Value {
    object(
        "Where the connections go.",
        [
            ("name", rules::name()),
            ("backendRefs", rules::backends(None)),
        ],
    )
}

fn route(kind: ResourceKind, rule: Value, rules_required: bool) -> Value {
    let mut spec = object(
        "What the route is attached to, and what becomes of the traffic.",
        [
            ("parentRefs", parents()),
            ("hostnames", hostnames()),
            ("rules", list("Its rules.", RULES_MAX, rule)),
        ],
    );
    if rules_required {
        spec["required"] = json!(["rules"]);
    }
    specified(kind, spec)
}

fn parents() -> Value {
    let mut parent = object(
        "A Service (names of this cluster) or a ServiceImport (names of the cluster set).",
        [
            (
                "group",
                text(
                    "Its API group: empty for a Service, `multicluster.x-k8s.io` for a ServiceImport.",
                ),
            ),
            ("kind", text("Its kind.")),
            (
                "namespace",
                text("Its namespace; the route's own without it."),
            ),
            ("name", text("Its name.")),
            ("sectionName", text("Only the port of this name.")),
            ("port", port("Only this port.")),
        ],
    );
    parent["required"] = json!(["name"]);
    list("What it is attached to.", PARENTS_MAX, parent)
}

fn hostnames() -> Value {
    list(
        "Server names of a TLSRoute, `*.` in front for any label. Of the other kinds they don't count: services are known by their addresses.",
        HOSTNAMES_MAX,
        text("A host name."),
    )
}

fn object<const N: usize>(description: &str, fields: [(&str, Value); N]) -> Value {
    let fields: Map<String, Value> = fields
        .into_iter()
        .map(|(name, schema)| (name.to_owned(), schema))
        .collect();
    json!({ "type": "object", "description": description, "properties": fields })
}

fn list(description: &str, most: usize, items: Value) -> Value {
    json!({ "type": "array", "description": description, "maxItems": most, "items": items })
}

fn text(description: &str) -> Value {
    json!({ "type": "string", "description": description })
}

fn number(description: &str, least: u64, most: u64) -> Value {
    json!({ "type": "integer", "description": description, "minimum": least, "maximum": most })
}

fn port(description: &str) -> Value {
    number(description, 1, 65_535)
}

fn boolean(description: &str) -> Value {
    json!({ "type": "boolean", "description": description })
}
