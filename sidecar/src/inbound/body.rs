//! Bodies on their way through.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

/// A caller's body. Clones share it, so that it can go to a second connection while nothing of it
/// was read by the first.
#[derive(Clone)]
pub(super) struct RequestBody(Rc<Shared>);

struct Shared {
    body: RefCell<Incoming>,
    touched: Cell<bool>,
}

impl RequestBody {
    pub(super) fn new(body: Incoming) -> Self {
        Self(Rc::new(Shared {
            body: RefCell::new(body),
            touched: Cell::new(false),
        }))
    }

    /// Whether something of it may be gone.
    pub(super) fn touched(&self) -> bool {
        self.0.touched.get()
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        self.0.touched.set(true);
        Pin::new(&mut *self.0.body.borrow_mut()).poll_frame(cx)
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
    /// The app's.
    Passed(Incoming),
    /// This proxy's own.
    Text(Option<Bytes>),
}

impl<Held> ResponseBody<Held> {
    pub(super) fn passed(body: Incoming, held: Held) -> Self {
        let content = Content::Passed(body);
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
            Content::Passed(body) => Pin::new(body).poll_frame(cx),
            Content::Text(text) => Poll::Ready(text.take().map(|text| Ok(Frame::data(text)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Passed(body) => body.is_end_stream(),
            Content::Text(text) => text.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Passed(body) => body.size_hint(),
            Content::Text(text) => {
                SizeHint::with_exact(text.as_ref().map_or(0, |text| text.len() as u64))
            }
        }
    }
}
