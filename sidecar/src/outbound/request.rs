//! One request of the app, from its head to its answer.

use std::rc::Rc;

use ::http::header::VIA;
use ::http::uri::Authority;
use ::http::{Method, Request, Response, Version};
use portolan_model::refusal::ERROR_HEADER;
use portolan_model::{Hop, Reason, Refusal};
use portolan_policy::path::PathProblem;
use portolan_policy::rules::Name;

use super::after::After;
use super::call::{self, Answer};
use super::client::Client;
use super::destination::{Destination, not_passed_on};
use super::exchange::{Exchange, Flow, grpc_status};
use super::mirror::Wanted;
use super::routing::{self, Forward, Plan};
use super::{elsewhere, tunnel};
use crate::http::{self, Fault, HttpRules, IncomingBody, Limits, Replay, ReplyBody, Watch as _};
use crate::respond;

/// What became of a request that was let in.
#[expect(
    clippy::large_enum_variant,
    reason = "nearly every request's is the large one, which a box would cost an allocation"
)]
enum Passed {
    /// Somebody answered.
    Answer(Answer, Replay, After),
    /// A route's filter did.
    Here(Response<ReplyBody>),
    /// A rule was for it, and it got no further.
    Refused(Refusal, After),
}

/// Answers one request. Whatever happens, there is an answer, and one line in the access log.
pub(super) async fn handle(
    client: Rc<Client>,
    request: Request<IncomingBody>,
) -> Response<ReplyBody> {
    let worker = &client.worker;
    let mut exchange = Exchange::begin(worker, request.method(), request.uri().path());
    exchange.busy = Some(client.activity.begin());
    let grpc = http::is_grpc(request.headers());
    if let Some(fault) = Fault::of(&request, &worker.shared.http.bounds) {
        return refuse_fault(fault, grpc, exchange);
    }
    let admitted = facts(&client, &request, &mut exchange);
    let answered = match admitted {
        Ok(_) if request.method() == Method::CONNECT => {
            return Box::pin(tunnel::connect(worker, request, exchange)).await;
        }
        Ok(authority) => pass(&client, &authority, request, &mut exchange).await,
        Err(refusal) => Err(refusal),
    };
    match answered {
        Ok(Passed::Answer(answer, replay, after)) => {
            reply(answer, replay, &after, exchange, &worker.shared.http)
        }
        Ok(Passed::Here(response)) => {
            exchange.answered(response.status().as_u16());
            exchange.entry.complete = true;
            response
        }
        Ok(Passed::Refused(refusal, after)) => refuse(&refusal, grpc, &after, exchange),
        Err(refusal) => refuse(&refusal, grpc, &After::default(), exchange),
    }
}

/// What must hold of any request: there is room, it has one authority, and it does not go in circles.
fn facts(
    client: &Client,
    request: &Request<IncomingBody>,
    exchange: &mut Exchange,
) -> Result<Authority, Refusal> {
    let refuse = |reason, why: &str| Err(Refusal::new(reason, Hop::Outbound, why));
    exchange.admitted = Some(client.worker.admit()?);
    let Some(authority) = client.authority(request) else {
        return refuse(Reason::BadRequest, "a request names one valid host");
    };
    authority.as_str().clone_into(&mut exchange.entry.host);
    let scheme = request.uri().scheme_str();
    if request.version() < Version::HTTP_2 && scheme.is_some_and(|scheme| scheme != "http") {
        return refuse(
            Reason::BadRequest,
            "use CONNECT for `https`; only `http` is forwarded",
        );
    }
    if http::hops(request.headers()) >= http::HOPS_MAX {
        return refuse(
            Reason::Loop,
            "the request has passed too many outbound proxies",
        );
    }
    Ok(authority)
}

