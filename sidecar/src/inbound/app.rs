//! Connections to the app: pools of HTTP/1.1 and HTTP/2, and plain ones.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use http::{Request, Response, request};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1};
use hyper_util::rt::TokioIo;
use portolan_model::{Hop, Reason, Refusal};
use portolan_policy::retry;
use portolan_runtime::workers::chain;
use portolan_transport::listen;
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio::task::spawn_local;
use tokio::time::Instant;

use super::body::RequestBody;
use super::headers;
use super::stall::StallWatch;
use crate::http::{
    CLIENT_STREAMS, IncomingBody, IncomingError, Reach, Requests, SendError, framing_is_clear,
    http2_handshake, origin_form,
};
use crate::probe::{Probe, waiting};

/// How long the app may take to accept a connection.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a connection to the app is kept without a request. Common servers close theirs after
/// five seconds, and whoever is first loses no request.
pub(super) const IDLE_MAX: Duration = Duration::from_secs(4);
/// The most HTTP/1.1 connections that wait for a request, for each port and worker.
pub(super) const IDLE_PER_PORT_MAX: usize = 256;
/// The most HTTP/2 connections for each port and worker.
pub(super) const H2_PER_PORT_MAX: usize = 8;
/// Requests under way on an HTTP/2 connection above which another one is opened.
const H2_STREAMS_FULL: usize = CLIENT_STREAMS as usize;
/// The largest response head that the app may send, in bytes.
const HEAD_MAX: usize = 64 * 1024;

/// The app, as one worker reaches it.
pub(super) struct App {
    address: IpAddr,
    probe: Probe,
    ports: RefCell<BTreeMap<u16, Rc<Pool>>>,
}

/// An answer of the app, and what must live until its body ended.
pub(super) struct Answer {
    pub(super) response: Response<IncomingBody>,
    pub(super) stream: Option<Stream>,
}

/// A place on a connection, taken until it is dropped.
pub(super) enum Stream {
    Http1 { _taken: Taken },
    Http2 { _taken: Rc<()> },
}

/// An HTTP/1.1 connection whose answer is on its way. Dropping it gives it back.
pub(super) struct Taken {
    pool: Rc<Pool>,
    sender: Option<http1::SendRequest<RequestBody>>,
    answered: Instant,
}

/// Connections to one port.
#[derive(Default)]
pub(super) struct Pool {
    /// Those that wait for a request, or will when the last of their answer has gone through.
    idle: RefCell<VecDeque<Idle>>,
    h2: RefCell<Vec<H2>>,
    /// Held while an HTTP/2 connection is opened, so that a burst opens one and not one each.
    opening: Mutex<()>,
    watch: StallWatch,
}

struct Idle {
    sender: http1::SendRequest<RequestBody>,
    /// When its last answer began: the app may have ended that at once, and counts from then for how long it
    /// keeps the connection, however slowly the caller takes the rest.
    since: Instant,
}

#[derive(Clone)]
struct H2 {
    requests: Rc<Requests>,
    /// One clone for each request under way, and one here.
    streams: Rc<()>,
}

/// Why the app did not answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("the app does not accept connections on port {port}")]
    Connect { port: u16, source: io::Error },
    #[error("the app on port {port} ended the connection before it answered")]
    Reset { port: u16, source: IncomingError },
    #[error("the app on port {port} does not say clearly where its answer ends")]
    Unclear { port: u16 },
}

impl App {
    pub(super) fn new(address: IpAddr, probe: Probe) -> Self {
        Self {
            address,
            probe,
            ports: RefCell::default(),
        }
    }

    /// Opens a plain connection.
    pub(super) async fn connect(&self, port: u16) -> Result<TcpStream, Failure> {
        let connecting = listen::connect((self.address, port).into(), CONNECT_TIMEOUT);
        connecting.await.map_err(|source| {
            self.probe.note_failure();
            Failure::Connect { port, source }
        })
    }

