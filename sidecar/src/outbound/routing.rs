//! What declared routes make of a request or connection: facts in, policy's decisions carried out on the
//! request's head, and on the head of its answer.

use std::rc::Rc;
use std::sync::Arc;

use http::uri::{Authority, PathAndQuery};
use http::{HeaderValue, Response, StatusCode, Uri, header, request};
use portolan_model::route::{Backend, BackendRef, Filter, Rewrite};
use portolan_model::snapshot::{Scope, Snapshot};
use portolan_model::traffic::Frontend;
use portolan_model::{Hop, Reason, Refusal};
use portolan_policy::filters::{self, Asked, Cross};
use portolan_policy::matching::{self, Facts, Matched, Selection};
use portolan_policy::route::Route;
use portolan_policy::rules;
use portolan_policy::session::Token;

use super::after::{After, now_s};
use super::exchange::Exchange;
use crate::http::{ReplyBody, is_grpc};
use crate::worker::Worker;

/// What becomes of a request.
pub(super) enum Plan {
    /// It is answered here.
    Answered(Response<ReplyBody>),
    /// The rule leads nowhere.
    Refused(Refusal, After),
    /// It goes on.
    Forward(Box<Forward>),
}

/// A request that goes on.
pub(super) struct Forward {
    /// Where to.
    pub(super) route: Rc<Route>,
    /// Where copies of it go.
    pub(super) mirrors: Vec<Route>,
    /// What happens to its answer.
    pub(super) after: After,
}

/// Decides what becomes of a request, and makes the rule's changes to its head.
///
/// # Errors
/// When no rule is for it.
pub(super) fn request(
    worker: &Worker,
    snapshot: &Snapshot,
    route: Rc<Route>,
    head: &mut request::Parts,
    exchange: &mut Exchange,
) -> Result<Plan, Refusal> {
    let service = Arc::clone(&route.service);
    let selection = match frontend(&route, &service) {
        None => Selection::Unrouted,
        Some(frontend) => {
            let facts = Facts::Request(matching::Request {
                method: &head.method,
                path: head.uri.path(),
                query: head.uri.query(),
                headers: &head.headers,
                host: head.uri.authority().map_or("", Authority::as_str),
                grpc: is_grpc(&head.headers),
            });
            let port = route.destination.port;
            matching::select(&frontend.routes, &worker.shared.namespace, port, &facts)
        }
    };
    match selection {
        Selection::Unrouted => Ok(Plan::Forward(Box::new(Forward {
            route,
            mirrors: Vec::new(),
            after: After::default(),
        }))),
        Selection::Unmatched => Err(unmatched(&route)),
        Selection::Matched(matched) => {
            exchange.routed(&route.destination.service, &matched.name());
            Ok(follow(snapshot, &route, &matched, head))
        }
    }
}

/// Where a connection of opaque bytes goes.
///
/// # Errors
/// When no rule is for it, or the rule leads nowhere.
pub(super) fn connection(
    worker: &Worker,
    snapshot: &Snapshot,
    route: Rc<Route>,
    server_name: Option<&str>,
) -> Result<Rc<Route>, Refusal> {
    let service = Arc::clone(&route.service);
    let Some(frontend) = frontend(&route, &service) else {
        return Ok(route);
    };
    let facts = Facts::Connection { server_name };
    let port = route.destination.port;
    match matching::select(&frontend.routes, &worker.shared.namespace, port, &facts) {
        Selection::Unrouted => Ok(route),
        Selection::Unmatched => Err(unmatched(&route)),
        Selection::Matched(matched) => {
            let backend = rules::choose_backend(matched.rule, rand::random())?;
            rules::to_backend(snapshot, &matched, &backend.to, None).map(Rc::new)
        }
    }
}

/// Whether a connection's server name decides where it goes.
pub(super) fn wants_server_name(worker: &Worker, route: &Route) -> bool {
    frontend(route, &route.service).is_some_and(|frontend| {
        let port = route.destination.port;
        matching::wants_server_name(&frontend.routes, &worker.shared.namespace, port)
    })
}

