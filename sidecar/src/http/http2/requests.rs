//! Requests on an HTTP/2 connection, as its client.
//!
//! It stands on `h2` itself. hyper's client would pass each request through a channel and two tasks of its own on
//! the way there, and its answer through another one on the way back (docs/performance.md says what that costs).

use std::cell::RefCell;
use std::future::poll_fn;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use h2::client::{Connection, ResponseFuture, SendRequest};
use h2::{Ping, PingPong, Reason};
use http::header::CONTENT_LENGTH;
use http::{HeaderValue, Method, Request, Response};
use http_body::Body;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Mutex;
use tokio::task::spawn_local;
use tokio_util::task::AbortOnDropHandle;

use super::pump::Pump;
use super::{Reach, client};
use crate::http::IncomingBody;

/// A connection, as those see it who have requests.
pub(crate) struct Requests {
    /// Requests wait here for their turn while the other side does not allow the last one's stream yet: what
    /// waits is known to be unsent.
    sender: Mutex<SendRequest<Bytes>>,
    /// Another handle, which knows whether the connection stands.
    standing: RefCell<SendRequest<Bytes>>,
    pings: RefCell<Option<PingPong>>,
}

/// Why a request got no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SendError {
    /// Nothing of it was sent: the connection takes no more requests.
    #[error("the connection takes no more requests")]
    Unsent(#[source] h2::Error),
    /// It may have been processed.
    #[error("the connection or the request's stream ended before the answer")]
    Sent(#[source] h2::Error),
}

/// Begins a connection. Whoever runs the second half of what it gives lets the requests of the first get on;
/// it ends when the first is dropped and all its answers are.
///
/// # Errors
/// When the stream ends.
pub(crate) async fn handshake<S>(
    stream: S,
    reach: Reach,
) -> Result<(Requests, Connection<S, Bytes>), h2::Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (sender, mut connection) = client(reach).handshake(stream).await?;
    let requests = Requests {
        standing: RefCell::new(sender.clone()),
        sender: Mutex::new(sender),
        pings: RefCell::new(connection.ping_pong()),
    };
    Ok((requests, connection))
}

impl SendError {
    /// Whether the request was not processed: it was not sent, its stream was refused, or is above what `GOAWAY`
    /// promised to serve (RFC 9113 §8.7).
    pub(crate) fn unprocessed(&self) -> bool {
        let Self::Sent(error) = self else {
            return true;
        };
        let refused = error.reason() == Some(Reason::REFUSED_STREAM) || error.is_go_away();
        error.is_remote() && refused
    }

    /// What the library says.
    pub(crate) fn into_error(self) -> h2::Error {
        match self {
            Self::Unsent(error) | Self::Sent(error) => error,
        }
    }
}

impl Requests {
    /// Whether it takes requests: it stands, and the other side did not say that it ends it.
    pub(crate) fn open(&self) -> bool {
        let mut nobody = Context::from_waker(Waker::noop());
        let ready = self.standing.borrow_mut().poll_ready(&mut nobody);
        !matches!(ready, Poll::Ready(Err(_)))
    }

    /// Wants a sign of life, unless it waits for one.
    pub(crate) fn ping(&self) {
        if let Some(pings) = &mut *self.pings.borrow_mut() {
            let mut nobody = Context::from_waker(Waker::noop());
            // Takes note of the last answer: only then can it be asked again.
            let _ = pings.poll_pong(&mut nobody);
            let _ = pings.send_ping(Ping::opaque());
        }
    }

    /// Sends a request, and waits for the answer's head. Dropped before that, it takes the request back.
    ///
    /// # Errors
    /// Tells apart whether anything of the request was sent.
    pub(crate) async fn send<B>(
        &self,
        request: Request<B>,
    ) -> Result<Response<IncomingBody>, SendError>
    where
        B: Body<Data = Bytes> + Unpin + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let (answer, body) = {
            let mut sender = self.sender.lock().await;
            let ready = poll_fn(|cx| sender.poll_ready(cx)).await;
            ready.map_err(SendError::Unsent)?;
            begin(&mut sender, request)?
        };
        let sending = body.map(|body| AbortOnDropHandle::new(spawn_local(body)));
        let response = answer.await.map_err(SendError::Sent)?;
        // An answer may come before all of the request has gone.
        sending.map(AbortOnDropHandle::detach);
        Ok(IncomingBody::of_answer(response))
    }
}

/// Sends the head, and of the body what is there. What is left of the body sends itself when it is polled.
fn begin<B>(
    sender: &mut SendRequest<Bytes>,
    request: Request<B>,
) -> Result<(ResponseFuture, Option<Pump<B>>), SendError>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let (mut head, body) = request.into_parts();
    if let Some(length) = body.size_hint().exact()
        && (length > 0 || means_content(&head.method))
    {
        let headers = &mut head.headers;
        headers
            .entry(CONTENT_LENGTH)
            .or_insert_with(|| HeaderValue::from(length));
    }
    let whole = body.is_end_stream();
    // The connection stands and allows it, so that an error is the request's own.
    let sent = sender.send_request(Request::from_parts(head, ()), whole);
    let (answer, stream) = sent.map_err(SendError::Sent)?;
    let left = (!whole).then(|| Pump::new(body, stream));
    Ok((answer, left.and_then(Pump::started)))
}

/// Whether a request with this method says how long its content is even if it has none (RFC 9110 §8.6).
fn means_content(method: &Method) -> bool {
    !matches!(
        *method,
        Method::GET | Method::HEAD | Method::DELETE | Method::CONNECT
    )
}

#[cfg(test)]
mod tests;
