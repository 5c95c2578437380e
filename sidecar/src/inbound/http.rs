//! HTTP from other sidecars: each request is judged, cleaned, and passed to the app.

use std::error::Error;
use std::future::{Future, pending};
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::TryFutureExt;
use http::{HeaderValue, Method, Request, Response, request};
use hyper::body::{Body as _, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use portolan_model::{Hop, Reason, Refusal};
use portolan_policy::breaker::Permit;
use portolan_runtime::rarely::or_rarely;
use portolan_runtime::telemetry::milliseconds;
use portolan_runtime::workers::chain;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

use super::app::Stream;
use super::body::ResponseBody;
use super::gate::{Marks, Reset, Stopped};
use super::headers::Told;
use super::metrics::ConnectionMetrics;
use super::pass::Passed;
use super::refuse::Refused;
use super::{Arrival, Worker, gate, headers};
use crate::access;
use crate::http::{
    Activity, Busy, Fault, IncomingBody, Reach, cork, guard, http1_server, http2_answer, is_grpc,
    may_switch, normalise_path,
};
use crate::limits::{Limited, Paced};
use crate::sessions::Open;

/// The most requests under way on one connection.
pub(super) const STREAMS_MAX: u32 = 128;
/// How long an HTTP/1.1 connection may wait for a request.
pub(super) const WAIT_MAX: Duration = Duration::from_secs(60);
/// How long an HTTP/2 connection may be without a request.
pub(super) const IDLE_MAX: Duration = Duration::from_secs(300);
/// How old a connection gets before its caller is asked to open another: its certificate was
/// checked only when it began.
const AGE_MAX: Duration = Duration::from_secs(3600);
/// How long requests under way may go on when a connection grew old.
const AGE_GRACE: Duration = Duration::from_secs(300);
/// How long requests under way may go on when the gateway that brought them is about to stop. It ends
/// the connection sooner.
const GATEWAY_GRACE: Duration = Duration::from_secs(300);
/// How long requests under way may go on when the caller's permission is gone.
const REVOKED_GRACE: Duration = Duration::from_secs(1);
/// How long the caller of a connection that is one too many may take to read that.
const DISMISSED_GRACE: Duration = Duration::from_secs(15);

type Body = ResponseBody<Held>;

/// What is held until an answer's body ended.
type Held = (Option<Permit>, Option<Stream>, Busy);

/// One connection of another sidecar.
pub(super) struct Connection {
    pub(super) worker: Rc<Worker>,
    pub(super) session: Rc<Open>,
    metrics: ConnectionMetrics,
    pub(super) told: Told,
    /// Where it comes from: a neighbour, or a gateway.
    from: IpAddr,
    activity: Rc<Activity>,
    /// Set where the connection is one too many: its first request is told so, and it ends.
    pub(super) limited: Option<Limited>,
    /// It has been told so.
    dismissed: Notify,
}

/// Serves HTTP/2 until the connection ends.
pub(super) async fn serve_http2<S>(worker: Rc<Worker>, arrival: Arrival, stream: S)
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let connection = Rc::new(Connection::new(worker, arrival));
    let handler = Rc::clone(&connection);
    let (stream, cork) = cork(stream);
    let bounds = connection.worker.shared.http.bounds;
    let reach = connection.reach();
    let serving = http2_answer(stream, &bounds, STREAMS_MAX, reach, move |request| {
        Box::pin(Rc::clone(&handler).answer(request))
    });
    connection
        .drive(cork.around(serving), IDLE_MAX, |around| {
            around.connection().get_mut().end();
        })
        .await;
}

/// Serves HTTP/1.1, with upgrades, until the connection ends.
pub(super) async fn serve_http1<S>(worker: Rc<Worker>, arrival: Arrival, stream: S)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let connection = Rc::new(Connection::new(worker, arrival));
    let handler = Rc::clone(&connection);
    let bounds = connection.worker.shared.http.bounds;
    let (stream, switch) = guard(stream, bounds);
    let service = service_fn(move |request: Request<Incoming>| {
        let switch = may_switch(&request).then(|| switch.clone());
        let connect = request.method() == Method::CONNECT;
        let answering = Box::pin(Rc::clone(&handler).answer(request.map(IncomingBody::from)));
        answering.map_ok(move |response| {
            if let Some(switch) = switch {
                switch.answered(response.status(), connect);
            }
            response
        })
    });
    let serving = http1_server(&bounds)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    connection
        .drive(
            serving,
            WAIT_MAX,
            http1::UpgradeableConnection::graceful_shutdown,
        )
        .await;
}

impl Connection {
    fn new(worker: Rc<Worker>, arrival: Arrival) -> Self {
        let Arrival {
            session,
            from,
            limited,
        } = arrival;
        let facts = session.facts();
        let client_cert = match worker.shared.tls.identity() {
            Some(own) => headers::client_cert(&own.id, &facts.caller, facts.chain.first()),
            None => HeaderValue::from_static(""),
        };
        Self {
            metrics: worker.count(facts),
            worker,
            session: Rc::new(session),
            told: Told::new(client_cert, from),
            from,
            activity: Activity::new(),
            limited,
            dismissed: Notify::new(),
        }
    }

    /// How far away the caller is.
    fn reach(&self) -> Reach {
        let caller = self.session.facts().caller.trust_domain();
        let own = self.worker.shared.tls.identity();
        if own.is_some_and(|own| own.id.trust_domain() == caller) {
            Reach::Near
        } else {
            Reach::Far
        }
    }

