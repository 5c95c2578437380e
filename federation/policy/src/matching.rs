//! Which rule of which route a call falls under.
//!
//! Everything that matches is ranked by one summary, `Precedence`, whose order is the Gateway API's: how
//! specific the match is, then the older route, then the route's name, then the earlier rule.

mod precedence;
mod request;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::sync::Arc;

use http::{HeaderMap, Method};
use portolan_model::Namespace;
use portolan_model::route::{HttpMatch, Match, Route, Routes, Rule};

use precedence::Precedence;

/// What of a call decides.
#[derive(Debug, Clone, Copy)]
pub enum Facts<'a> {
    /// It is a request.
    Request(Request<'a>),
    /// It is a connection of opaque bytes.
    Connection {
        /// The server name in its TLS ClientHello, where it has one.
        server_name: Option<&'a str>,
    },
}

/// What of a request decides.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// Its method.
    pub method: &'a Method,
    /// Its path.
    pub path: &'a str,
    /// What stands behind the `?`.
    pub query: Option<&'a str>,
    /// Its headers; `Host` need not be among them.
    pub headers: &'a HeaderMap,
    /// The host that it names.
    pub host: &'a str,
    /// Whether it is a gRPC call.
    pub grpc: bool,
}

impl Request<'_> {
    /// Whether it fits one of the alternatives; none given fits all.
    #[must_use]
    pub fn fits(&self, alternatives: &[HttpMatch]) -> bool {
        alternatives.is_empty()
            || alternatives
                .iter()
                .any(|by| request::http(by, self).is_some())
    }

    /// The values of a header by its lower-case name, joined with `,`: a header that is there several times is
    /// one list (RFC 9110 §5.3). Values that are no text count as empty.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<Cow<'_, str>> {
        if name == "host" {
            return Some(Cow::Borrowed(self.host));
        }
        let mut values = self
            .headers
            .get_all(name)
            .iter()
            .map(|value| std::str::from_utf8(value.as_bytes()).unwrap_or_default());
        let mut joined = Cow::Borrowed(values.next()?);
        for value in values {
            let joined = joined.to_mut();
            joined.push(',');
            joined.push_str(value);
        }
        Some(joined)
    }
}

/// What routes say of a call.
#[derive(Debug, Clone, Copy)]
pub enum Selection<'a> {
    /// No route is attached: the call goes where it was meant to go.
    Unrouted,
    /// Routes are attached, and none is for this call: it is refused.
    Unmatched,
    /// It falls under this rule.
    Matched(Matched<'a>),
}

/// A rule that a call falls under.
#[derive(Debug, Clone, Copy)]
pub struct Matched<'a> {
    /// The route.
    pub route: &'a Arc<Route>,
    /// The rule's position in it.
    pub index: usize,
    /// The rule.
    pub rule: &'a Rule,
    /// The match that was best; `None` for rules that are for everything.
    pub by: Option<&'a Match>,
}

/// Finds the rule for a call from a caller in `caller` to `port`.
#[must_use]
pub fn select<'a>(
    routes: &'a Routes,
    caller: &Namespace,
    port: u16,
    facts: &Facts<'_>,
) -> Selection<'a> {
    if routes.is_empty() {
        return Selection::Unrouted;
    }
    let mut attached = false;
    let mut best: Option<(Precedence<'a>, Matched<'a>)> = None;
    for route in group(routes, caller, port) {
        attached = true;
        for (index, rule) in route.rules.iter().enumerate() {
            let Some((specificity, by)) = request::of_rule(rule, facts) else {
                continue;
            };
            let precedence = Precedence::new(specificity, route, index);
            if best.as_ref().is_none_or(|(known, _)| precedence > *known) {
                let matched = Matched {
                    route,
                    index,
                    rule,
                    by,
                };
                best = Some((precedence, matched));
            }
        }
    }
    match best {
        Some((_, matched)) => Selection::Matched(matched),
        None if attached => Selection::Unmatched,
        None => Selection::Unrouted,
    }
}

/// Whether a connection's server name counts for some route of the port.
#[must_use]
pub fn wants_server_name(routes: &Routes, caller: &Namespace, port: u16) -> bool {
    group(routes, caller, port)
        .flat_map(|route| &route.rules)
        .flat_map(|rule| &rule.matches)
        .any(|by| matches!(by, Match::Sni(_)))
}

/// The routes that count: those of the caller's own namespace if it has any for this port, else the
/// producer's (GEP-1426: a consumer's set replaces the producer's).
fn group<'a>(
    routes: &'a Routes,
    caller: &Namespace,
    port: u16,
) -> impl Iterator<Item = &'a Arc<Route>> {
    let of_port = move |route: &&Arc<Route>| route.port.is_none_or(|only| only == port);
    let own = routes.consumer.get(caller).map_or(&[][..], Vec::as_slice);
    let counting = if own.iter().any(|route| of_port(&route)) {
        own
    } else {
        routes.producer.as_slice()
    };
    counting.iter().filter(of_port)
}