/// What holds for the name that was called. A name that pins a cluster means just that cluster.
fn frontend<'a>(
    route: &Route,
    service: &'a portolan_model::snapshot::Service,
) -> Option<&'a Frontend> {
    let scope = &route.destination.scope;
    (!matches!(scope, Scope::Pinned(_))).then(|| service.traffic.frontend(scope.face()))
}

fn unmatched(route: &Route) -> Refusal {
    let why = format!(
        "routes are attached to {}, and none of their rules is for this",
        route.destination
    );
    Refusal::new(Reason::NoRoute, Hop::Outbound, why)
}

fn follow(
    snapshot: &Snapshot,
    route: &Route,
    matched: &Matched<'_>,
    head: &mut request::Parts,
) -> Plan {
    let mut after = After {
        decided: Some((Arc::clone(matched.route), matched.index)),
        ..After::default()
    };
    match forward(snapshot, route, matched, head, &mut after) {
        Ok(Next::Here(mut response)) => {
            after.apply(None, response.headers_mut());
            Plan::Answered(response)
        }
        Ok(Next::Preflight(response)) => Plan::Answered(response),
        Ok(Next::To(route, mirrors)) => Plan::Forward(Box::new(Forward {
            route: Rc::new(route),
            mirrors,
            after,
        })),
        Err(refusal) => Plan::Refused(refusal, after),
    }
}

/// What follows from a rule.
#[expect(
    clippy::large_enum_variant,
    reason = "nearly every request's is the large one, which a box would cost an allocation"
)]
enum Next {
    /// It is answered here, and the answer changed as others are.
    Here(Response<ReplyBody>),
    /// It was a browser's question, which is answered.
    Preflight(Response<ReplyBody>),
    /// It goes there, and copies elsewhere.
    To(Route, Vec<Route>),
}

/// Makes the rule's changes to a request's head. `after` is told what has to happen to its answer, whoever
/// gives it.
fn forward(
    snapshot: &Snapshot,
    route: &Route,
    matched: &Matched<'_>,
    head: &mut request::Parts,
    after: &mut After,
) -> Result<Next, Refusal> {
    let mut steps = Steps {
        snapshot,
        called: route,
        matched,
        mirrors: Vec::new(),
        after,
    };
    // Before filters may change what carries it.
    let token = matched
        .rule
        .session
        .as_ref()
        .and_then(|session| Token::of(session, &head.headers, now_s()));
    if let Some(answer) = steps.all(&matched.rule.filters, head)? {
        return Ok(answer);
    }
    let kept = token.and_then(|token| token.find(snapshot, matched));
    let (backend, session) = match kept {
        Some((backend, session)) => (backend, Some(session)),
        None => (rules::choose_backend(matched.rule, rand::random())?, None),
    };
    steps.after.backend = position(matched, backend);
    steps.after.session.clone_from(&session);
    if let Some(answer) = steps.all(&backend.filters, head)? {
        return Ok(answer);
    }
    let route = rules::to_backend(snapshot, matched, &backend.to, session)?;
    Ok(Next::To(route, steps.mirrors))
}

fn position(matched: &Matched<'_>, backend: &Backend) -> Option<usize> {
    let mut backends = matched.rule.backends.iter();
    backends.position(|one| std::ptr::eq(one, backend))
}

/// A request on its way through filters.
struct Steps<'a> {
    snapshot: &'a Snapshot,
    /// The route to what was called.
    called: &'a Route,
    matched: &'a Matched<'a>,
    mirrors: Vec<Route>,
    after: &'a mut After,
}

