//! What inbound changes of requests and responses.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

use http::header::{CONNECTION, HOST, TE, UPGRADE};
use http::uri::{self, Authority, PathAndQuery};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, request};
use portolan_model::SpiffeId;
use portolan_model::refusal::ERROR_HEADER;
use rustls_pki_types::CertificateDer;
use sha2::{Digest, Sha256};

use crate::http::{prepare_reply, remove_expectation, strip_hop_by_hop, wants_trailers};

/// Tells the app who called, in Envoy's format.
const CLIENT_CERT: HeaderName = HeaderName::from_static("x-forwarded-client-cert");

/// Who passed the request on, client first; and what the client spoke. No standard, but what everybody
/// reads.
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// The value of `x-forwarded-client-cert` for a caller.
pub(super) fn client_cert(
    own: &SpiffeId,
    caller: &SpiffeId,
    leaf: Option<&CertificateDer<'_>>,
) -> HeaderValue {
    let mut text = format!("By={own}");
    if let Some(leaf) = leaf {
        text.push_str(";Hash=");
        for byte in Sha256::digest(leaf) {
            // Writing to a String cannot fail.
            let _ = write!(text, "{byte:02x}");
        }
    }
    let _ = write!(text, ";Subject=\"\";URI={caller}");
    // SPIFFE IDs hold only characters that headers may.
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static(""))
}

/// What the app is told of a connection's caller.
pub(super) struct Told {
    /// Its identity.
    pub(super) client_cert: HeaderValue,
    /// Its address, or that of the gateway it came through.
    pub(super) address: HeaderValue,
}

impl Told {
    pub(super) fn new(client_cert: HeaderValue, address: IpAddr) -> Self {
        // Addresses hold only characters that headers may.
        let address = HeaderValue::try_from(address.to_string());
        Self {
            client_cert,
            address: address.unwrap_or(HeaderValue::from_static("unknown")),
        }
    }
}

/// Makes the caller's request the app's: without what was for this hop, with who called.
pub(super) fn towards_app(parts: &mut request::Parts, upgrade: Option<HeaderValue>, told: &Told) {
    let headers = &mut parts.headers;
    let trailers = wants_trailers(headers);
    strip_hop_by_hop(headers);
    remove_expectation(headers);
    headers.remove(ERROR_HEADER);
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    if let Some(protocol) = upgrade {
        headers.insert(UPGRADE, protocol);
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    }
    headers.insert(CLIENT_CERT, told.client_cert.clone());
    headers.append(FORWARDED_FOR, told.address.clone());
    headers
        .entry(FORWARDED_PROTO)
        .or_insert(HeaderValue::from_static("http"));
}

/// Makes the app's response the caller's. An app cannot speak for this proxy, so it cannot set the
/// error header.
pub(super) fn towards_caller(headers: &mut HeaderMap, switched: bool) {
    prepare_reply(headers, switched);
    headers.remove(ERROR_HEADER);
}

/// The target in HTTP/2, which needs scheme and authority. A request that names no host is for the
/// app's own address.
pub(super) fn absolute_form(uri: &Uri, headers: &HeaderMap, app: SocketAddr) -> Uri {
    let host = || Authority::try_from(headers.get(HOST)?.as_bytes()).ok();
    let authority = uri.authority().cloned().or_else(host);
    let mut parts = uri::Parts::default();
    parts.scheme = Some(uri::Scheme::HTTP);
    parts.authority = authority.or_else(|| Authority::try_from(app.to_string()).ok());
    let root = PathAndQuery::from_static("/");
    parts.path_and_query = Some(uri.path_and_query().cloned().unwrap_or(root));
    Uri::from_parts(parts).unwrap_or_default()
}

