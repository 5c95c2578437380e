//! Names and values of headers.

/// Headers that filters may not touch: they belong to the connection, to the body, or to proxies.
const OWN: &[&str] = &[
    "connection",
    "content-length",
    "host",
    "keep-alive",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "x-forwarded-client-cert",
];
/// Headers with this prefix are what proxies tell each other.
const OWN_PREFIX: &str = "x-portolan-";

/// Whether it is a token (RFC 9110 §5.6.2), as names of headers and methods are.
pub(super) fn is_token(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

/// Whether it can be a header's value.
pub(super) fn is_value(text: &str) -> bool {
    text.bytes()
        .all(|byte| byte == b'\t' || (byte >= 0x20 && byte != 0x7f))
}

/// Whether filters must leave it alone. In lower case.
pub(super) fn is_own(name: &str) -> bool {
    OWN.contains(&name) || name.starts_with(OWN_PREFIX)
}
