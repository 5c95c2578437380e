//! Bodies of responses on their way to the app.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use portolan_model::Reason;
use tokio::time::{Instant, Sleep, sleep_until};

use super::headers::clean_trailers;
use super::incoming::{IncomingBody, IncomingError};
use super::stalls::{Cut, Flowing, Stalls};

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
pub(crate) struct ReplyBody(Content);

enum Content {
    Text(Option<Bytes>),
    /// Nothing of it was given, or nothing but its end is missing.
    Streamed(Box<Streamed>),
    /// It is given in pieces.
    Flowing(Rc<Flowing<Box<Streamed>>>),
    /// It moves from one to the other.
    Moving,
}

struct Streamed {
    body: IncomingBody,
    watch: Box<dyn Watch>,
    stalls: Rc<Stalls>,
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
    Upstream(#[from] IncomingError),
    /// Nothing moved for too long, or the caller's deadline passed.
    #[error("the response took too long")]
    Timeout,
}

impl ReplyBody {
    /// A text of our own.
    pub(crate) fn text(text: impl Into<Bytes>) -> Self {
        let text = Some(text.into()).filter(|text| !text.is_empty());
        Self(Content::Text(text))
    }

    /// What an upstream sends, watched.
    pub(crate) fn streamed(
        body: IncomingBody,
        limits: Limits,
        mut watch: Box<dyn Watch>,
        stalls: Rc<Stalls>,
        now: Instant,
    ) -> Self {
        if body.is_end_stream() {
            watch.ended();
        }
        Self(Content::Streamed(Box::new(Streamed {
            body,
            watch,
            stalls,
            limits,
            active: now,
            timer: None,
        })))
    }

    /// From now on it may be left lying.
    fn flow(&mut self) {
        if matches!(self.0, Content::Streamed(_))
            && let Content::Streamed(streamed) = std::mem::replace(&mut self.0, Content::Moving)
        {
            let (stalls, idle) = (Rc::clone(&streamed.stalls), streamed.limits.idle);
            self.0 = Content::Flowing(stalls.watch(streamed, idle));
        }
    }
}

impl Cut for Box<Streamed> {
    fn cut(mut self) {
        self.watch.cut(Reason::Timeout);
    }
}

impl Streamed {
    /// The next frame, after the watch was told of it.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, ReplyError>>> {
        let polled = self.poll_body(cx);
        let whole = self.body.is_end_stream();
        let Poll::Ready(frame) = &polled else {
            return polled;
        };
        match frame {
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    self.watch.data(data.len());
                } else if let Some(trailers) = frame.trailers_ref() {
                    self.watch.trailers(trailers);
                }
                if whole || frame.is_trailers() {
                    self.watch.ended();
                }
            }
            Some(Err(ReplyError::Upstream(_))) => self.watch.cut(Reason::Reset),
            Some(Err(ReplyError::Timeout)) => self.watch.cut(Reason::Timeout),
            None => self.watch.ended(),
        }
        polled
    }

    fn poll_body(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ReplyError>>> {
        if let Poll::Ready(mut frame) = Pin::new(&mut self.body).poll_frame(cx) {
            if !self.body.is_end_stream() {
                self.active = Instant::now();
            }
            if let Some(Ok(frame)) = &mut frame
                && let Some(trailers) = frame.trailers_mut()
            {
                clean_trailers(trailers);
            }
            return Poll::Ready(frame.map(|frame| frame.map_err(ReplyError::Upstream)));
        }
        loop {
            let idle_at = self.watch.request_active().max(self.active) + self.limits.idle;
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
        match &mut this.0 {
            Content::Text(text) => Poll::Ready(text.take().map(|text| Ok(Frame::data(text)))),
            Content::Streamed(streamed) => {
                let polled = streamed.poll(cx);
                if matches!(polled, Poll::Ready(Some(Ok(_)))) && !streamed.body.is_end_stream() {
                    this.flow();
                }
                polled
            }
            Content::Flowing(flowing) => {
                let polled = flowing.asked(|streamed| streamed.poll(cx));
                if polled.as_ref().is_some_and(Poll::is_ready) {
                    flowing.given();
                }
                polled.unwrap_or(Poll::Ready(Some(Err(ReplyError::Timeout))))
            }
            Content::Moving => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Content::Text(text) => text.is_none(),
            Content::Streamed(streamed) => streamed.body.is_end_stream(),
            Content::Flowing(flowing) => flowing
                .seen(|streamed| streamed.body.is_end_stream())
                .unwrap_or(false),
            Content::Moving => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Content::Text(text) => {
                SizeHint::with_exact(text.as_ref().map_or(0, |text| text.len() as u64))
            }
            Content::Streamed(streamed) => streamed.body.size_hint(),
            Content::Flowing(flowing) => flowing
                .seen(|streamed| streamed.body.size_hint())
                .unwrap_or_default(),
            Content::Moving => SizeHint::with_exact(0),
        }
    }
}
