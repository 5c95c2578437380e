//! A request on its way to the app, once it is known to be sound.

use std::rc::Rc;
use std::time::Duration;

use http::{Response, StatusCode, Version, request};
use hyper::upgrade::{OnUpgrade, on as upgrade_of};
use hyper_util::rt::TokioIo;
use portolan_model::{Hop, Protocol, Reason, Refusal};
use portolan_policy::breaker::{Bound, Permit};
use portolan_transport::pipe;
use tokio::task::spawn_local;

use super::app::{Answer, Stream};
use super::body::RequestBody;
use super::gate::{Marks, Stopped};
use super::http::Connection;
use super::refuse::Refused;
use super::{gate, headers};
use crate::http::{IncomingBody, take_alternative, upgrade};
use crate::limits::Metered;

/// How long an upgraded connection may be silent.
const TUNNEL_IDLE: Duration = Duration::from_secs(3600);

/// An answer of the app, and what it takes place of.
pub(super) type Passed = (
    Response<(IncomingBody, RequestBody)>,
    Permit,
    Option<Stream>,
);

impl Connection {
    /// Judges the request and passes it to the app.
    pub(super) async fn pass(
        &self,
        head: &mut request::Parts,
        body: IncomingBody,
        grpc: bool,
        marks: &mut Marks,
    ) -> Result<Passed, Stopped> {
        let rules = &self.worker.shared.http;
        let allowed = self.session.judgement()?;
        let permit = self.worker.requests.try_acquire(Bound::Requests);
        let permit = permit.map_err(|refusal| Refusal {
            hop: Hop::Inbound,
            ..refusal
        })?;
        let alternative = take_alternative(&mut head.headers);
        let limited = self.limited.as_ref();
        let seen = gate::view(head, grpc);
        gate::pass(&self.worker, self.session.facts(), &seen, limited, marks).await?;
        let protocol = upgrade(head);
        let switchable = head.extensions.remove::<OnUpgrade>();
        let switchable = switchable.filter(|_| protocol.is_some());
        headers::towards_app(head, protocol, &self.told);
        head.extensions.clear();
        let pace = || self.worker.limits.pace(self.session.facts());
        let body = RequestBody::new(body, rules, pace());
        marks.pace = pace();
        let port = allowed.port.app_port;
        let app = &self.worker.app;
        if alternative.refused(false) && app.is_stuck(port) {
            return Err(stuck(port).into());
        }
        let sending = async {
            match speaks(allowed.port.protocol, grpc, switchable.is_some()) {
                Version::HTTP_2 => app.send_http2(port, head, &body).await,
                _ => app.send_http1(port, head, &body).await,
            }
        };
        let sent = tokio::select! {
            biased;
            sent = sending => sent,
            () = app.stuck(port), if alternative.refused(true) => return Err(stuck(port).into()),
        };
        let Answer {
            mut response,
            stream,
        } = sent.map_err(|failure| {
            let fault = body.fault().map(Refused::from);
            fault.unwrap_or_else(|| failure.refusal().into())
        })?;
        app.answers(port);
        let switching = response.status() == StatusCode::SWITCHING_PROTOCOLS;
        match switchable {
            Some(caller) if switching => self.tunnel(caller, upgrade_of(&mut response)),
            Some(_) | None if switching => {
                let why = "the app switched protocols although nobody asked it to";
                return Err(Refusal::new(Reason::Reset, Hop::Inbound, why).into());
            }
            Some(_) | None => {}
        }
        headers::towards_caller(response.headers_mut(), switching);
        Ok((response.map(|answer| (answer, body)), permit, stream))
    }

    /// Carries an upgraded connection until it ends, or its permission is gone.
    fn tunnel(&self, caller: OnUpgrade, app: OnUpgrade) {
        let session = Rc::clone(&self.session);
        let worker = Rc::clone(&self.worker);
        spawn_local(async move {
            let carry = async {
                let (Ok(caller), Ok(app)) = tokio::join!(caller, app) else {
                    return;
                };
                let limits = worker.shared.limits.clone();
                let caller = Metered::new(TokioIo::new(caller), limits, session.facts().clone());
                let app = TokioIo::new(app);
                let end = pipe::copy_both(caller, app, TUNNEL_IDLE).await;
                let metrics = &worker.shared.metrics;
                metrics.carried(session.facts(), end.sent, end.received);
            };
            tokio::select! {
                () = carry => {}
                () = session.revoked() => {}
            }
        });
    }
}

/// Sends a request elsewhere that somebody else can serve.
fn stuck(port: u16) -> Refusal {
    let why = format!("the app neither accepts connections on port {port} nor answers");
    Refusal::new(Reason::NotReady, Hop::Inbound, why)
}

/// What to speak to the app. A gRPC call on a port that was declared as plain HTTP still needs
/// HTTP/2, an upgrade HTTP/1.1.
fn speaks(protocol: Protocol, grpc: bool, upgrade: bool) -> Version {
    match protocol {
        _ if upgrade => Version::HTTP_11,
        _ if grpc => Version::HTTP_2,
        Protocol::Http2 | Protocol::Grpc => Version::HTTP_2,
        Protocol::Http | Protocol::Tcp | Protocol::Tls | Protocol::Udp | Protocol::Sctp => {
            Version::HTTP_11
        }
    }
}
