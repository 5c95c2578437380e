//! What filters make of a request and its answer: pure changes of heads.

mod cors;
mod redirect;

use http::{HeaderMap, HeaderName, HeaderValue};
use portolan_model::route::{HeaderChanges, Match, Mirror, PathChange, PathMatch};

pub use cors::{Cross, judge as cross_origin};
pub use redirect::{Asked, location};

use crate::balance::below;

/// Changes headers. What is added is appended with `,` to what is there.
pub fn change_headers(changes: &HeaderChanges, headers: &mut HeaderMap) {
    for name in &changes.remove {
        headers.remove(name.as_str());
    }
    for (name, value) in &changes.set {
        if let Some((name, value)) = header(name, value.as_bytes()) {
            headers.insert(name, value);
        }
    }
    for (name, value) in &changes.add {
        let mut all: Vec<u8> = Vec::new();
        for known in headers.get_all(name.as_str()) {
            all.extend_from_slice(known.as_bytes());
            all.push(b',');
        }
        all.extend_from_slice(value.as_bytes());
        if let Some((name, value)) = header(name, &all) {
            headers.insert(name, value);
        }
    }
}

/// Names and values were judged when the route was read.
fn header(name: &str, value: &[u8]) -> Option<(HeaderName, HeaderValue)> {
    Some((name.parse().ok()?, HeaderValue::from_bytes(value).ok()?))
}

/// The path that a change makes of `path`, whose request fell under the match `by`.
#[must_use]
pub fn changed_path(change: &PathChange, path: &str, by: Option<&Match>) -> String {
    let changed = match change {
        PathChange::Full(whole) => whole.clone(),
        PathChange::Prefix(replacement) => {
            let rest = path.strip_prefix(prefix(by)).unwrap_or(path);
            format!("{}{rest}", replacement.trim_end_matches('/'))
        }
    };
    if changed.starts_with('/') {
        changed
    } else {
        format!("/{changed}")
    }
}

fn prefix(by: Option<&Match>) -> &str {
    match by {
        Some(Match::Http(by)) => match &by.path {
            PathMatch::Prefix(prefix) => prefix,
            PathMatch::Exact(_) | PathMatch::Regex(_) => "",
        },
        Some(Match::Grpc(_) | Match::Sni(_)) | None => "",
    }
}

/// Whether a copy of this request is sent to the mirror. `random` is spread evenly.
#[must_use]
pub fn mirrored(mirror: &Mirror, random: u64) -> bool {
    below(random, u64::from(mirror.denominator)) < u64::from(mirror.numerator)
}

#[cfg(test)]
mod tests {
    use super::*;
    use portolan_model::route::{BackendRef, HttpMatch};

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        pairs.iter().map(owned).collect()
    }

    #[test]
    fn headers_are_set_appended_and_removed() {
        let changes = HeaderChanges {
            set: pairs(&[("x-set", "new")]),
            add: pairs(&[("x-add", "2"), ("x-new", "1")]),
            remove: vec!["x-gone".to_owned()],
        };
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("x-set", "a"),
            ("x-set", "b"),
            ("x-add", "0"),
            ("x-add", "1"),
            ("x-gone", "1"),
            ("x-stays", "1"),
        ] {
            headers.append(name, HeaderValue::from_static(value));
        }
        change_headers(&changes, &mut headers);
        let all = |name: &str| -> Vec<&str> {
            let values = headers.get_all(name).iter();
            values.map(|value| value.to_str().unwrap()).collect()
        };
        assert_eq!(all("x-set"), ["new"]);
        assert_eq!(all("x-add"), ["0,1,2"]);
        assert_eq!(all("x-new"), ["1"]);
        assert_eq!(all("x-gone"), [""; 0]);
        assert_eq!(all("x-stays"), ["1"]);
    }

    pub(super) fn on_prefix(prefix: &str) -> Match {
        Match::Http(HttpMatch {
            path: PathMatch::Prefix(prefix.trim_end_matches('/').to_owned()),
            method: None,
            headers: vec![],
            query: vec![],
        })
    }

    #[test]
    fn prefixes_are_replaced_by_the_specification_s_table() {
        for (path, prefix, replacement, expected) in [
            ("/foo/bar", "/foo", "/xyz", "/xyz/bar"),
            ("/foo/bar", "/foo", "/xyz/", "/xyz/bar"),
            ("/foo/bar", "/foo/", "/xyz", "/xyz/bar"),
            ("/foo/bar", "/foo/", "/xyz/", "/xyz/bar"),
            ("/foo", "/foo", "/xyz", "/xyz"),
            ("/foo/", "/foo", "/xyz", "/xyz/"),
            ("/foo/bar", "/foo", "", "/bar"),
            ("/foo/", "/foo", "", "/"),
            ("/foo", "/foo", "", "/"),
            ("/foo/", "/foo", "/", "/"),
            ("/foo", "/foo", "/", "/"),
            ("/foo", "/", "/xyz", "/xyz/foo"),
        ] {
            let change = PathChange::Prefix(replacement.to_owned());
            let found = changed_path(&change, path, Some(&on_prefix(prefix)));
            assert_eq!(found, expected, "{path} {prefix} {replacement}");
        }
        let full = PathChange::Full("/whole".to_owned());
        assert_eq!(changed_path(&full, "/foo", None), "/whole");
    }

    #[test]
    fn mirrors_take_their_exact_share() {
        const GRID: u64 = 1_000;
        for (numerator, denominator, expected) in [
            (0, 100, 0),
            (1, 100, 10),
            (50, 100, 500),
            (1, 1, 1_000),
            (1, 8, 125),
        ] {
            let mirror = Mirror {
                to: BackendRef::Invalid(String::new()),
                numerator,
                denominator,
            };
            let step = |at: u64| ((u128::from(at) << 64) / u128::from(GRID)) as u64 + 1;
            let taken = (0..GRID).filter(|at| mirrored(&mirror, step(*at))).count();
            assert_eq!(taken, expected, "{numerator}/{denominator}");
        }
    }
}
