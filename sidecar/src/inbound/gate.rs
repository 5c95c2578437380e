//! What a request or connection meets before the app: limits, and the faults of drills.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST};
use http::uri::Authority;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, request};
use portolan_model::fault::AbortWith;
use portolan_model::snapshot::Snapshot;
use portolan_model::{ClusterName, SpiffeId};
use portolan_policy::fault::{Caller, Draws, meet};
use portolan_policy::matching::Request;
use tokio::time::sleep;

use super::refuse::Refused;
use super::{Worker, refuse};
use crate::limits::{Limited, Pace, Told};
use crate::sessions::Facts;

/// Names the fault that an answer met, so that nobody takes a drill for the real thing.
const FAULT: HeaderName = HeaderName::from_static("x-portolan-fault");

/// Why a request does not reach the app, or its answer not the caller.
#[derive(Debug)]
pub(super) enum Stopped {
    Refused(Refused),
    Aborted(AbortWith),
}

impl<R: Into<Refused>> From<R> for Stopped {
    fn from(refused: R) -> Self {
        Self::Refused(refused.into())
    }
}

/// A drill resets the connection or stream.
#[derive(Debug, thiserror::Error)]
#[error("reset by a drill")]
pub(super) struct Reset;

/// What is noted on the answer.
#[derive(Default)]
pub(super) struct Marks {
    told: Option<Told>,
    limited: Option<Limited>,
    fault: Option<Arc<str>>,
    /// How fast the answer's body flows.
    pub(super) pace: Option<Pace>,
}

impl Marks {
    pub(super) fn write(&self, headers: &mut HeaderMap) {
        if let Some(limited) = &self.limited {
            limited.write(headers);
        } else if let Some(told) = &self.told {
            told.write(headers);
        }
        if let Some(fault) = &self.fault
            && let Ok(name) = HeaderValue::from_str(fault)
        {
            headers.insert(FAULT, name);
        }
    }

    /// The limit that was reached.
    pub(super) fn limit(&self) -> Option<&str> {
        self.limited.as_ref().map(|limited| &*limited.name)
    }

    /// The fault that was met.
    pub(super) fn fault(&self) -> Option<&str> {
        self.fault.as_deref()
    }
}

/// Counts the request, and does to it what the drills say. `limited`: its connection is one too many.
pub(super) async fn pass(
    worker: &Worker,
    facts: &Facts,
    request: &Request<'_>,
    limited: Option<&Limited>,
    marks: &mut Marks,
) -> Result<(), Stopped> {
    let counted = match limited {
        Some(limited) => Err(limited.clone()),
        None => worker.limits.request(facts, request).await,
    };
    match counted {
        Ok(told) => marks.told = told,
        Err(limited) => {
            worker.shared.metrics.limited(&limited.name);
            let refusal = limited.refusal.clone();
            marks.limited = Some(limited);
            return Err(refusal.into());
        }
    }
    match drill(worker, facts, Some(request), marks).await {
        Some(with) => Err(Stopped::Aborted(with)),
        None => Ok(()),
    }
}

/// Does to a call what the drills say: it waits, and learns what is answered in the app's place, if anything
/// is. `request`: `None` for a connection of opaque bytes.
pub(super) async fn drill(
    worker: &Worker,
    facts: &Facts,
    request: Option<&Request<'_>>,
    marks: &mut Marks,
) -> Option<AbortWith> {
    let drills = worker.shared.limits.faults(&facts.service)?;
    let snapshot = worker.shared.snapshot.load_full();
    let caller = Caller {
        id: &facts.caller,
        cluster: cluster_of(&facts.caller, &snapshot),
    };
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH);
    let now_ms = since_epoch.unwrap_or_default().as_millis();
    let now_ms = u64::try_from(now_ms).unwrap_or(u64::MAX);
    let draws = Draws {
        delay: rand::random(),
        abort: rand::random(),
    };
    let faults = drills.faults();
    let met = meet(faults, facts.port, caller, request, now_ms, draws)?;
    marks.fault = Some(met.name.into());
    if let Some(delay) = met.delay {
        worker.shared.metrics.fault(met.name, "delay");
        sleep(delay).await;
    }
    if met.abort.is_some() {
        worker.shared.metrics.fault(met.name, "abort");
    }
    met.abort
}

/// What is answered in the app's place.
pub(super) fn answer(stopped: &Stopped, grpc: bool) -> Result<Response<Bytes>, Reset> {
    let with = match stopped {
        Stopped::Refused(refusal) => return Ok(refuse::response(refusal, grpc)),
        Stopped::Aborted(with) => *with,
    };
    let mut response = Response::new(Bytes::new());
    match with {
        AbortWith::Reset => return Err(Reset),
        AbortWith::GrpcStatus(status) if grpc => {
            let headers = response.headers_mut();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
            headers.insert("grpc-status", status.into());
            let why = HeaderValue::from_static("aborted by a drill");
            headers.insert("grpc-message", why);
        }
        AbortWith::GrpcStatus(status) => {
            *response.status_mut() = http_status(status);
        }
        AbortWith::HttpStatus(status) => {
            let fallback = StatusCode::INTERNAL_SERVER_ERROR;
            *response.status_mut() = StatusCode::from_u16(status).unwrap_or(fallback);
        }
    }
    if !grpc {
        *response.body_mut() = Bytes::from_static(b"aborted by a drill\n");
        let kind = HeaderValue::from_static("text/plain; charset=utf-8");
        response.headers_mut().insert(CONTENT_TYPE, kind);
    }
    Ok(response)
}

/// The HTTP status that means what a gRPC status does (google.rpc.Code).
fn http_status(grpc: u32) -> StatusCode {
    match grpc {
        3 | 9 | 11 => StatusCode::BAD_REQUEST,
        4 => StatusCode::GATEWAY_TIMEOUT,
        5 => StatusCode::NOT_FOUND,
        6 | 10 => StatusCode::CONFLICT,
        7 => StatusCode::FORBIDDEN,
        8 => StatusCode::TOO_MANY_REQUESTS,
        12 => StatusCode::NOT_IMPLEMENTED,
        14 => StatusCode::SERVICE_UNAVAILABLE,
        16 => StatusCode::UNAUTHORIZED,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// The cluster whose trust domain an identity is of.
fn cluster_of<'a>(caller: &SpiffeId, snapshot: &'a Snapshot) -> Option<&'a ClusterName> {
    let domain = caller.trust_domain();
    let own = snapshot.mesh.as_ref().map(|mesh| &mesh.cluster);
    match own.filter(|own| &own.trust_domain == domain) {
        Some(own) => Some(&own.name),
        None => Some(&snapshot.peer_by_trust_domain(domain)?.name),
    }
}

/// A request as policy sees it.
pub(super) fn view(parts: &request::Parts, grpc: bool) -> Request<'_> {
    let authority = parts.uri.authority().map(Authority::as_str);
    let host = || parts.headers.get(HOST)?.to_str().ok();
    Request {
        method: &parts.method,
        path: parts.uri.path(),
        query: parts.uri.query(),
        headers: &parts.headers,
        host: authority.or_else(host).unwrap_or_default(),
        grpc,
    }
}
