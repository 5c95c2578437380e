//! Bodies of answers, as they arrive.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{Reason, RecvStream};
use http::HeaderMap;
use http::Response;
use http::header::CONTENT_LENGTH;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

/// The body of an upstream's answer.
pub(crate) enum UpstreamBody {
    /// In HTTP/1.1.
    Http1(Incoming),
    /// In HTTP/2.
    Http2(Stream),
}

/// The body of an answer in HTTP/2.
pub(crate) struct Stream {
    frames: RecvStream,
    /// Nothing but trailers may come.
    data_ended: bool,
    /// How much of it is to come, where the head said so.
    left: Option<u64>,
}

/// Why the rest of an answer does not come.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UpstreamError {
    /// In HTTP/1.1.
    #[error(transparent)]
    Http1(#[from] hyper::Error),
    /// In HTTP/2.
    #[error(transparent)]
    Http2(#[from] h2::Error),
}

impl UpstreamBody {
    /// An answer in HTTP/2.
    pub(crate) fn of_stream(response: Response<RecvStream>) -> Response<Self> {
        let length = length(response.headers());
        response.map(|frames| {
            let nothing = frames.is_end_stream().then_some(0);
            Self::Http2(Stream {
                frames,
                data_ended: false,
                left: length.or(nothing),
            })
        })
    }
}

impl From<Incoming> for UpstreamBody {
    fn from(body: Incoming) -> Self {
        Self::Http1(body)
    }
}

impl Stream {
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
                Some(Err(error)) if error.reason() == Some(Reason::NO_ERROR) => {
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

impl Body for UpstreamBody {
    type Data = Bytes;
    type Error = UpstreamError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, UpstreamError>>> {
        match self.get_mut() {
            Self::Http1(body) => Pin::new(body).poll_frame(cx).map_err(UpstreamError::from),
            Self::Http2(stream) => stream.poll_frame(cx).map_err(UpstreamError::from),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Http1(body) => body.is_end_stream(),
            Self::Http2(stream) => stream.frames.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Http1(body) => body.size_hint(),
            Self::Http2(stream) => stream.left.map_or_else(SizeHint::new, SizeHint::with_exact),
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