    /// Sends a request over HTTP/1.1: on a kept connection, or a fresh one. A kept connection that
    /// the app closed in the meantime costs nothing: the request goes on a fresh one, if that
    /// cannot do harm.
    pub(super) async fn send_http1(
        &self,
        port: u16,
        head: &mut request::Parts,
        body: &RequestBody,
    ) -> Result<Answer, Failure> {
        origin_form(head);
        if !body.is_end_stream() && body.size_hint().exact().is_none() {
            // Without it, hyper takes a GET for one without a body.
            let coding = http::HeaderValue::from_static("chunked");
            head.headers.insert(http::header::TRANSFER_ENCODING, coding);
        }
        let pool = self.pool(port);
        if let Some(mut sender) = pool.take_idle() {
            let repeatable = retry::idempotent(head.method.as_str());
            let first = Request::from_parts(head.clone(), body.clone());
            match sender.try_send_request(first).await {
                Ok(response) => return pool.answer(port, sender, response),
                Err(failed) => retry_on_fresh(failed, port, repeatable && !body.touched())?,
            }
        }
        let mut sender = self.open_http1(port).await?;
        let request = Request::from_parts(head.clone(), body.clone());
        let sent = sender.send_request(request).await;
        let response = sent.map_err(|error| Failure::reset(port, error))?;
        pool.answer(port, sender, response)
    }

    /// Sends a request over HTTP/2 in clear text.
    pub(super) async fn send_http2(
        &self,
        port: u16,
        head: &mut request::Parts,
        body: &RequestBody,
    ) -> Result<Answer, Failure> {
        let app = SocketAddr::from((self.address, port));
        head.uri = headers::absolute_form(&head.uri, &head.headers, app);
        head.version = http::Version::HTTP_2;
        head.headers.remove(http::header::HOST);
        let pool = self.pool(port);
        let repeatable = retry::idempotent(head.method.as_str());
        let mut fresh = false;
        loop {
            let (connection, opened) = self.http2(&pool, port, fresh).await?;
            fresh = true;
            let stream = Rc::clone(&connection.streams);
            let sent = Request::from_parts(head.clone(), body.clone());
            let failed = match connection.requests.send(sent).await {
                Ok(response) => {
                    let stream = Some(Stream::Http2 { _taken: stream });
                    return Ok(Answer { response, stream });
                }
                Err(failed) => failed,
            };
            let lost = matches!(&failed, SendError::Sent(error) if error.is_io());
            let harmless = failed.unprocessed() || (lost && repeatable);
            if opened || !harmless || body.touched() {
                return Err(Failure::reset(port, failed.into_error()));
            }
        }
    }

    /// Ends when the app is found stuck on this port: at once if it was before, and is still.
    pub(super) async fn stuck(&self, port: u16) {
        let pool = self.pool(port);
        pool.watch.stuck(|| waiting(self.address, port)).await;
        self.probe.note_stuck(port);
    }

    /// Whether the app was found stuck on this port, and is so still.
    pub(super) fn is_stuck(&self, port: u16) -> bool {
        let pool = self.pool(port);
        pool.watch.still_stuck(|| waiting(self.address, port))
    }

    /// The app answered on this port.
    pub(super) fn answers(&self, port: u16) {
        self.pool(port).watch.answers();
    }

    /// Closes connections that waited too long.
    pub(super) fn reap(&self) {
        for pool in self.ports.borrow().values() {
            pool.idle.borrow_mut().retain(Idle::keeps);
            pool.h2.borrow_mut().retain(|h2| h2.requests.open());
        }
    }

    fn pool(&self, port: u16) -> Rc<Pool> {
        Rc::clone(self.ports.borrow_mut().entry(port).or_default())
    }

    async fn open_http1(&self, port: u16) -> Result<http1::SendRequest<RequestBody>, Failure> {
        let io = TokioIo::new(self.connect(port).await?);
        let (sender, connection) = http1::Builder::new()
            .max_buf_size(HEAD_MAX)
            .handshake(io)
            .await
            .map_err(|error| Failure::reset(port, error))?;
        spawn_local(connection.with_upgrades());
        Ok(sender)
    }

