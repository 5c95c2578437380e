//! Headers: what is for one hop alone, what clients may not say, and where a request is meant for.

use std::borrow::Cow;

use http::header::{
    CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, EXPECT, HOST, PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION, TE, TRANSFER_ENCODING, UPGRADE,
};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderName, HeaderValue, Uri, Version, request, uri};
use portolan_model::refusal::ERROR_HEADER;
use portolan_policy::path::{self, PathProblem, PathRules};
use smallvec::SmallVec;

/// How many outbound proxies a request may pass before it is taken for a loop.
pub(crate) const HOPS_MAX: u32 = 16;

/// Counts outbound proxies on a request's way.
const HOPS: HeaderName = HeaderName::from_static("x-portolan-hops");

/// Tells apps who called; only the inbound side may write it.
const CLIENT_CERT: HeaderName = HeaderName::from_static("x-forwarded-client-cert");

const ERROR_HEADER_NAME: HeaderName = HeaderName::from_static(ERROR_HEADER);

/// Headers that are for the next hop alone (RFC 9110 §7.6.1), besides those that `Connection` names.
const HOP_BY_HOP: [HeaderName; 8] = [
    CONNECTION,
    UPGRADE,
    TE,
    TRANSFER_ENCODING,
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];

/// Whether it is a gRPC call.
pub(crate) fn is_grpc(headers: &HeaderMap) -> bool {
    headers
        .get(CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

/// The protocol that a request wants its connection to change to. A change to `h2c` is not
/// forwarded: it is about this hop (RFC 9113 has dropped it), and the request is served without.
pub(crate) fn upgrade(parts: &request::Parts) -> Option<HeaderValue> {
    let asked = parts.version == Version::HTTP_11
        && connection_names(&parts.headers).any(|name| name.eq_ignore_ascii_case("upgrade"));
    let protocol = parts.headers.get(UPGRADE).filter(|_| asked)?;
    let h2c = protocol.to_str().is_ok_and(|protocol| {
        protocol
            .split(',')
            .any(|one| one.trim().eq_ignore_ascii_case("h2c"))
    });
    (!h2c).then(|| protocol.clone())
}

/// How many outbound proxies the request says that it has passed.
pub(crate) fn hops(headers: &HeaderMap) -> u32 {
    headers
        .get(HOPS)
        .and_then(|value| value.to_str().ok()?.parse().ok())
        .unwrap_or(0)
}

/// The authority that a request is meant for: the request line's outranks `Host` (RFC 9112
/// §3.2.2). `None` when there is none, or more than one `Host`, or it is malformed.
pub(crate) fn authority(uri: &Uri, headers: &HeaderMap) -> Option<Authority> {
    if let Some(authority) = uri.authority() {
        // User information has no place in a request (RFC 9110 §4.2.4).
        return (!authority.as_str().contains('@')).then(|| authority.clone());
    }
    let mut hosts = headers.get_all(HOST).iter();
    let host = hosts.next()?;
    if hosts.next().is_some() || host.as_bytes().contains(&b'@') {
        return None;
    }
    Authority::try_from(host.as_bytes()).ok()
}

/// Makes a client's request one for the next proxy: absolute, without what was for this hop and
/// what clients may not say.
pub(crate) fn prepare_request(
    parts: &mut request::Parts,
    authority: &Authority,
    upgrade: Option<&HeaderValue>,
) {
    let hops = hops(&parts.headers) + 1;
    let headers = &mut parts.headers;
    let trailers = wants_trailers(headers);
    strip_hop_by_hop(headers);
    headers.remove(HOST);
    remove_expectation(headers);
    headers.remove(ERROR_HEADER);
    headers.remove(CLIENT_CERT);
    let hops = match hops {
        1 => HeaderValue::from_static("1"),
        _ => HeaderValue::from(hops),
    };
    headers.insert(HOPS, hops);
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    if let Some(protocol) = upgrade {
        headers.insert(UPGRADE, protocol.clone());
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    }
    let mut target = uri::Parts::default();
    target.scheme = Some(Scheme::HTTP);
    target.authority = Some(authority.clone());
    target.path_and_query = Some(path_and_query(&parts.uri));
    // Scheme, authority and path are all there, so this cannot fail.
    parts.uri = Uri::from_parts(target).unwrap_or_default();
}

/// Brings the path of a target to its one form.
///
/// # Errors
/// When there is none.
pub(crate) fn normalise_path(uri: &mut Uri, rules: PathRules) -> Result<(), PathProblem> {
    let Cow::Owned(path) = path::normalise(uri.path(), rules)? else {
        return Ok(());
    };
    let path_and_query = match uri.query() {
        Some(query) => PathAndQuery::try_from(format!("{path}?{query}")),
        None => PathAndQuery::try_from(path),
    };
    let mut parts = std::mem::take(uri).into_parts();
    parts.path_and_query = Some(path_and_query.map_err(|_| PathProblem::Malformed)?);
    *uri = Uri::from_parts(parts).map_err(|_| PathProblem::Malformed)?;
    Ok(())
}

/// The request line of HTTP/1.1: the path alone, with the authority in `Host`.
pub(crate) fn origin_form(parts: &mut request::Parts) {
    let host = parts
        .uri
        .authority()
        .and_then(|authority| HeaderValue::try_from(authority.as_str()).ok());
    if let Some(host) = host {
        parts.headers.insert(HOST, host);
    }
    if parts.headers.contains_key(TE) {
        // RFC 9110 §10.1.4: it is for the next hop alone.
        parts
            .headers
            .append(CONNECTION, HeaderValue::from_static("te"));
    }
    parts.uri = Uri::from(path_and_query(&parts.uri));
    parts.version = Version::HTTP_11;
}

/// Takes the expectation away that this proxy fulfils itself: it says `100 Continue` when it begins to
/// send the body on. Others are the app's to judge.
pub(crate) fn remove_expectation(headers: &mut HeaderMap) {
    let fulfilled = headers
        .get(EXPECT)
        .is_some_and(|it| it.as_bytes().eq_ignore_ascii_case(b"100-continue"));
    if fulfilled {
        headers.remove(EXPECT);
    }
}

/// Takes from a response what was for this hop. `switched`: keeps the word for the new protocol.
pub(crate) fn prepare_reply(headers: &mut HeaderMap, switched: bool) {
    let protocol = headers.get(UPGRADE).filter(|_| switched).cloned();
    strip_hop_by_hop(headers);
    if let Some(protocol) = protocol {
        headers.insert(UPGRADE, protocol);
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    }
}

/// Removes what is for one hop alone, and what `Connection` names.
pub(crate) fn strip_hop_by_hop(headers: &mut HeaderMap) {
    // Most messages have none: looking at the names they have is cheaper than asking for each.
    let doomed: SmallVec<[HeaderName; 8]> = headers
        .keys()
        .filter(|name| HOP_BY_HOP.contains(name))
        .cloned()
        .collect();
    if doomed.is_empty() {
        return;
    }
    let named: SmallVec<[HeaderName; 8]> = connection_names(headers)
        .filter_map(|name| HeaderName::try_from(name).ok())
        .collect();
    for name in named.iter().chain(&doomed) {
        headers.remove(name);
    }
}

/// Takes from trailers what may only stand in front of a body (RFC 9110 §6.5.1): what frames and routes
/// the message, and what only proxies of the mesh may say.
pub(crate) fn clean_trailers(trailers: &mut HeaderMap) {
    strip_hop_by_hop(trailers);
    for name in [CONTENT_LENGTH, HOST, EXPECT, ERROR_HEADER_NAME, CLIENT_CERT] {
        trailers.remove(name);
    }
}

/// Whether it is clear where a response in HTTP/1.x ends (RFC 9112 §6.3), also for the next reader.
pub(crate) fn framing_is_clear(headers: &HeaderMap) -> bool {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    match (codings.next(), lengths.next()) {
        (None, None) => true,
        (Some(coding), None) => {
            coding.as_bytes().eq_ignore_ascii_case(b"chunked") && codings.next().is_none()
        }
        (None, Some(length)) => {
            length.as_bytes().iter().all(u8::is_ascii_digit) && lengths.next().is_none()
        }
        (Some(_), Some(_)) => false,
    }
}

fn path_and_query(uri: &Uri) -> PathAndQuery {
    uri.path_and_query()
        .cloned()
        .unwrap_or_else(|| PathAndQuery::from_static("/"))
}

/// Whether trailers are welcome.
pub(crate) fn wants_trailers(headers: &HeaderMap) -> bool {
    words(headers, &TE).any(|word| word.eq_ignore_ascii_case("trailers"))
}

fn connection_names(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    words(headers, &CONNECTION)
}

fn words<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    fn parts(target: &str, headers: &[(&str, &str)]) -> request::Parts {
        let mut request = Request::get(target);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn what_is_for_one_hop_or_for_others_to_say_goes() {
        let mut parts = parts(
            "/x?y=1",
            &[
                ("host", "orders.shop.global"),
                ("connection", "keep-alive, x-mine"),
                ("keep-alive", "1"),
                ("x-mine", "1"),
                ("te", "gzip, trailers"),
                ("transfer-encoding", "chunked"),
                ("proxy-authorization", "x"),
                ("expect", "100-continue"),
                ("x-forwarded-client-cert", "URI=spiffe://td/forged"),
                ("x-portolan-error", "denied; hop=inbound"),
                ("accept", "*/*"),
            ],
        );
        let authority = authority(&parts.uri, &parts.headers).unwrap();
        prepare_request(&mut parts, &authority, None);
        assert_eq!(parts.uri, "http://orders.shop.global/x?y=1");
        let mut left: Vec<_> = parts.headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["accept", "te", "x-portolan-hops"]);
        assert_eq!(parts.headers["te"], "trailers");
        assert_eq!(hops(&parts.headers), 1);
        origin_form(&mut parts);
        assert_eq!(parts.uri, "/x?y=1");
        assert_eq!(parts.headers["host"], "orders.shop.global");
    }

    #[test]
    fn one_authority_counts() {
        let host = |target, headers: &[_]| {
            let parts = parts(target, headers);
            authority(&parts.uri, &parts.headers).map(|authority| authority.to_string())
        };
        assert_eq!(host("/", &[("host", "a:80")]), Some("a:80".to_owned()));
        let absolute = host("http://b/", &[("host", "a")]);
        assert_eq!(
            absolute,
            Some("b".to_owned()),
            "the request line outranks Host"
        );
        assert_eq!(host("/", &[]), None);
        assert_eq!(host("/", &[("host", "a"), ("host", "b")]), None);
        assert_eq!(host("/", &[("host", "user@a")]), None);
        assert_eq!(host("http://user@a/", &[]), None);
        assert_eq!(host("/", &[("host", "a/b")]), None);
    }

    #[test]
    fn upgrades_need_both_headers_and_h2c_is_none() {
        let of = |headers: &[_]| upgrade(&parts("/", headers));
        let both = [("connection", "Upgrade"), ("upgrade", "websocket")];
        assert_eq!(of(&both).unwrap(), "websocket");
        assert_eq!(of(&both[1..]), None);
        assert_eq!(
            of(&[
                ("connection", "upgrade, http2-settings"),
                ("upgrade", "h2c")
            ]),
            None
        );
        let mut kept = parts("/", &both);
        let protocol = upgrade(&kept);
        prepare_request(&mut kept, &Authority::from_static("a"), protocol.as_ref());
        assert_eq!(kept.headers["upgrade"], "websocket");
        assert_eq!(kept.headers["connection"], "upgrade");
    }
}
