//! How much a service takes, judged where it runs.
//!
//! [`Bucket`] counts by the generic cell rate algorithm, in one word that threads share without a lock:
//! in any time `t` it lets through at most `burst + count × t / per`. [`counts`] says which requests a
//! limit counts, [`key`] what they are counted under, and [`lease`] and [`budget`] how all instances of a
//! service keep one limit together.

pub mod bucket;
pub mod budget;
pub mod lease;

use std::borrow::Cow;

use portolan_model::limit::{LimitPer, RateLimit};
use portolan_model::{IdentityKind, SpiffeId};

use crate::matching::Request;

pub use bucket::{Bucket, Rate};

/// The longest key, in bytes; longer ones that begin alike count together.
pub const KEY_BYTES_MAX: usize = 256;

/// Whether a limit that is declared for `port` (0: for all) counts a request to `called`.
#[must_use]
pub fn counts(limit: &RateLimit, port: u16, called: u16, request: &Request<'_>) -> bool {
    on_port(port, called) && request.fits(&limit.matches)
}

/// Whether what is declared for `port` (0: for all) holds on the port that was called.
#[must_use]
pub fn on_port(port: u16, called: u16) -> bool {
    port == 0 || port == called
}

/// What a call is counted under, where not everything counts together.
#[must_use]
pub fn key<'a>(
    per: &LimitPer,
    caller: &'a SpiffeId,
    request: &'a Request<'_>,
) -> Option<Cow<'a, str>> {
    match per {
        LimitPer::Header(name) => {
            let value = request.header(name).unwrap_or_default();
            Some(shortened(value))
        }
        LimitPer::Service | LimitPer::Identity | LimitPer::Namespace => caller_key(per, caller),
    }
}

/// [`key`] of what is no request: a connection.
#[must_use]
pub fn caller_key<'a>(per: &LimitPer, caller: &'a SpiffeId) -> Option<Cow<'a, str>> {
    match per {
        LimitPer::Service => None,
        // A connection has no headers: all count together.
        LimitPer::Header(_) => Some(Cow::Borrowed("")),
        LimitPer::Identity => Some(shortened(Cow::Owned(caller.to_string()))),
        LimitPer::Namespace => {
            let namespace = match caller.kind() {
                IdentityKind::Workload { namespace, .. } => namespace.to_string(),
                IdentityKind::Control { .. }
                | IdentityKind::Gateway { .. }
                | IdentityKind::Authority
                | IdentityKind::Other => String::new(),
            };
            Some(Cow::Owned(format!("{}/{namespace}", caller.trust_domain())))
        }
    }
}

fn shortened(text: Cow<'_, str>) -> Cow<'_, str> {
    if text.len() <= KEY_BYTES_MAX {
        return text;
    }
    let mut end = KEY_BYTES_MAX;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    match text {
        Cow::Borrowed(text) => Cow::Borrowed(&text[..end]),
        Cow::Owned(mut text) => {
            text.truncate(end);
            Cow::Owned(text)
        }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::*;
    use crate::example;

    fn with(name: &'static str, value: &str) -> HeaderMap {
        let value = http::HeaderValue::from_bytes(value.as_bytes()).unwrap();
        HeaderMap::from_iter([(http::HeaderName::from_static(name), value)])
    }

    #[test]
    fn calls_are_told_apart_by_what_the_limit_names() {
        let id = |text: &str| text.parse::<SpiffeId>().unwrap();
        let shop = id("spiffe://us-east.demo/ns/shop/sa/frontend");
        let abroad = id("spiffe://eu-west.demo/ns/shop/sa/frontend");
        let headers = with("x-tenant", "blue");
        let call = example::request(&headers);
        let under = |per: &LimitPer, caller| key(per, caller, &call).map(Cow::into_owned);
        assert_eq!(under(&LimitPer::Service, &shop), None);
        assert_eq!(
            under(&LimitPer::Identity, &shop).unwrap(),
            "spiffe://us-east.demo/ns/shop/sa/frontend"
        );
        assert_eq!(
            under(&LimitPer::Namespace, &shop).unwrap(),
            "us-east.demo/shop"
        );
        assert_eq!(
            under(&LimitPer::Namespace, &abroad).unwrap(),
            "eu-west.demo/shop",
            "equal namespaces of two clusters have a count each"
        );
        let header = |name: &str| LimitPer::Header(name.to_owned());
        assert_eq!(under(&header("x-tenant"), &shop).unwrap(), "blue");
        assert_eq!(under(&header("x-none"), &shop).unwrap(), "");
        assert_eq!(under(&header("host"), &shop).unwrap(), "orders.shop.global");
    }

    #[test]
    fn a_key_has_a_longest_length() {
        let long = "ä".repeat(KEY_BYTES_MAX);
        let headers = with("x", &long);
        let call = example::request(&headers);
        let caller = "spiffe://a.b/ns/x/sa/y".parse().unwrap();
        let key = key(&LimitPer::Header("x".to_owned()), &caller, &call).unwrap();
        assert_eq!(key.len(), KEY_BYTES_MAX);
        assert!(long.starts_with(key.as_ref()));
    }
}
