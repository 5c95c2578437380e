//! What stands in a rule, its filters apart.

use portolan_model::route::{BACKENDS_MAX, MATCHES_PER_RULE_MAX, WEIGHT_MAX};
use serde_json::{Value, json};

use super::{list, number, object, port, text};

/// The most headers or query parameters of one match.
const CONDITIONS_MAX: usize = 16;
/// The most statuses after which a rule tries again.
const CODES_MAX: usize = 64;

pub(super) fn name() -> Value {
    text("The rule's name, once in a route.")
}

pub(super) fn http_matches() -> Value {
    let path = object(
        "The path; everything without it.",
        [
            (
                "type",
                text("`PathPrefix` (the default), `Exact` or `RegularExpression`."),
            ),
            (
                "value",
                text("The path, prefix or expression; `/` by default."),
            ),
        ],
    );
    let one = object(
        "All of these must hold.",
        [
            ("path", path),
            ("headers", conditions("Headers.")),
            ("queryParams", conditions("Query parameters.")),
            ("method", text("The method.")),
        ],
    );
    list(
        "The rule is for requests that match any of these; for all without them.",
        MATCHES_PER_RULE_MAX,
        one,
    )
}

pub(super) fn grpc_matches() -> Value {
    let method = object(
        "The gRPC method; any without it.",
        [
            (
                "type",
                text("`Exact` (the default) or `RegularExpression`."),
            ),
            ("service", text("The gRPC service's full name.")),
            ("method", text("The method's name.")),
        ],
    );
    let one = object(
        "All of these must hold.",
        [("method", method), ("headers", conditions("Headers."))],
    );
    list(
        "The rule is for calls that match any of these; for all without them.",
        MATCHES_PER_RULE_MAX,
        one,
    )
}

fn conditions(description: &str) -> Value {
    let mut one = object(
        "A name, and what its value must be.",
        [
            (
                "type",
                text("`Exact` (the default) or `RegularExpression`."),
            ),
            ("name", text("The name.")),
            ("value", text("The value, or an expression for all of it.")),
        ],
    );
    one["required"] = json!(["name", "value"]);
    list(description, CONDITIONS_MAX, one)
}

/// References to backends, with filters of their own where the kind has them.
pub(super) fn backends(filters: Option<Value>) -> Value {
    let mut one = backend();
    one["properties"]["weight"] = number(
        "Its share relative to the others, 1 by default; 0 takes none.",
        0,
        u64::from(WEIGHT_MAX),
    );
    if let Some(filters) = filters {
        one["properties"]["filters"] = filters;
    }
    list(
        "Where it goes, in proportion to the weights.",
        BACKENDS_MAX,
        one,
    )
}

/// One reference to a service's port.
pub(super) fn backend() -> Value {
    let mut one = object(
        "A Service (of this cluster) or a ServiceImport (of the cluster set).",
        [
            (
                "group",
                text(
                    "Its API group: empty for a Service, `multicluster.x-k8s.io` for a ServiceImport.",
                ),
            ),
            ("kind", text("Its kind, `Service` by default.")),
            (
                "namespace",
                text("Its namespace; the route's own without it."),
            ),
            ("name", text("Its name.")),
            ("port", port("Its port.")),
        ],
    );
    one["required"] = json!(["name"]);
    one
}

pub(super) fn timeouts() -> Value {
    object(
        "How long it may take (GEP-1742).",
        [
            (
                "request",
                text("The whole request with all its tries, as `10s`; `0s`: no limit."),
            ),
            ("backendRequest", text("Each try; not above `request`.")),
        ],
    )
}

pub(super) fn retry() -> Value {
    let code = number("A status.", 400, 599);
    object(
        "When it is tried again (GEP-1731).",
        [
            (
                "codes",
                list(
                    "After these statuses; 502, 503 and 504 without them.",
                    CODES_MAX,
                    code,
                ),
            ),
            (
                "attempts",
                number("Tries after the first, 2 by default.", 0, 7),
            ),
            ("backoff", text("The least wait before each, as `100ms`.")),
        ],
    )
}

pub(super) fn session() -> Value {
    let lifetime = || text("`Session` (the default): until the browser ends; or `Permanent`.");
    object(
        "What keeps a client's requests at one endpoint (GEP-1619).",
        [
            (
                "sessionName",
                text(
                    "The cookie's or header's name (older form of `cookie.name` and `header.name`).",
                ),
            ),
            ("type", text("`Cookie` (the default) or `Header`.")),
            (
                "absoluteTimeout",
                text("How long a session lasts at most, as `1h`."),
            ),
            (
                "cookie",
                object(
                    "The cookie.",
                    [
                        ("name", text("Its name.")),
                        ("path", text("Its path, `/` by default.")),
                        ("lifetimeType", lifetime()),
                    ],
                ),
            ),
            (
                "cookieConfig",
                object("Older form of `cookie`.", [("lifetimeType", lifetime())]),
            ),
            (
                "header",
                object("The header.", [("name", text("Its name."))]),
            ),
        ],
    )
}