    /// The HTTP/2 connection for the next request, and whether it was opened for it.
    async fn http2(&self, pool: &Pool, port: u16, fresh: bool) -> Result<(H2, bool), Failure> {
        if let Some(ready) = pool.ready_h2().filter(|_| !fresh) {
            return Ok((ready, false));
        }
        let _opening = pool.opening.lock().await;
        if let Some(ready) = pool.ready_h2().filter(|_| !fresh) {
            return Ok((ready, false));
        }
        let stream = self.connect(port).await?;
        let (requests, connection) = http2_handshake(stream, Reach::Near)
            .await
            .map_err(|error| Failure::reset(port, error))?;
        spawn_local(connection);
        let opened = H2 {
            requests: Rc::new(requests),
            streams: Rc::default(),
        };
        pool.h2.borrow_mut().push(opened.clone());
        Ok((opened, true))
    }
}

impl Pool {
    /// The connection that was used last, since its fellows may then grow old and be closed.
    fn take_idle(&self) -> Option<http1::SendRequest<RequestBody>> {
        let mut idle = self.idle.borrow_mut();
        let newest = idle.iter().rposition(Idle::usable)?;
        Some(idle.remove(newest)?.sender)
    }

    /// The answer, if its end is clear; the connection is kept when it has come.
    fn answer(
        self: Rc<Self>,
        port: u16,
        sender: http1::SendRequest<RequestBody>,
        response: Response<Incoming>,
    ) -> Result<Answer, Failure> {
        if !framing_is_clear(response.headers()) {
            return Err(Failure::Unclear { port });
        }
        let taken = Taken {
            pool: self,
            sender: Some(sender),
            answered: Instant::now(),
        };
        Ok(Answer {
            response: response.map(IncomingBody::from),
            stream: Some(Stream::Http1 { _taken: taken }),
        })
    }

    fn put_idle(&self, sender: http1::SendRequest<RequestBody>, since: Instant) {
        let mut idle = self.idle.borrow_mut();
        if idle.len() == IDLE_PER_PORT_MAX {
            idle.pop_front();
        }
        idle.push_back(Idle { sender, since });
    }

    fn ready_h2(&self) -> Option<H2> {
        let mut all = self.h2.borrow_mut();
        all.retain(|h2| h2.requests.open());
        let busy = |h2: &&H2| Rc::strong_count(&h2.streams);
        let least = all.iter().min_by_key(busy)?;
        let full = busy(&least) > H2_STREAMS_FULL && all.len() < H2_PER_PORT_MAX;
        (!full).then(|| least.clone())
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        let sender = self.sender.take().filter(|sender| !sender.is_closed());
        if let Some(sender) = sender {
            self.pool.put_idle(sender, self.answered);
        }
    }
}

impl Idle {
    /// Whether it takes a request. Ready means: the body has gone through, and the app keeps the connection.
    fn usable(&self) -> bool {
        self.sender.is_ready() && self.since.elapsed() < IDLE_MAX
    }

    fn keeps(&self) -> bool {
        !self.sender.is_closed() && self.since.elapsed() < IDLE_MAX
    }
}

impl Failure {
    fn reset(port: u16, error: impl Into<IncomingError>) -> Self {
        let source = error.into();
        Self::Reset { port, source }
    }

    pub(super) fn refusal(&self) -> Refusal {
        let reason = match self {
            Self::Connect { .. } => Reason::ConnectFailed,
            Self::Reset { .. } | Self::Unclear { .. } => Reason::Reset,
        };
        Refusal::new(reason, Hop::Inbound, chain(self))
    }
}

/// Whether a request that failed on a kept connection goes on a fresh one: if it was never sent, or
/// if sending it twice does no harm and its body is still whole.
fn retry_on_fresh(
    mut failed: TrySendError<Request<RequestBody>>,
    port: u16,
    harmless: bool,
) -> Result<(), Failure> {
    let never_sent = failed.take_message().is_some();
    let source = failed.into_error();
    if never_sent || (harmless && (source.is_incomplete_message() || is_reset(&source))) {
        Ok(())
    } else {
        Err(Failure::reset(port, source))
    }
}

fn is_reset(error: &hyper::Error) -> bool {
    let source = std::error::Error::source(error);
    source
        .and_then(|source| source.downcast_ref::<io::Error>())
        .is_some_and(|error| {
            matches!(
                error.kind(),
                io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
            )
        })
}