impl Steps<'_> {
    /// Takes filters until one answers the request here. Those for browsers come first, so that they can read
    /// whatever the others answer.
    fn all(
        &mut self,
        filters: &[Filter],
        head: &mut request::Parts,
    ) -> Result<Option<Next>, Refusal> {
        let is_cors = |filter: &&Filter| matches!(filter, Filter::Cors(_));
        let cors = filters.iter().filter(is_cors);
        for filter in cors.chain(filters.iter().filter(|filter| !is_cors(filter))) {
            let answered = self.take(filter, head)?;
            if answered.is_some() {
                return Ok(answered);
            }
        }
        Ok(None)
    }

    /// Takes one filter. Some answer the request here.
    fn take(
        &mut self,
        filter: &Filter,
        head: &mut request::Parts,
    ) -> Result<Option<Next>, Refusal> {
        match filter {
            Filter::RequestHeaders(changes) => {
                filters::change_headers(changes, &mut head.headers);
            }
            Filter::ResponseHeaders(_) => {}
            Filter::Redirect(redirect) => {
                let asked = Asked {
                    scheme: "http",
                    host: head.uri.host().unwrap_or_default(),
                    port: self.called.destination.port,
                    path: head.uri.path(),
                    query: head.uri.query(),
                };
                let location = filters::location(redirect, asked, self.matched.by);
                let answer = redirected(redirect.status, &location)?;
                return Ok(Some(Next::Here(answer)));
            }
            Filter::Rewrite(rewrite) => self.rewrite(rewrite, head)?,
            Filter::Mirror(mirror) => {
                if filters::mirrored(mirror, rand::random()) {
                    self.mirror(&mirror.to);
                }
            }
            Filter::Cors(cors) => match filters::cross_origin(cors, &head.method, &head.headers) {
                Cross::Unmarked => {}
                Cross::Marked(marks) => self.after.marks = marks,
                Cross::Preflight(marks) => {
                    let mut response = Response::new(ReplyBody::text(""));
                    *response.status_mut() = StatusCode::NO_CONTENT;
                    *response.headers_mut() = marks;
                    return Ok(Some(Next::Preflight(response)));
                }
            },
            Filter::Unsupported(kind) => {
                let why = format!("the rule has a filter that nobody here knows: `{kind}`");
                return Err(rules::invalid(why));
            }
        }
        Ok(None)
    }

    fn rewrite(&self, rewrite: &Rewrite, head: &mut request::Parts) -> Result<(), Refusal> {
        let mut parts = std::mem::take(&mut head.uri).into_parts();
        let broken = |error: &dyn std::fmt::Display| {
            rules::invalid(format!("the rule's rewriting makes no request: {error}"))
        };
        if let Some(hostname) = &rewrite.hostname {
            let authority = Authority::try_from(hostname.as_str());
            parts.authority = Some(authority.map_err(|error| broken(&error))?);
        }
        if let (Some(change), Some(old)) = (&rewrite.path, &parts.path_and_query) {
            let path = filters::changed_path(change, old.path(), self.matched.by);
            let new = match old.query() {
                Some(query) => PathAndQuery::try_from(format!("{path}?{query}")),
                None => PathAndQuery::try_from(path),
            };
            parts.path_and_query = Some(new.map_err(|error| broken(&error))?);
        }
        head.uri = Uri::from_parts(parts).map_err(|error| broken(&error))?;
        Ok(())
    }

    fn mirror(&mut self, to: &BackendRef) {
        match rules::to(self.snapshot, to) {
            Ok(mut route) => {
                route.name = rules::Name::Word("mirror");
                route.retry.attempts = 0;
                self.mirrors.push(route);
            }
            Err(refusal) => tracing::debug!(%refusal, "a request is not mirrored"),
        }
    }
}

fn redirected(status: u16, location: &str) -> Result<Response<ReplyBody>, Refusal> {
    let mut response = Response::new(ReplyBody::text(""));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::FOUND);
    let location = HeaderValue::try_from(location)
        .map_err(|_| rules::invalid(format!("`{location}` is no place to be redirected to")))?;
    response.headers_mut().insert(header::LOCATION, location);
    Ok(response)
}