    /// Runs the connection, and ends it gracefully when it should end, for one because it was without a
    /// request for as long as `idle_max`: requests under way may finish for a while.
    async fn drive<C, E>(&self, serving: C, idle_max: Duration, end: impl Fn(Pin<&mut C>))
    where
        C: Future<Output = Result<(), E>>,
        E: Error,
    {
        let mut serving = pin!(serving);
        let ends = async {
            tokio::select! {
                biased;
                () = self.session.revoked() => Some(REVOKED_GRACE),
                () = self.worker.draining() => Some(super::DRAIN_MAX),
                () = self.worker.gateway_leaves(self.from) => Some(GATEWAY_GRACE),
                () = sleep(AGE_MAX) => Some(AGE_GRACE),
                // An answer's last bytes may still wait for a caller that reads slowly, and a body may outlive its
                // answer: the bounds on both end it.
                () = self.activity.idle(idle_max) => None,
                () = self.dismissed.notified() => Some(DISMISSED_GRACE),
            }
        };
        let grace = match or_rarely(serving.as_mut(), ends).await {
            Ok(ended) => return log_end(ended),
            Err(grace) => grace,
        };
        end(serving.as_mut());
        let over = async {
            match grace {
                Some(grace) => sleep(grace).await,
                None => pending().await,
            }
        };
        tokio::select! {
            ended = serving.as_mut() => log_end(ended),
            () = over => {}
            () = async {
                self.session.revoked().await;
                sleep(REVOKED_GRACE).await;
            } => {}
        }
    }

    async fn answer(
        self: Rc<Self>,
        mut request: Request<IncomingBody>,
    ) -> Result<Response<Body>, Reset> {
        let started = Instant::now();
        let busy = self.activity.begin();
        let grpc = is_grpc(request.headers());
        let (method, path) = if Fault::replaced(&request) {
            // What was sent is not known any more.
            (None, String::new())
        } else {
            // Nobody reads it without a log.
            let path = access::enabled().then(|| request.uri().path().to_owned());
            (Some(request.method().clone()), path.unwrap_or_default())
        };
        let bodiless = method == Some(Method::HEAD);
        let mut marks = Marks::default();
        let checked = self.check(&mut request);
        // A head is large: it stays where it is until it is sent.
        let (mut head, body) = request.into_parts();
        let answered = self
            .admitted(checked, &mut head, body, grpc, &mut marks)
            .await;
        let mut refused = None;
        let mut answered = match answered {
            Ok((response, permit, stream)) => Ok(response.map(|(body, request)| {
                let body = Paced::new(body, marks.pace.take());
                let stalls = Rc::clone(&self.worker.stalls);
                let held = (Some(permit), stream, busy);
                if bodiless {
                    // An app may send a body all the same, which HTTP/2 takes for a broken stream.
                    return Body::text(Bytes::new(), held);
                }
                Body::passed(body, request, stalls, held)
            })),
            Err(stopped) => {
                if let Stopped::Refused(told) = &stopped {
                    self.worker.shared.metrics.refused(&told.refusal);
                    tracing::debug!(refusal = %told.refusal, "request refused");
                    refused = Some(told.refusal.reason);
                }
                let held = (None, None, busy);
                let text = |text| Body::text(if bodiless { Bytes::new() } else { text }, held);
                gate::answer(&stopped, grpc).map(|response| response.map(text))
            }
        };
        if let Ok(response) = &mut answered {
            marks.write(response.headers_mut());
        }
        let status = answered
            .as_ref()
            .map_or(0, |response| response.status().as_u16());
        let took = started.elapsed();
        self.metrics.answered(status, refused, took);
        let facts = self.session.facts();
        tracing::info!(
            target: "access",
            direction = "inbound",
            method = method.as_ref().map_or("-", Method::as_str),
            path,
            status,
            reason = refused.map(Reason::as_str),
            limit = marks.limit(),
            fault = marks.fault(),
            service = %facts.service,
            port = facts.port,
            duration_ms = milliseconds(took),
            caller = %facts.caller,
            tunnel = facts.tunnel.map(tracing::field::display),
        );
        if self.limited.is_some() {
            self.dismissed.notify_one();
        }
        answered
    }

    /// Passes the request on if the app can take it.
    async fn admitted(
        &self,
        checked: Result<(), Refused>,
        head: &mut request::Parts,
        body: IncomingBody,
        grpc: bool,
        marks: &mut Marks,
    ) -> Result<Passed, Stopped> {
        let shared = &self.worker.shared;
        let admitted = shared.admissions.enter(
            &shared.snapshot.load(),
            &shared.workload,
            self.session.facts(),
        )?;
        checked?;
        let passed = self.pass(head, body, grpc, marks).await?;
        if let Some(admitted) = admitted {
            admitted.answered();
        }
        Ok(passed)
    }

    /// What must hold of any request. Its path is brought to its one form, which is the one that is
    /// judged and that the app sees.
    fn check(&self, request: &mut Request<IncomingBody>) -> Result<(), Refused> {
        let rules = &self.worker.shared.http;
        if let Some(fault) = Fault::of(request, &rules.bounds) {
            return Err(fault.into());
        }
        let refuse = |why: String| Refusal::new(Reason::BadRequest, Hop::Inbound, why);
        if let Some(why) = headers::objection(request) {
            return Err(refuse(why.to_owned()).into());
        }
        let announced = request.body().size_hint().lower();
        if rules.body_max.is_some_and(|max| announced > max) {
            return Err(Fault::BodyTooLarge.into());
        }
        normalise_path(request.uri_mut(), rules.path).map_err(|it| refuse(it.to_string()))?;
        Ok(())
    }
}

fn log_end<E: Error>(ended: Result<(), E>) {
    if let Err(error) = ended {
        tracing::debug!(error = chain(&error), "inbound connection ended");
    }
}
