//! Bodies on their way through.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::Instant;

use crate::http::{
    Cut, Fault, Flowing, HttpRules, IncomingBody, IncomingError, Patience, Stalls, clean_trailers,
};
use crate::limits::{Pace, Paced};

/// A caller's body. Clones share it, so that it can go to a second connection while nothing of it
/// was read by the first.
#[derive(Clone)]
pub(super) struct RequestBody(Rc<Shared>);

struct Shared {
    body: RefCell<Paced<IncomingBody>>,
    touched: Cell<bool>,
    /// How much more may arrive.
    left: Cell<u64>,
    fault: Cell<Option<Fault>>,
    /// How long it may stop arriving while nothing of the answer flows either.
    idle_max: Duration,
    patience: RefCell<Patience>,
    /// When something of the answer moved last.
    answered: Cell<Option<Instant>>,
}

/// Why a body is not sent on to the app.
#[derive(Debug, thiserror::Error)]
pub(super) enum RequestBodyError {
    /// The caller broke off.
    #[error("the caller ended its request before it was whole")]
    Caller(#[from] IncomingError),
    /// It is not as it should be.
    #[error(transparent)]
    Fault(#[from] Fault),
}

impl RequestBody {
    pub(super) fn new(body: IncomingBody, rules: &HttpRules, pace: Option<Pace>) -> Self {
        Self(Rc::new(Shared {
            body: RefCell::new(Paced::new(body, pace)),
            touched: Cell::new(false),
            left: Cell::new(rules.body_max.unwrap_or(u64::MAX)),
            fault: Cell::new(None),
            idle_max: rules.body_idle,
            patience: RefCell::default(),
            answered: Cell::new(None),
        }))
    }

    /// Whether something of it may be gone.
    pub(super) fn touched(&self) -> bool {
        self.0.touched.get()
    }

    /// What was wrong with it.
    pub(super) fn fault(&self) -> Option<Fault> {
        self.0.fault.get()
    }

    fn fail(&self, fault: Fault) -> RequestBodyError {
        self.0.fault.set(Some(fault));
        RequestBodyError::Fault(fault)
    }

    /// Ready when nothing has moved for too long.
    fn poll_idle(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut patience = self.0.patience.borrow_mut();
        while patience.poll(cx, self.0.idle_max).is_ready() {
            let moved = self.0.answered.get();
            if moved.is_none_or(|at| at.elapsed() >= self.0.idle_max) {
                return Poll::Ready(());
            }
            patience.renew();
        }
        Poll::Pending
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = RequestBodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, RequestBodyError>>> {
        self.0.touched.set(true);
        let polled = Pin::new(&mut *self.0.body.borrow_mut()).poll_frame(cx);
        let Poll::Ready(frame) = polled else {
            return self
                .poll_idle(cx)
                .map(|()| Some(Err(self.fail(Fault::BodyTooSlow))));
        };
        self.0.patience.borrow_mut().renew();
        let Some(frame) = frame else {
            return Poll::Ready(None);
        };
        let mut frame = frame?;
        if let Some(data) = frame.data_ref() {
            let left = self.0.left.get().checked_sub(data.len() as u64);
            let Some(left) = left else {
                return Poll::Ready(Some(Err(self.fail(Fault::BodyTooLarge))));
            };
            self.0.left.set(left);
        } else if let Some(trailers) = frame.trailers_mut() {
            clean_trailers(trailers);
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.0.body.borrow().is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.body.borrow().size_hint()
    }
}

/// An answer's body, with what must live as long as it flows.
pub(super) struct ResponseBody<Held>(Content<Held>);

enum Content<Held> {
    /// The app's. Nothing of it was given, or nothing but its end is missing.
    Passed(Passed<Held>),
    /// The same, given in pieces.
    Flowing(Rc<Flowing<Passed<Held>>>),
    /// This proxy's own.
    Text(Option<Bytes>, Held),
    /// It moves from one to the other.
    Moving,
}

/// The app's answer, and the request that it answers.
pub(super) struct Passed<Held> {
    body: Paced<IncomingBody>,
    request: RequestBody,
    stalls: Rc<Stalls>,
    _held: Held,
}

/// Why an answer's body is cut.
#[derive(Debug, thiserror::Error)]
pub(super) enum ResponseBodyError {
    /// The app ended before it was whole.
    #[error("the app ended its answer before it was whole")]
    App(#[from] IncomingError),
    /// The caller did not read it.
    #[error("the caller left the answer lying")]
    Stalled,
}

impl<Held: 'static> ResponseBody<Held> {
    pub(super) fn passed(
        body: Paced<IncomingBody>,
        request: RequestBody,
        stalls: Rc<Stalls>,
        held: Held,
    ) -> Self {
        Self(Content::Passed(Passed {
            body,
            request,
            stalls,
            _held: held,
        }))
    }

    pub(super) fn text(text: Bytes, held: Held) -> Self {
        Self(Content::Text((!text.is_empty()).then_some(text), held))
    }

    /// From now on it may be left lying.
    fn flow(&mut self) {
        if matches!(self.0, Content::Passed(_))
            && let Content::Passed(passed) = std::mem::replace(&mut self.0, Content::Moving)
        {
            let (stalls, idle_max) = (Rc::clone(&passed.stalls), passed.request.0.idle_max);
            self.0 = Content::Flowing(stalls.watch(passed, idle_max));
        }
    }
}

impl<Held> Cut for Passed<Held> {
    fn cut(self) {}
}

impl<Held> Passed<Held> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, IncomingError>>> {
        let mut polled = Pin::new(&mut self.body).poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &mut polled {
            if let Some(trailers) = frame.trailers_mut() {
                clean_trailers(trailers);
            }
            if !self.request.is_end_stream() {
                self.request.0.answered.set(Some(Instant::now()));
            }
        }
        polled
    }
}

impl<Held: Unpin + 'static> Body for ResponseBody<Held> {
    type Data = Bytes;
    type Error = ResponseBodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ResponseBodyError>>> {
        match &mut self.0 {
            Content::Passed(passed) => {
                let polled = passed.poll(cx);
                if matches!(polled, Poll::Ready(Some(Ok(_)))) && !passed.body.is_end_stream() {
                    self.flow();
                }
                polled.map_err(ResponseBodyError::App)
            }
            Content::Flowing(flowing) => {
                let polled = flowing.asked(|passed| passed.poll(cx));
                if polled.as_ref().is_some_and(Poll::is_ready) {
                    flowing.given();
                }
                polled.map_or(
                    Poll::Ready(Some(Err(ResponseBodyError::Stalled))),
                    |polled| polled.map_err(ResponseBodyError::App),
                )
            }
            Content::Text(text, _) => Poll::Ready(text.take().map(|text| Ok(Frame::data(text)))),
            Content::Moving => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Content::Passed(passed) => passed.body.is_end_stream(),
            Content::Flowing(flowing) => flowing
                .seen(|passed| passed.body.is_end_stream())
                .unwrap_or(false),
            Content::Text(text, _) => text.is_none(),
            Content::Moving => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Content::Passed(passed) => passed.body.size_hint(),
            Content::Flowing(flowing) => flowing
                .seen(|passed| passed.body.size_hint())
                .unwrap_or_default(),
            Content::Text(text, _) => {
                SizeHint::with_exact(text.as_ref().map_or(0, |text| text.len() as u64))
            }
            Content::Moving => SizeHint::with_exact(0),
        }
    }
}