/// Why a request makes no sense here.
pub(super) fn objection<B>(request: &Request<B>) -> Option<&'static str> {
    if request.method() == Method::CONNECT {
        return Some("CONNECT is for proxies that lead anywhere");
    }
    let hosts = request.headers().get_all(HOST).iter().count();
    (hosts > 1).then_some("a request names one host")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(headers: &HeaderMap) -> Vec<&str> {
        let mut names: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        names
    }

    fn parts(uri: &str, headers: &[(&str, &str)]) -> request::Parts {
        let mut request = Request::builder().uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn the_client_certificate_header_is_envoy_s() {
        let own = "spiffe://us-east.demo/ns/shop/sa/orders".parse().unwrap();
        let caller = "spiffe://eu-west.demo/ns/shop/sa/frontend".parse().unwrap();
        let leaf = CertificateDer::from(b"abc".to_vec());
        assert_eq!(
            client_cert(&own, &caller, Some(&leaf)),
            "By=spiffe://us-east.demo/ns/shop/sa/orders;\
             Hash=ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad;\
             Subject=\"\";URI=spiffe://eu-west.demo/ns/shop/sa/frontend"
        );
        assert!(
            !client_cert(&own, &caller, None)
                .to_str()
                .unwrap()
                .contains("Hash")
        );
    }

    fn told() -> Told {
        Told::new(HeaderValue::from_static("By=us"), [10, 0, 0, 7].into())
    }

    #[test]
    fn what_was_for_this_hop_does_not_reach_the_app() {
        let mut parts = parts(
            "/",
            &[
                ("host", "orders"),
                ("connection", "x-secret, keep-alive"),
                ("x-secret", "1"),
                ("keep-alive", "5"),
                ("te", "gzip, trailers"),
                ("transfer-encoding", "chunked"),
                ("x-forwarded-client-cert", "By=me"),
                ("expect", "100-continue"),
                ("accept", "*/*"),
            ],
        );
        towards_app(&mut parts, None, &told());
        let expected = [
            "accept",
            "host",
            "te",
            "x-forwarded-client-cert",
            "x-forwarded-for",
            "x-forwarded-proto",
        ];
        assert_eq!(names(&parts.headers), expected);
        assert_eq!(parts.headers[TE], "trailers");
        assert_eq!(parts.headers[CLIENT_CERT], "By=us");
        assert_eq!(parts.headers.get_all(CLIENT_CERT).iter().count(), 1);
    }

    #[test]
    fn the_app_learns_the_way_that_a_request_came() {
        let came = [
            ("x-forwarded-for", "192.0.2.1"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "shop.example"),
            (
                "traceparent",
                "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            ),
            ("tracestate", "a=1"),
            ("tracestate", "b=2"),
        ];
        let mut parts = parts("/", &came);
        towards_app(&mut parts, None, &told());
        let all = |name: &str| -> Vec<_> {
            let values = parts.headers.get_all(name).iter();
            values.map(|it| it.to_str().unwrap().to_owned()).collect()
        };
        assert_eq!(all("x-forwarded-for"), ["192.0.2.1", "10.0.0.7"]);
        assert_eq!(all("x-forwarded-proto"), ["https"]);
        assert_eq!(all("x-forwarded-host"), ["shop.example"]);
        assert_eq!(all("traceparent"), [came[3].1]);
        assert_eq!(all("tracestate"), ["a=1", "b=2"]);
    }

    #[test]
    fn upgrades_pass() {
        let mut wanted = parts("/", &[("connection", "Upgrade"), ("upgrade", "websocket")]);
        let protocol = Some(HeaderValue::from_static("websocket"));
        towards_app(&mut wanted, protocol, &told());
        assert_eq!(wanted.headers[UPGRADE], "websocket");
        assert_eq!(wanted.headers[CONNECTION], "upgrade");
    }

    #[test]
    fn the_app_cannot_speak_for_the_proxy() {
        let mut headers = parts("/", &[(ERROR_HEADER, "connect_failed; hop=inbound")]).headers;
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
        towards_caller(&mut headers, false);
        assert!(headers.is_empty());
    }

    #[test]
    fn http2_targets_name_the_host() {
        let origin = parts("/a?b", &[("host", "orders:80")]);
        let app = SocketAddr::from(([127, 0, 0, 1], 8080));
        let authority = Uri::from_static("http://orders.shop.global");
        let kept = absolute_form(&authority, &HeaderMap::new(), app);
        assert_eq!(kept, "http://orders.shop.global/");
        let found = |headers| absolute_form(&origin.uri, headers, app).to_string();
        assert_eq!(found(&origin.headers), "http://orders:80/a?b");
        assert_eq!(found(&HeaderMap::new()), "http://127.0.0.1:8080/a?b");
    }
}
