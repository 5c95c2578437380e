//! Whether a call is what a match asks for.

use std::borrow::Cow;

use portolan_model::route::{GrpcMatch, HttpMatch, Match, PathMatch, Rule, TextMatch, ValueMatch};

use super::precedence::{PathRank, Specificity};
use super::{Facts, Request};

/// The best of a rule's matches for the call; `None`: the rule is not for it.
pub(super) fn of_rule<'a>(
    rule: &'a Rule,
    facts: &Facts<'_>,
) -> Option<(Specificity, Option<&'a Match>)> {
    if rule.matches.is_empty() {
        return Some((Specificity::Anything, None));
    }
    let mut best: Option<(Specificity, Option<&Match>)> = None;
    for by in &rule.matches {
        let Some(specificity) = of_match(by, facts) else {
            continue;
        };
        // Of equals, the first.
        if best.is_none_or(|(known, _)| specificity > known) {
            best = Some((specificity, Some(by)));
        }
    }
    best
}

fn of_match(by: &Match, facts: &Facts<'_>) -> Option<Specificity> {
    match (by, facts) {
        (Match::Http(by), Facts::Request(request)) => http(by, request),
        (Match::Grpc(by), Facts::Request(request)) => grpc(by, request),
        (Match::Sni(wanted), Facts::Connection { server_name }) => sni(wanted, (*server_name)?),
        (Match::Http(_) | Match::Grpc(_), Facts::Connection { .. })
        | (Match::Sni(_), Facts::Request(_)) => None,
    }
}

pub(super) fn http(by: &HttpMatch, request: &Request<'_>) -> Option<Specificity> {
    let path = path(&by.path, request.path)?;
    let fits = by
        .method
        .as_ref()
        .is_none_or(|wanted| wanted == request.method.as_str())
        && by.headers.iter().all(|wanted| header(wanted, request))
        && by
            .query
            .iter()
            .all(|wanted| parameter(wanted, request.query));
    fits.then_some(Specificity::Http {
        path,
        method: by.method.is_some(),
        headers: by.headers.len(),
        query: by.query.len(),
    })
}

/// Prefixes are compared element by element: `/abc` is for `/abc`, `/abc/` and `/abc/d`, not `/abcd`.
fn path(wanted: &PathMatch, path: &str) -> Option<PathRank> {
    match wanted {
        PathMatch::Exact(wanted) => (wanted == path).then_some(PathRank::Exact),
        PathMatch::Prefix(wanted) => {
            let rest = path.strip_prefix(wanted.as_str())?;
            let whole = wanted.is_empty() || rest.is_empty() || rest.starts_with('/');
            whole.then_some(PathRank::Prefix(wanted.len()))
        }
        PathMatch::Regex(wanted) => wanted
            .matches(path)
            .then(|| PathRank::Regex(wanted.as_str().len())),
    }
}

fn grpc(by: &GrpcMatch, request: &Request<'_>) -> Option<Specificity> {
    let (service, method) = request.path.strip_prefix('/')?.split_once('/')?;
    let part = |wanted: &Option<TextMatch>, found: &str| match wanted {
        None => Some(0),
        Some(wanted) => text(wanted, found).then(|| characters(wanted)),
    };
    let (service, method) = (part(&by.service, service)?, part(&by.method, method)?);
    let fits = request.grpc && by.headers.iter().all(|wanted| header(wanted, request));
    fits.then_some(Specificity::Grpc {
        service,
        method,
        headers: by.headers.len(),
    })
}

fn sni(wanted: &str, found: &str) -> Option<Specificity> {
    let length = wanted.len();
    let Some(zone) = wanted.strip_prefix('*') else {
        return wanted
            .eq_ignore_ascii_case(found)
            .then_some(Specificity::ServerName {
                exact: true,
                length,
            });
    };
    // `*.example.com`: one label or more before the zone.
    let at = found.len().checked_sub(zone.len()).filter(|at| *at > 0)?;
    let (_, suffix) = found.split_at_checked(at)?;
    suffix
        .eq_ignore_ascii_case(zone)
        .then_some(Specificity::ServerName {
            exact: false,
            length,
        })
}

fn characters(wanted: &TextMatch) -> usize {
    match wanted {
        TextMatch::Exact(text) => text.len(),
        TextMatch::Regex(pattern) => pattern.as_str().len(),
    }
}

fn text(wanted: &TextMatch, found: &str) -> bool {
    match wanted {
        TextMatch::Exact(text) => text == found,
        TextMatch::Regex(pattern) => pattern.matches(found),
    }
}

fn header(wanted: &ValueMatch, request: &Request<'_>) -> bool {
    let found = request.header(&wanted.name);
    found.is_some_and(|found| text(&wanted.value, &found))
}

/// Of a parameter that is there several times, the first counts.
fn parameter(wanted: &ValueMatch, query: Option<&str>) -> bool {
    let mut pairs = query
        .into_iter()
        .flat_map(|query| query.split('&'))
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    let found = pairs.find(|(name, _)| decoded(name) == wanted.name);
    found.is_some_and(|(_, value)| text(&wanted.value, &decoded(value)))
}

/// A part of a query without its percent-encoding; what cannot be decoded stays as it is.
fn decoded(part: &str) -> Cow<'_, str> {
    if !part.contains(['%', '+']) {
        return Cow::Borrowed(part);
    }
    let bytes = part.as_bytes();
    let mut plain = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        let hex = bytes.get(at + 1..at + 3).filter(|_| *byte == b'%');
        let code = hex
            .filter(|hex| hex.iter().all(u8::is_ascii_hexdigit))
            .and_then(|hex| std::str::from_utf8(hex).ok())
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match (code, byte) {
            (Some(code), _) => {
                plain.push(code);
                at += 2;
            }
            (None, b'+') => plain.push(b' '),
            (None, other) => plain.push(*other),
        }
        at += 1;
    }
    String::from_utf8(plain).map_or(Cow::Borrowed(part), Cow::Owned)
}
