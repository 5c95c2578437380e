//! Bodies on their way through.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::Instant;

use crate::http::{Fault, Patience, clean_trailers};

/// How long a request's body may stop arriving while nothing of the answer flows either. Callers'
/// sidecars give up sooner.
const IDLE_MAX: Duration = Duration::from_secs(600);

/// A caller's body. Clones share it, so that it can go to a second connection while nothing of it
/// was read by the first.
#[derive(Clone)]
pub(super) struct RequestBody(Rc<Shared>);

struct Shared {
    body: RefCell<Incoming>,
    touched: Cell<bool>,
    /// How much more may arrive.
    left: Cell<u64>,
    fault: Cell<Option<Fault>>,
    patience: RefCell<Patience>,
    /// When something of the answer moved last.
    answered: Cell<Option<Instant>>,
}

/// Why a body is not sent on to the app.
#[derive(Debug, thiserror::Error)]
pub(super) enum RequestBodyError {
    /// The caller broke off.
    #[error("the caller ended its request before it was whole")]
    Caller(#[from] hyper::Error),
    /// It is not as it should be.
    #[error(transparent)]
    Fault(#[from] Fault),
}

impl RequestBody {
    pub(super) fn new(body: Incoming, bytes_max: Option<u64>) -> Self {
        Self(Rc::new(Shared {
            body: RefCell::new(body),
            touched: Cell::new(false),
            left: Cell::new(bytes_max.unwrap_or(u64::MAX)),
            fault: Cell::new(None),
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
        while patience.poll(cx, IDLE_MAX).is_ready() {
            let moved = self.0.answered.get();
            if moved.is_none_or(|at| at.elapsed() >= IDLE_MAX) {
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
pub(super) struct ResponseBody<Held> {
    content: Content,
    _held: Held,
}

enum Content {
    /// The app's, and the request that it answers.
    Passed(Incoming, RequestBody),
    /// This proxy's own.
    Text(Option<Bytes>),
}

impl<Held> ResponseBody<Held> {
    pub(super) fn passed(body: Incoming, request: RequestBody, held: Held) -> Self {
        let content = Content::Passed(body, request);
        Self {
            content,
            _held: held,
        }
    }

    pub(super) fn text(text: Bytes, held: Held) -> Self {
        let content = Content::Text((!text.is_empty()).then_some(text));
        Self {
            content,
            _held: held,
        }
    }
}

impl<Held: Unpin> Body for ResponseBody<Held> {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match &mut self.content {
            Content::Passed(body, request) => {
                let mut polled = Pin::new(body).poll_frame(cx);
                if let Poll::Ready(Some(Ok(frame))) = &mut polled {
                    if let Some(trailers) = frame.trailers_mut() {
                        clean_trailers(trailers);
                    }
                    if !request.is_end_stream() {
                        request.0.answered.set(Some(Instant::now()));
                    }
                }
                polled
            }
            Content::Text(text) => Poll::Ready(text.take().map(|text| Ok(Frame::data(text)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Passed(body, _) => body.is_end_stream(),
            Content::Text(text) => text.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Passed(body, _) => body.size_hint(),
            Content::Text(text) => {
                SizeHint::with_exact(text.as_ref().map_or(0, |text| text.len() as u64))
            }
        }
    }
}
