//! Whether a request is one of those that a limit or fault is for.

use std::borrow::Cow;

use portolan_model::route::{HttpMatch, PathMatch, TextMatch, ValueMatch};

/// What of a request can be matched.
pub trait RequestView {
    /// The method.
    fn method(&self) -> &str;
    /// The path, without the query.
    fn path(&self) -> &str;
    /// The query, without its `?`.
    fn query(&self) -> Option<&str>;
    /// The values of a header by its lower-case name, joined with `,`.
    fn header(&self, name: &str) -> Option<Cow<'_, str>>;
}

/// Whether a request fits one of the alternatives; none given fits all.
#[must_use]
pub fn matches(alternatives: &[HttpMatch], request: &dyn RequestView) -> bool {
    alternatives.is_empty() || alternatives.iter().any(|one| fits(one, request))
}

fn fits(wanted: &HttpMatch, request: &dyn RequestView) -> bool {
    path_fits(&wanted.path, request.path())
        && wanted
            .method
            .as_ref()
            .is_none_or(|method| method == request.method())
        && wanted
            .headers
            .iter()
            .all(|header| value_fits(header, request.header(&header.name)))
        && wanted
            .query
            .iter()
            .all(|parameter| value_fits(parameter, query_value(request.query(), &parameter.name)))
}

fn path_fits(wanted: &PathMatch, path: &str) -> bool {
    match wanted {
        PathMatch::Exact(exact) => exact == path,
        PathMatch::Prefix(prefix) => path
            .strip_prefix(prefix.as_str())
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/')),
        PathMatch::Regex(pattern) => pattern.matches(path),
    }
}

fn value_fits(wanted: &ValueMatch, value: Option<Cow<'_, str>>) -> bool {
    value.is_some_and(|value| match &wanted.value {
        TextMatch::Exact(exact) => *exact == value,
        TextMatch::Regex(pattern) => pattern.matches(&value),
    })
}

/// The first value of a query parameter.
fn query_value<'a>(query: Option<&'a str>, name: &str) -> Option<Cow<'a, str>> {
    query?.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decoded(key) == name).then(|| decoded(value))
    })
}

/// Undoes percent-encoding, as forms write it; what is malformed stays as it is.
fn decoded(text: &str) -> Cow<'_, str> {
    if !text.contains(['%', '+']) {
        return Cow::Borrowed(text);
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let hex = after.get(..2).and_then(|two| std::str::from_utf8(two).ok());
        let byte = hex.and_then(|two| u8::from_str_radix(two, 16).ok());
        match (first, byte) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &after[2..];
                continue;
            }
            (b'+', _) => bytes.push(b' '),
            (other, _) => bytes.push(*other),
        }
        rest = after;
    }
    Cow::Owned(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) struct Call {
        method: String,
        target: String,
        headers: Vec<(String, String)>,
    }

    impl Call {
        pub(crate) fn get(target: &str) -> Self {
            Self {
                method: "GET".to_owned(),
                target: target.to_owned(),
                headers: Vec::new(),
            }
        }

        pub(crate) fn with_header(mut self, name: &str, value: &str) -> Self {
            self.headers.push((name.to_owned(), value.to_owned()));
            self
        }
    }

    impl RequestView for Call {
        fn method(&self) -> &str {
            &self.method
        }

        fn path(&self) -> &str {
            self.target.split('?').next().unwrap_or_default()
        }

        fn query(&self) -> Option<&str> {
            self.target.split_once('?').map(|(_, query)| query)
        }

        fn header(&self, name: &str) -> Option<Cow<'_, str>> {
            let found = self.headers.iter().find(|(known, _)| known == name)?;
            Some(Cow::Borrowed(&found.1))
        }
    }

    fn any() -> HttpMatch {
        HttpMatch {
            path: PathMatch::Prefix(String::new()),
            method: None,
            headers: vec![],
            query: vec![],
        }
    }

    #[test]
    fn paths() {
        let path = |path| HttpMatch { path, ..any() };
        for (wanted, target, fit) in [
            (PathMatch::Exact("/a".to_owned()), "/a?x", true),
            (PathMatch::Exact("/a".to_owned()), "/a/", false),
            (PathMatch::Prefix("/a".to_owned()), "/a", true),
            (PathMatch::Prefix("/a".to_owned()), "/a/b", true),
            (PathMatch::Prefix("/a".to_owned()), "/ab", false),
            (PathMatch::Prefix(String::new()), "/", true),
            (PathMatch::Regex("/v[12]".parse().unwrap()), "/v2", true),
            (PathMatch::Regex("/v[12]".parse().unwrap()), "/v3", false),
        ] {
            let found = matches(&[path(wanted.clone())], &Call::get(target));
            assert_eq!(found, fit, "{wanted:?} {target}");
        }
    }

    #[test]
    fn everything_named_must_fit_and_one_alternative_is_enough() {
        let exact = |name: &str, value: &str| ValueMatch {
            name: name.to_owned(),
            value: TextMatch::Exact(value.to_owned()),
        };
        let wanted = HttpMatch {
            method: Some("GET".to_owned()),
            headers: vec![exact("x-tenant", "blue")],
            query: vec![exact("a b", "1&2")],
            ..any()
        };
        let good = || Call::get("/?a+b=1%262&a+b=3").with_header("x-tenant", "blue");
        let one = std::slice::from_ref(&wanted);
        assert!(matches(one, &good()));
        let post = Call {
            method: "POST".to_owned(),
            ..good()
        };
        assert!(!matches(one, &post));
        assert!(!matches(one, &Call::get("/?a+b=1%262")));
        assert!(!matches(
            one,
            &Call::get("/?a+b=3").with_header("x-tenant", "blue")
        ));
        assert!(matches(&[wanted, any()], &post));
        assert!(matches(&[], &post));
    }
}
