//! Answers on an HTTP/2 connection, as its server.
//!
//! It stands on `h2` itself, as requests do: each is answered in one task, without what hyper keeps for each beside it.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::server::{Connection, Handshake, SendResponse};
use h2::{Reason, RecvStream};
use http::header::CONTENT_LENGTH;
use http::{HeaderValue, Method, Request, Response};
use http_body::Body;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::oneshot;
use tokio::task::spawn_local;

use super::alive::{Alive, Heard, listen};
use super::pump::Pump;
use super::tunnel::Tunnel;
use super::{Reach, server};
use crate::http::IncomingBody;
use crate::http::guard::Bounds;

/// A connection whose requests are answered. It ends when the other side ends it, says nothing for too long, or
/// was told that it ends and has its last answer.
pub(crate) struct Answering<S, H> {
    state: State<Heard<S>>,
    alive: Alive,
    handler: H,
    /// It ends as soon as it has begun.
    ends: bool,
}

/// Why a connection ended before the other side ended it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Broken {
    /// It is not as it should be, or the stream under it ended.
    #[error("the connection broke")]
    Connection(#[from] h2::Error),
    /// It may be gone.
    #[error("the other side gives no sign of life")]
    Silent,
}

enum State<S> {
    Beginning(Handshake<S, Bytes>),
    Standing(Connection<S, Bytes>),
}

/// Answers requests on `stream` by a handler, each in a task of its own. A request that its caller takes back is
/// dropped; one whose handler fails is reset.
pub(crate) fn answer<S, H>(
    stream: S,
    bounds: &Bounds,
    streams_max: u32,
    reach: Reach,
    handler: H,
) -> Answering<S, H>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (stream, alive) = listen(stream);
    let beginning = server(bounds, streams_max, reach).handshake(stream);
    Answering {
        state: State::Beginning(beginning),
        alive,
        handler,
        ends: false,
    }
}

impl<S, H> Answering<S, H>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    /// Takes no more requests; those under way are answered.
    pub(crate) fn end(&mut self) {
        self.ends = true;
        if let State::Standing(connection) = &mut self.state {
            connection.graceful_shutdown();
        }
    }
}

impl<S, H, F, B, E: 'static> Future for Answering<S, H>
where
    S: AsyncRead + AsyncWrite + Unpin,
    H: Fn(Request<IncomingBody>) -> F + Unpin,
    F: Future<Output = Result<Response<B>, E>> + Unpin + 'static,
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Output = Result<(), Broken>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        let this = &mut *self;
        if this.alive.poll_dead(cx).is_ready() {
            return Poll::Ready(Err(Broken::Silent));
        }
        loop {
            match &mut this.state {
                State::Beginning(beginning) => {
                    let mut connection = ready!(Pin::new(beginning).poll(cx))?;
                    this.alive.begun(connection.ping_pong());
                    if this.ends {
                        connection.graceful_shutdown();
                    }
                    this.state = State::Standing(connection);
                }
                State::Standing(connection) => {
                    while let Some(accepted) = ready!(connection.poll_accept(cx)) {
                        let (request, stream) = accepted?;
                        let mut connect = None;
                        let request = admit(request, &mut connect);
                        let handling = (this.handler)(request);
                        // Boxed, it is copied once; a task that holds it is copied from place to place.
                        spawn_local(Box::pin(respond(handling, stream, connect)));
                    }
                    return Poll::Ready(Ok(()));
                }
            }
        }
    }
}

/// A CONNECT that is not answered yet: what arrives after its head, and who waits for the tunnel.
struct Connect {
    receiving: RecvStream,
    opened: oneshot::Sender<Tunnel>,
}

/// A request with its body; what a CONNECT brings is none.
fn admit(request: Request<RecvStream>, connect: &mut Option<Connect>) -> Request<IncomingBody> {
    if request.method() != Method::CONNECT {
        return IncomingBody::of_request(request);
    }
    request.map(|receiving| {
        let (opened, tunnel) = oneshot::channel();
        *connect = Some(Connect { receiving, opened });
        IncomingBody::Connect(tunnel)
    })
}

/// Sends what the handler answers.
async fn respond<F, B, E>(
    mut handling: F,
    mut stream: SendResponse<Bytes>,
    connect: Option<Connect>,
) where
    F: Future<Output = Result<Response<B>, E>> + Unpin,
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let answered = poll_fn(|cx| match Pin::new(&mut handling).poll(cx) {
        Poll::Ready(answered) => Poll::Ready(Some(answered)),
        Poll::Pending => stream.poll_reset(cx).map(|_| None),
    });
    let Some(answered) = answered.await else {
        return;
    };
    // It may be large, and the answer's body long.
    drop(handling);
    let begun = answered.ok().map(|response| match connect {
        Some(connect) if response.status().is_success() => connect.open(response, &mut stream),
        Some(_) | None => begin(response, &mut stream),
    });
    match begun {
        Some(Ok(Some(body))) => body.await,
        Some(Ok(None)) => {}
        Some(Err(_)) | None => stream.send_reset(Reason::INTERNAL_ERROR),
    }
}

impl Connect {
    /// Sends the head, and gives the stream to whoever waits for it.
    fn open<B>(
        self,
        response: Response<B>,
        stream: &mut SendResponse<Bytes>,
    ) -> Result<Option<Pump<B>>, h2::Error> {
        let (mut head, _) = response.into_parts();
        // It has no content (RFC 9110 §9.3.6).
        head.headers.remove(CONTENT_LENGTH);
        let sending = stream.send_response(Response::from_parts(head, ()), false)?;
        // Whoever gave the tunnel up resets it by that.
        drop(self.opened.send(Tunnel::new(sending, self.receiving)));
        Ok(None)
    }
}

/// Sends the head. The body, if there is one, sends itself when it is polled.
fn begin<B>(
    response: Response<B>,
    stream: &mut SendResponse<Bytes>,
) -> Result<Option<Pump<B>>, h2::Error>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let (mut head, body) = response.into_parts();
    let whole = body.is_end_stream();
    if !whole && let Some(length) = body.size_hint().exact() {
        let headers = &mut head.headers;
        headers
            .entry(CONTENT_LENGTH)
            .or_insert_with(|| HeaderValue::from(length));
    }
    let sending = stream.send_response(Response::from_parts(head, ()), whole)?;
    Ok((!whole).then(|| Pump::new(body, sending)))
}

#[cfg(test)]
mod tests;