/// Decides where the request goes, and sends it there.
async fn pass(
    client: &Client,
    authority: &Authority,
    request: Request<IncomingBody>,
    exchange: &mut Exchange,
) -> Result<Passed, Refusal> {
    let worker = &client.worker;
    let snapshot = worker.snapshot();
    let destination = client.destination(&snapshot, authority)?;
    let (mut head, body) = request.into_parts();
    if matches!(destination, Destination::Mesh(_)) {
        let normalised = http::normalise_path(&mut head.uri, worker.shared.http.path);
        let refuse = |problem: PathProblem| {
            Refusal::new(Reason::BadRequest, Hop::Outbound, problem.to_string())
        };
        normalised.map_err(refuse)?;
    }
    let upgrade = http::upgrade(&head);
    http::prepare_request(&mut head, authority, upgrade.as_ref());
    if let Some(via) = &worker.shared.http.via {
        head.headers.append(VIA, via.value(head.version));
    }
    let replay = Replay::new(body, exchange.started());
    let answer = match destination {
        Destination::Mesh(route) => {
            exchange.routed(&route.destination.service, &route.name);
            let forward = match routing::request(worker, &snapshot, route, &mut head, exchange)? {
                Plan::Answered(response) => return Ok(Passed::Here(response)),
                Plan::Refused(refusal, after) => return Ok(Passed::Refused(refusal, after)),
                Plan::Forward(forward) => *forward,
            };
            let Forward {
                route,
                mirrors,
                after,
            } = forward;
            exchange.routed(&route.destination.service, &route.name);
            let upgrades = upgrade.is_some();
            let copies = Wanted::of(&snapshot, mirrors, &head, upgrades);
            let copies = copies.and_then(|copies| copies.send(worker, &replay));
            let request = call::Request {
                head,
                replay: replay.clone(),
                upgrades,
            };
            let called = call::call(worker, snapshot, route, request, exchange).await;
            copies.and_then(|copies| copies.send(worker, &replay));
            return Ok(match called {
                Ok(answer) => Passed::Answer(answer, replay, after),
                Err(refusal) => Passed::Refused(refusal, after),
            });
        }
        Destination::Elsewhere(host) if worker.shared.passthrough => {
            exchange.entry.route = Name::Word("passthrough");
            let upgrades = upgrade.is_some();
            Box::pin(elsewhere::forward(
                worker, &host, head, &replay, upgrades, exchange,
            ))
            .await?
        }
        Destination::Elsewhere(host) => return Err(not_passed_on(&host)),
    };
    Ok(Passed::Answer(answer, replay, After::default()))
}

fn reply(
    answer: Answer,
    replay: Replay,
    after: &After,
    mut exchange: Exchange,
    rules: &HttpRules,
) -> Response<ReplyBody> {
    let Answer {
        response,
        limits,
        target,
        held,
    } = answer;
    let (mut head, body) = response.into_parts();
    let switched = head.status == ::http::StatusCode::SWITCHING_PROTOCOLS;
    http::prepare_reply(&mut head.headers, switched);
    if let Some(via) = &rules.via {
        head.headers.append(VIA, via.value(head.version));
    }
    if let Some((reason, hop)) = refused_by(&head.headers) {
        exchange.refused(reason, hop);
    }
    exchange.entry.grpc_status = grpc_status(&head.headers);
    after.apply(target.as_ref(), &mut head.headers);
    if let Some(lease) = &held.lease {
        exchange.reached_by(lease.via());
    }
    let now = exchange.answered(head.status.as_u16());
    head.version = Version::default();
    head.extensions.clear();
    let stalls = exchange.stalls();
    let mut flow = Flow {
        exchange,
        replay,
        target,
        held,
    };
    let body = if flow.exchange.entry.method == Some(Method::HEAD) {
        // Not all who answer `HEAD` in HTTP/2 leave it at that.
        flow.ended();
        ReplyBody::text("")
    } else {
        ReplyBody::streamed(body, limits, Box::new(flow), stalls, now)
    };
    Response::from_parts(head, body)
}

fn refuse(
    refusal: &Refusal,
    grpc: bool,
    after: &After,
    mut exchange: Exchange,
) -> Response<ReplyBody> {
    let mut response = respond::reply(refusal, grpc);
    after.apply(None, response.headers_mut());
    head_alone(&exchange, &mut response);
    exchange.refuse(refusal, response.status().as_u16());
    response
}

fn refuse_fault(fault: Fault, grpc: bool, mut exchange: Exchange) -> Response<ReplyBody> {
    let refusal = fault.refusal(Hop::Outbound);
    let mut response = respond::reply(&refusal, grpc);
    if !grpc {
        *response.status_mut() = fault.status();
    }
    head_alone(&exchange, &mut response);
    // What was sent is not known any more.
    exchange.entry.method = None;
    exchange.entry.path.clear();
    exchange.refuse(&refusal, response.status().as_u16());
    response
}

/// In HTTP/2 a body in an answer to `HEAD` is taken for a broken stream.
fn head_alone(exchange: &Exchange, response: &mut Response<ReplyBody>) {
    if exchange.entry.method == Some(Method::HEAD) {
        *response.body_mut() = ReplyBody::text("");
    }
}

/// The refusal of a later hop.
pub(super) fn refused_by(headers: &::http::HeaderMap) -> Option<(Reason, Hop)> {
    Refusal::parse_header(headers.get(ERROR_HEADER)?.to_str().ok()?)
}

/// How long an answer's body may take.
pub(super) fn limits(
    timeouts: &portolan_policy::route::Timeouts,
    until: Option<tokio::time::Instant>,
) -> Limits {
    Limits {
        idle: timeouts.stream_idle,
        until,
    }
}
