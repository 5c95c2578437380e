//! Filters.

use portolan_model::route::FILTERS_MAX;
use serde_json::{Value, json};

use super::rules::backend;
use super::{boolean, list, number, object, port, text};

/// The most headers that one filter changes in one way, and the most words of a CORS list.
const WORDS_MAX: usize = 64;

pub(super) fn http() -> Value {
    let mut one = shared();
    let more = object(
        "",
        [
            ("requestRedirect", redirect()),
            ("urlRewrite", rewrite()),
            ("cors", cors()),
            (
                "externalAuth",
                json!({ "type": "object", "description": "Not supported: requests get an error." }),
            ),
        ],
    );
    if let (Some(fields), Some(more)) = (
        one["properties"].as_object_mut(),
        more["properties"].as_object(),
    ) {
        fields.extend(more.clone());
    }
    list("What is done to it, in this order.", FILTERS_MAX, one)
}

pub(super) fn grpc() -> Value {
    list("What is done to it, in this order.", FILTERS_MAX, shared())
}

fn shared() -> Value {
    let mut one = object(
        "A filter: its type, and the field that belongs to it.",
        [
            (
                "type",
                text(
                    "Which filter: `RequestHeaderModifier`, `ResponseHeaderModifier`, `RequestRedirect`, `URLRewrite`, `RequestMirror`, `CORS`.",
                ),
            ),
            (
                "requestHeaderModifier",
                headers("Changes the request's headers."),
            ),
            (
                "responseHeaderModifier",
                headers("Changes the answer's headers."),
            ),
            ("requestMirror", mirror()),
            (
                "extensionRef",
                object(
                    "Not supported: requests get an error.",
                    [
                        ("group", text("Its API group.")),
                        ("kind", text("Its kind.")),
                        ("name", text("Its name.")),
                    ],
                ),
            ),
        ],
    );
    one["required"] = json!(["type"]);
    one
}

fn headers(description: &str) -> Value {
    let pairs = |description: &str| {
        let mut pair = object(
            "A header.",
            [("name", text("Its name.")), ("value", text("Its value."))],
        );
        pair["required"] = json!(["name", "value"]);
        list(description, WORDS_MAX, pair)
    };
    object(
        description,
        [
            ("set", pairs("Replaced, or put in.")),
            ("add", pairs("Appended with `,` to what is there.")),
            ("remove", words("Taken out.")),
        ],
    )
}

fn words(description: &str) -> Value {
    list(description, WORDS_MAX, text("One of them."))
}

fn mirror() -> Value {
    let mut fraction = object(
        "So many of so many.",
        [
            (
                "numerator",
                number("So many.", 0, u64::from(i32::MAX.unsigned_abs())),
            ),
            (
                "denominator",
                number(
                    "Of so many, 100 by default.",
                    1,
                    u64::from(i32::MAX.unsigned_abs()),
                ),
            ),
        ],
    );
    fraction["required"] = json!(["numerator"]);
    let mut mirror = object(
        "Sends a copy elsewhere and ignores the answer to it.",
        [
            ("backendRef", backend()),
            (
                "percent",
                number("Of so many in a hundred; of all without it.", 0, 100),
            ),
            ("fraction", fraction),
        ],
    );
    mirror["required"] = json!(["backendRef"]);
    mirror
}

fn path() -> Value {
    let mut path = object(
        "What becomes of the path.",
        [
            ("type", text("`ReplaceFullPath` or `ReplacePrefixMatch`.")),
            ("replaceFullPath", text("The new path.")),
            (
                "replacePrefixMatch",
                text("In place of what the rule's only prefix matched."),
            ),
        ],
    );
    path["required"] = json!(["type"]);
    path
}

fn redirect() -> Value {
    object(
        "Answers with a redirection. What it does not name is the request's own.",
        [
            ("scheme", text("`http` or `https`.")),
            ("hostname", text("The host.")),
            ("path", path()),
            ("port", port("The port.")),
            (
                "statusCode",
                json!({ "type": "integer", "description": "301, 302 (the default), 303, 307 or 308." }),
            ),
        ],
    )
}

fn rewrite() -> Value {
    object(
        "Changes what is asked for.",
        [
            ("hostname", text("The `Host` that the app sees.")),
            ("path", path()),
        ],
    )
}

fn cors() -> Value {
    object(
        "Answers preflights, and tells browsers who may read the answers.",
        [
            (
                "allowOrigins",
                words("Origins, as `https://example.com`, `https://*.example.com` or `*`."),
            ),
            (
                "allowCredentials",
                boolean("Whether with credentials; false by default."),
            ),
            ("allowMethods", words("Methods, or `*`.")),
            ("allowHeaders", words("Request headers, or `*`.")),
            (
                "exposeHeaders",
                words("Headers of answers that scripts may read, or `*`."),
            ),
            (
                "maxAge",
                number(
                    "For how many seconds a preflight's answer counts, 5 by default.",
                    1,
                    u64::from(i32::MAX.unsigned_abs()),
                ),
            ),
        ],
    )
}
