//! What routes make of a call, told by the functions that match it.

use http::{HeaderMap, Method};
use portolan_model::declared::Face;
use portolan_model::route::{
    BackendRef, Filter, HttpMatch, Match, PathMatch, Rule, TextMatch, ValueMatch,
};
use portolan_model::snapshot::{Scope, Snapshot};
use portolan_model::{Hop, IdentityKind, Namespace, Reason, Refusal, SpiffeId};
use serde::{Deserialize, Serialize};

use crate::matching::{self, Facts, Matched, Selection};
use crate::route::Route;
use crate::rules;

/// What is asked of the service: a request, or a connection where the port carries no requests.
#[derive(Debug, Clone)]
pub struct Asked {
    /// The method.
    pub method: Method,
    /// The path, without the query.
    pub path: String,
    /// What stands behind the `?`.
    pub query: Option<String>,
    /// The headers.
    pub headers: HeaderMap,
    /// The server name in the connection's TLS ClientHello, where the port carries no requests.
    pub server_name: Option<String>,
}

impl Default for Asked {
    /// `GET /` without headers.
    fn default() -> Self {
        Self {
            method: Method::GET,
            path: "/".to_owned(),
            query: None,
            headers: HeaderMap::new(),
            server_name: None,
        }
    }
}

impl Asked {
    /// Splits a path as people write it.
    #[must_use]
    pub fn on_path(mut self, path: &str) -> Self {
        let (path, query) = match path.split_once('?') {
            Some((path, query)) => (path, Some(query.to_owned())),
            None => (path, None),
        };
        self.path = if path.starts_with('/') {
            path.to_owned()
        } else {
            format!("/{path}")
        };
        self.query = query;
        self
    }

    /// The `Host` that is asked with, where it is not the one that is called.
    fn host(&self) -> Option<&str> {
        self.headers.get(http::header::HOST)?.to_str().ok()
    }

    fn is_grpc(&self) -> bool {
        let kind = self.headers.get(http::header::CONTENT_TYPE);
        kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
    }
}

/// The rule that a call falls under.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RuleView {
    /// `namespace/name/rule`.
    pub name: String,
    /// The route's kind.
    pub kind: String,
    /// The match that was best, in words.
    pub matched: String,
    /// Its filters, in words.
    pub filters: Vec<String>,
    /// Its backends.
    pub backends: Vec<BackendView>,
}

/// A backend of the rule.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BackendView {
    /// What it is, in words.
    pub to: String,
    /// Its share of the calls, from 0 to 1.
    pub share: f64,
    /// Why its share is refused, if it is.
    pub problem: Option<String>,
}

/// What routes make of a call.
pub(super) enum Decided {
    /// Nothing is attached.
    Unrouted,
    /// This rule is for it; the route to its largest backend that exists, unless a filter answers.
    Rule(Box<RuleView>, Option<Box<Route>>),
}

/// Decides as a sidecar of `caller` would.
pub(super) fn decide(
    snapshot: &Snapshot,
    route: &Route,
    caller: &SpiffeId,
    (asked, host): (&Asked, &str),
) -> Result<Decided, Refusal> {
    let face = match route.destination.scope {
        Scope::Cluster => Face::Cluster,
        Scope::Set => Face::Set,
        Scope::Pinned(_) => return Ok(Decided::Unrouted),
    };
    let Some(namespace) = namespace(caller) else {
        return Ok(Decided::Unrouted);
    };
    let facts = if route.protocol.is_http() {
        Facts::Request(matching::Request {
            method: &asked.method,
            path: &asked.path,
            query: asked.query.as_deref(),
            headers: &asked.headers,
            host: asked.host().unwrap_or(host),
            grpc: asked.is_grpc(),
        })
    } else {
        Facts::Connection {
            server_name: asked.server_name.as_deref(),
        }
    };
    let routes = &route.service.traffic.frontend(face).routes;
    match matching::select(routes, &namespace, route.destination.port, &facts) {
        Selection::Unrouted => Ok(Decided::Unrouted),
        Selection::Unmatched => Err(Refusal::new(
            Reason::NoRoute,
            Hop::Outbound,
            format!(
                "routes are attached to {}, and none of their rules is for this",
                route.destination
            ),
        )),
        Selection::Matched(matched) => follow(snapshot, &matched),
    }
}

fn namespace(caller: &SpiffeId) -> Option<Namespace> {
    match caller.kind() {
        IdentityKind::Workload { namespace, .. } => Some(namespace),
        IdentityKind::Gateway { .. }
        | IdentityKind::Control { .. }
        | IdentityKind::Authority
        | IdentityKind::Other => None,
    }
}

