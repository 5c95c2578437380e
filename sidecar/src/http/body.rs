//! Bodies of responses on their way to the app.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use portolan_model::Reason;
use tokio::time::{Instant, Sleep, sleep_until};

use super::headers::clean_trailers;

/// Is told what flows, and dropped when nothing flows any more.
pub(crate) trait Watch {
    /// So many bytes pass.
    fn data(&mut self, bytes: usize);
    /// Trailers pass.
    fn trailers(&mut self, trailers: &HeaderMap);
    /// The body is whole.
    fn ended(&mut self);
    /// The body is cut.
    fn cut(&mut self, reason: Reason);
    /// When something of the request moved last.
    fn request_active(&self) -> Instant;
}

/// A response's body.
pub(crate) struct ReplyBody {
    content: Content,
    watch: Option<Box<dyn Watch>>,
}

enum Content {
    Text(Option<Bytes>),
    Streamed(Box<Streamed>),
}

struct Streamed {
    body: Incoming,
    limits: Limits,
    active: Instant,
    timer: Option<Pin<Box<Sleep>>>,
}

/// How long a body may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Without a byte in either direction.
    pub(crate) idle: Duration,
    /// Altogether.
    pub(crate) until: Option<Instant>,
}

/// Why a response's body is cut.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReplyError {
    /// The upstream ended before it was whole.
    #[error("the upstream ended the response before it was whole")]
    Upstream(#[from] hyper::Error),
    /// Nothing moved for too long, or the caller's deadline passed.
    #[error("the response took too long")]
    Timeout,
}

impl ReplyBody {
    /// A text of our own.
    pub(crate) fn text(text: impl Into<Bytes>) -> Self {
        let text = Some(text.into()).filter(|text| !text.is_empty());
        Self {
            content: Content::Text(text),
            watch: None,
        }
    }

    /// What an upstream sends.
    pub(crate) fn streamed(body: Incoming, limits: Limits) -> Self {
        Self {
            content: Content::Streamed(Box::new(Streamed {
                body,
                limits,
                active: Instant::now(),
                timer: None,
            })),
            watch: None,
        }
    }

    /// The same body, watched.
    pub(crate) fn watched(mut self, mut watch: Box<dyn Watch>) -> Self {
        if self.is_end_stream() {
            watch.ended();
        }
        self.watch = Some(watch);
        self
    }
}

impl Streamed {
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        request_active: Option<Instant>,
    ) -> Poll<Option<Result<Frame<Bytes>, ReplyError>>> {
        if let Poll::Ready(mut frame) = Pin::new(&mut self.body).poll_frame(cx) {
            self.active = Instant::now();
            if let Some(Ok(frame)) = &mut frame
                && let Some(trailers) = frame.trailers_mut()
            {
                clean_trailers(trailers);
            }
            return Poll::Ready(frame.map(|frame| frame.map_err(ReplyError::Upstream)));
        }
        loop {
            let active = request_active.map_or(self.active, |at| at.max(self.active));
            let idle_at = active + self.limits.idle;
            let due = self
                .limits
                .until
                .map_or(idle_at, |until| until.min(idle_at));
            let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(due)));
            if timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            if Instant::now() >= due {
                return Poll::Ready(Some(Err(ReplyError::Timeout)));
            }
            timer.as_mut().reset(due);
        }
    }
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = ReplyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ReplyError>>> {
        let this = self.get_mut();
        let request_active = this.watch.as_ref().map(|watch| watch.request_active());
        let polled = match &mut this.content {
            Content::Text(text) => Poll::Ready(text.take().map(|text| Ok(Frame::data(text)))),
            Content::Streamed(streamed) => streamed.poll(cx, request_active),
        };
        let whole = this.is_end_stream();
        if let (Poll::Ready(frame), Some(watch)) = (&polled, &mut this.watch) {
            match frame {
                Some(Ok(frame)) => {
                    if let Some(data) = frame.data_ref() {
                        watch.data(data.len());
                    } else if let Some(trailers) = frame.trailers_ref() {
                        watch.trailers(trailers);
                    }
                    if whole || frame.is_trailers() {
                        watch.ended();
                    }
                }
                Some(Err(ReplyError::Upstream(_))) => watch.cut(Reason::Reset),
                Some(Err(ReplyError::Timeout)) => watch.cut(Reason::Timeout),
                None => watch.ended(),
            }
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Text(text) => text.is_none(),
            Content::Streamed(streamed) => streamed.body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Text(text) => {
                SizeHint::with_exact(text.as_ref().map_or(0, |text| text.len() as u64))
            }
            Content::Streamed(streamed) => streamed.body.size_hint(),
        }
    }
}
