//! Cross-origin requests (the Fetch standard's CORS protocol).

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
    ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, ORIGIN, VARY,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use portolan_model::route::Cors;

/// What a request is to the filter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cross {
    /// It crosses no origin, or comes from one that is not allowed: it passes, and its answer is not
    /// marked, so that browsers keep scripts from it.
    Unmarked,
    /// It is a preflight: answered here, with these headers; none if the origin is not allowed.
    Preflight(HeaderMap),
    /// It passes, and these headers are put on its answer in place of the app's own.
    Marked(HeaderMap),
}

/// Judges a request.
#[must_use]
pub fn judge(cors: &Cors, method: &Method, headers: &HeaderMap) -> Cross {
    let Some(origin) = headers.get(ORIGIN) else {
        return Cross::Unmarked;
    };
    let asked = headers.get(ACCESS_CONTROL_REQUEST_METHOD);
    let preflight = asked.filter(|_| method == Method::OPTIONS);
    let mut marks = HeaderMap::new();
    let allowed = origin
        .to_str()
        .is_ok_and(|origin| cors.allow_origins.iter().any(|it| allows(it, origin)));
    match (preflight, allowed) {
        (None, false) => Cross::Unmarked,
        (Some(_), false) => Cross::Preflight(marks),
        (None, true) => {
            mark_origin(cors, origin, &mut marks);
            put(
                &mut marks,
                ACCESS_CONTROL_EXPOSE_HEADERS,
                &cors.expose_headers,
            );
            Cross::Marked(marks)
        }
        (Some(method), true) => {
            mark_origin(cors, origin, &mut marks);
            let wished = headers.get(ACCESS_CONTROL_REQUEST_HEADERS);
            wish(
                cors,
                &mut marks,
                ACCESS_CONTROL_ALLOW_METHODS,
                &cors.allow_methods,
                Some(method),
            );
            wish(
                cors,
                &mut marks,
                ACCESS_CONTROL_ALLOW_HEADERS,
                &cors.allow_headers,
                wished,
            );
            marks.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from(cors.max_age_s));
            // Browsers read it from the answer proper; the Gateway API's conformance test asks for it here too.
            put(
                &mut marks,
                ACCESS_CONTROL_EXPOSE_HEADERS,
                &cors.expose_headers,
            );
            Cross::Preflight(marks)
        }
    }
}

/// Whether an origin is one that the filter names: exactly, by `*` in the place of the host's first labels
/// or of its port, or as any.
fn allows(wanted: &str, origin: &str) -> bool {
    if wanted == "*" || wanted.eq_ignore_ascii_case(origin) {
        return true;
    }
    let (Some((scheme, wanted)), Some((of, host))) =
        (wanted.split_once("://"), origin.split_once("://"))
    else {
        return false;
    };
    let (wanted, wanted_port) = split_port(wanted);
    let (host, port) = split_port(host);
    let host_fits = match wanted.strip_prefix('*') {
        Some(zone) => {
            let at = host.len().checked_sub(zone.len()).filter(|at| *at > 0);
            at.and_then(|at| host.split_at_checked(at))
                .is_some_and(|(_, suffix)| suffix.eq_ignore_ascii_case(zone))
        }
        None => wanted.eq_ignore_ascii_case(host),
    };
    scheme.eq_ignore_ascii_case(of)
        && host_fits
        && (wanted_port == port || wanted_port == Some("*"))
}

fn split_port(host: &str) -> (&str, Option<&str>) {
    match host.rsplit_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (host, None),
    }
}

fn mark_origin(cors: &Cors, origin: &HeaderValue, marks: &mut HeaderMap) {
    let any = cors.allow_origins.iter().any(|it| it == "*") && !cors.allow_credentials;
    if any {
        marks.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    } else {
        marks.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        marks.insert(VARY, HeaderValue::from_static("Origin"));
    }
    if cors.allow_credentials {
        marks.insert(
            ACCESS_CONTROL_ALLOW_CREDENTIALS,
            HeaderValue::from_static("true"),
        );
    }
}

/// With credentials `*` means nothing to browsers, so what was wished is granted by its name.
fn wish(
    cors: &Cors,
    marks: &mut HeaderMap,
    name: HeaderName,
    words: &[String],
    wished: Option<&HeaderValue>,
) {
    let any = words.iter().any(|word| word == "*");
    match wished {
        Some(wished) if any && cors.allow_credentials => {
            marks.insert(name, wished.clone());
        }
        Some(_) | None => put(marks, name, words),
    }
}

fn put(marks: &mut HeaderMap, name: HeaderName, words: &[String]) {
    if let (false, Ok(value)) = (words.is_empty(), HeaderValue::try_from(words.join(", "))) {
        marks.insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cors(origins: &[&str], credentials: bool) -> Cors {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        Cors {
            allow_origins: words(origins),
            allow_credentials: credentials,
            allow_methods: words(&["GET", "PUT"]),
            allow_headers: words(&["*"]),
            expose_headers: words(&["x-a"]),
            max_age_s: 5,
        }
    }

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap()))
            .collect()
    }

    #[test]
    fn origins_are_allowed_by_name_label_or_all() {
        for (wanted, origin, expected) in [
            ("https://a.com", "https://a.com", true),
            ("https://a.com", "http://a.com", false),
            ("https://a.com", "https://a.com:8443", false),
            ("https://a.com:*", "https://a.com:8443", true),
            ("https://*.a.com", "https://x.y.a.com", true),
            ("https://*.a.com", "https://a.com", false),
            ("https://*.a.com", "https://xa.com", false),
            ("https://*", "https://any.example", true),
            ("*", "null", true),
            ("https://a.com", "null", false),
        ] {
            assert_eq!(allows(wanted, origin), expected, "{wanted} {origin}");
        }
    }

    #[test]
    fn preflights_are_answered_and_answers_marked() {
        let preflight = [
            ("origin", "https://a.com"),
            ("access-control-request-method", "PUT"),
            ("access-control-request-headers", "x-b"),
        ];
        let Cross::Preflight(marks) = judge(
            &cors(&["https://a.com"], true),
            &Method::OPTIONS,
            &headers(&preflight),
        ) else {
            panic!("no preflight")
        };
        assert_eq!(marks["access-control-allow-origin"], "https://a.com");
        assert_eq!(marks["access-control-allow-credentials"], "true");
        assert_eq!(marks["access-control-allow-methods"], "GET, PUT");
        assert_eq!(marks["access-control-allow-headers"], "x-b");
        assert_eq!(marks["access-control-max-age"], "5");
        assert_eq!(marks["access-control-expose-headers"], "x-a");
        assert_eq!(marks["vary"], "Origin");
        let refused = judge(
            &cors(&["https://b.com"], true),
            &Method::OPTIONS,
            &headers(&preflight),
        );
        assert_eq!(refused, Cross::Preflight(HeaderMap::new()));

        let simple = headers(&[("origin", "https://a.com")]);
        let Cross::Marked(marks) = judge(&cors(&["*"], false), &Method::GET, &simple) else {
            panic!("not marked")
        };
        assert_eq!(marks["access-control-allow-origin"], "*");
        assert_eq!(marks["access-control-expose-headers"], "x-a");
        assert!(!marks.contains_key("access-control-max-age"));
        let stranger = judge(&cors(&["https://b.com"], false), &Method::GET, &simple);
        assert_eq!(stranger, Cross::Unmarked);
        let same = judge(&cors(&["*"], false), &Method::GET, &HeaderMap::new());
        assert_eq!(same, Cross::Unmarked);
    }
}