fn follow(snapshot: &Snapshot, matched: &Matched<'_>) -> Result<Decided, Refusal> {
    let view = RuleView::of(snapshot, matched);
    let filters = &matched.rule.filters;
    let unknown = filters.iter().find_map(|filter| match filter {
        Filter::Unsupported(kind) => Some(kind),
        Filter::RequestHeaders(_)
        | Filter::ResponseHeaders(_)
        | Filter::Redirect(_)
        | Filter::Rewrite(_)
        | Filter::Mirror(_)
        | Filter::Cors(_) => None,
    });
    if let Some(kind) = unknown {
        return Err(rules::invalid(format!(
            "the rule {} has a filter that nobody here knows: `{kind}`",
            view.name
        )));
    }
    if filters
        .iter()
        .any(|filter| matches!(filter, Filter::Redirect(_)))
    {
        return Ok(Decided::Rule(Box::new(view), None));
    }
    let mut by_weight: Vec<_> = matched
        .rule
        .backends
        .iter()
        .filter(|it| it.weight > 0)
        .collect();
    by_weight.sort_by_key(|backend| std::cmp::Reverse(backend.weight));
    let mut refused = None;
    for backend in by_weight {
        match rules::to_backend(snapshot, matched, &backend.to, None) {
            Ok(route) => return Ok(Decided::Rule(Box::new(view), Some(Box::new(route)))),
            Err(refusal) => refused = refused.or(Some(refusal)),
        }
    }
    match refused {
        Some(refusal) => Err(refusal),
        None => rules::choose_backend(matched.rule, 0).map(|_| Decided::Unrouted),
    }
}

impl RuleView {
    fn of(snapshot: &Snapshot, matched: &Matched<'_>) -> Self {
        Self {
            name: matched.name().to_string(),
            kind: matched.route.key.kind.to_string(),
            matched: matched.by.map_or("everything".to_owned(), words),
            filters: matched.rule.filters.iter().map(filter).collect(),
            backends: backends(snapshot, matched.rule),
        }
    }
}

fn backends(snapshot: &Snapshot, rule: &Rule) -> Vec<BackendView> {
    let total: u64 = rule.backends.iter().map(|it| u64::from(it.weight)).sum();
    let share = |weight: u32| match total {
        0 => 0.0,
        total => f64::from(weight) / total as f64,
    };
    let view = |backend: &portolan_model::route::Backend| BackendView {
        to: backend_words(&backend.to),
        share: share(backend.weight),
        problem: rules::to(snapshot, &backend.to).err().map(|it| it.detail),
    };
    rule.backends.iter().map(view).collect()
}

fn backend_words(to: &BackendRef) -> String {
    match to {
        BackendRef::Invalid(why) => format!("nothing: {why}"),
        BackendRef::Service(target) => {
            let place = match &target.scope {
                Scope::Cluster => "this cluster",
                Scope::Set | Scope::Pinned(_) => "any cluster",
            };
            format!("{}:{} in {place}", target.service, target.port)
        }
    }
}

fn words(by: &Match) -> String {
    match by {
        Match::Sni(name) => format!("server name `{name}`"),
        Match::Grpc(by) => {
            let part = |name: &str, wanted: &Option<TextMatch>| {
                wanted
                    .as_ref()
                    .map(|wanted| format!("{name} {}", text(wanted)))
            };
            let method = part("service", &by.service)
                .into_iter()
                .chain(part("method", &by.method));
            joined(
                method.chain(values("header", &by.headers)),
                "every gRPC call",
            )
        }
        Match::Http(by) => http(by),
    }
}

fn http(by: &HttpMatch) -> String {
    let path = match &by.path {
        PathMatch::Exact(path) => Some(format!("path `{path}`")),
        PathMatch::Prefix(prefix) if prefix.is_empty() => None,
        PathMatch::Prefix(prefix) => Some(format!("path prefix `{prefix}`")),
        PathMatch::Regex(pattern) => Some(format!("path like `{pattern}`")),
    };
    let method = by.method.as_ref().map(|method| format!("method {method}"));
    let conditions = values("header", &by.headers).chain(values("parameter", &by.query));
    joined(
        path.into_iter().chain(method).chain(conditions),
        "every request",
    )
}

fn values<'a>(what: &'a str, values: &'a [ValueMatch]) -> impl Iterator<Item = String> + 'a {
    let one = move |it: &ValueMatch| format!("{what} {} {}", it.name, text(&it.value));
    values.iter().map(one)
}

fn text(wanted: &TextMatch) -> String {
    match wanted {
        TextMatch::Exact(text) => format!("`{text}`"),
        TextMatch::Regex(pattern) => format!("like `{pattern}`"),
    }
}

fn joined(words: impl Iterator<Item = String>, none: &str) -> String {
    let words: Vec<String> = words.collect();
    if words.is_empty() {
        none.to_owned()
    } else {
        words.join(", ")
    }
}

fn filter(filter: &Filter) -> String {
    match filter {
        Filter::RequestHeaders(_) => "changes the request's headers".to_owned(),
        Filter::ResponseHeaders(_) => "changes the answer's headers".to_owned(),
        Filter::Redirect(redirect) => format!("redirects with {}", redirect.status),
        Filter::Rewrite(_) => "rewrites the request".to_owned(),
        Filter::Mirror(mirror) => format!(
            "copies {} of {} to {}",
            mirror.numerator,
            mirror.denominator,
            backend_words(&mirror.to)
        ),
        Filter::Cors(_) => "answers and marks cross-origin requests".to_owned(),
        Filter::Unsupported(kind) => format!("refuses: the filter `{kind}` is not known"),
    }
}
