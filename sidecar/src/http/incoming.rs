//! Bodies of requests and answers, as they arrive.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{Reason, RecvStream};
use http::header::CONTENT_LENGTH;
use http::{HeaderMap, Request, Response};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::sync::oneshot;

use super::http2::Tunnel;

/// The body of a request or an answer.
#[derive(Debug)]
pub(crate) enum IncomingBody {
    /// In HTTP/1.1.
    Http1(Incoming),
    /// In HTTP/2.
    Http2(Stream),
    /// None, but a connection once a CONNECT in HTTP/2 was answered with success.
    Connect(oneshot::Receiver<Tunnel>),
}

/// A body in HTTP/2.
#[derive(Debug)]
pub(crate) struct Stream {
    frames: RecvStream,
    /// Whose it is.
    of: Of,
    /// Nothing but trailers may come.
    data_ended: bool,
    /// How much of it is to come, where the head said so.
    left: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Of {
    Request,
    Answer,
}

/// Why the rest of a body does not come.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IncomingError {
    /// In HTTP/1.1.
    #[error("its connection broke")]
    Http1(#[from] hyper::Error),
    /// In HTTP/2.
    #[error("its stream broke")]
    Http2(#[from] h2::Error),
}

impl IncomingBody {
    /// An answer in HTTP/2.
    pub(crate) fn of_answer(response: Response<RecvStream>) -> Response<Self> {
        let length = length(response.headers());
        response.map(|frames| Self::Http2(Stream::new(frames, Of::Answer, length)))
    }

    /// A request in HTTP/2.
    pub(crate) fn of_request(request: Request<RecvStream>) -> Request<Self> {
        let length = length(request.headers());
        request.map(|frames| Self::Http2(Stream::new(frames, Of::Request, length)))
    }
}

impl From<Incoming> for IncomingBody {
    fn from(body: Incoming) -> Self {
        Self::Http1(body)
    }
}

impl Stream {
    fn new(frames: RecvStream, of: Of, length: Option<u64>) -> Self {
        let nothing = frames.is_end_stream().then_some(0);
        Self {
            frames,
            of,
            data_ended: false,
            left: length.or(nothing),
        }
    }

    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        if !self.data_ended {
            match ready!(self.frames.poll_data(cx)) {
                Some(Ok(data)) => {
                    // What was given on must be read before more of it is asked for.
                    let _ = self.frames.flow_control().release_capacity(data.len());
                    let count = data.len() as u64;
                    self.left = self.left.map(|left| left.saturating_sub(count));
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                // The answer is whole, and the rest of the request is not wanted (RFC 9113 §8.1).
                Some(Err(error))
                    if self.of == Of::Answer && error.reason() == Some(Reason::NO_ERROR) =>
                {
                    return Poll::Ready(None);
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => self.data_ended = true,
            }
        }
        let trailers = ready!(self.frames.poll_trailers(cx));
        Poll::Ready(trailers.map(|it| it.map(Frame::trailers)).transpose())
    }
}

impl Body for IncomingBody {
    type Data = Bytes;
    type Error = IncomingError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, IncomingError>>> {
        match self.get_mut() {
            Self::Http1(body) => Pin::new(body).poll_frame(cx).map_err(IncomingError::from),
            Self::Http2(stream) => stream.poll_frame(cx).map_err(IncomingError::from),
            Self::Connect(_) => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Http1(body) => body.is_end_stream(),
            Self::Http2(stream) => stream.frames.is_end_stream(),
            Self::Connect(_) => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Http1(body) => body.size_hint(),
            Self::Http2(stream) => stream.left.map_or_else(SizeHint::new, SizeHint::with_exact),
            Self::Connect(_) => SizeHint::with_exact(0),
        }
    }
}

/// How long a body is, if its head says so, and once only or always the same.
fn length(headers: &HeaderMap) -> Option<u64> {
    let mut all = headers.get_all(CONTENT_LENGTH).iter();
    let first = all.next()?;
    let length = first.to_str().ok()?.parse().ok()?;
    all.all(|other| other == first).then_some(length)
}
