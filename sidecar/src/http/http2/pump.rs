//! A request's body on its way into a stream of HTTP/2.

use std::error::Error;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use h2::{Reason, SendStream};
use http_body::{Body, Frame};

/// Sends a body as fast as the other side takes it. It ends when all of it went, or the stream ended; a body that
/// breaks off takes its request back.
pub(super) struct Pump<B> {
    body: B,
    stream: SendStream<Bytes>,
    /// Data that wait for room, and whether they are the last.
    waiting: Option<(Bytes, bool)>,
}

/// Nothing more is to be done.
struct Over;

impl<B> Pump<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    pub(super) fn new(body: B, stream: SendStream<Bytes>) -> Self {
        Self {
            body,
            stream,
            waiting: None,
        }
    }

    /// Sends what is there; gives it back if there is more.
    pub(super) fn started(mut self) -> Option<Self> {
        let mut nobody = Context::from_waker(Waker::noop());
        Pin::new(&mut self)
            .poll(&mut nobody)
            .is_pending()
            .then_some(self)
    }

    fn poll_step(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Over>> {
        if let Some((data, last)) = self.waiting.take() {
            // A stream may be given room of which nothing is left.
            while self.stream.capacity() == 0 {
                match self.stream.poll_capacity(cx) {
                    Poll::Ready(Some(Ok(_))) => {}
                    Poll::Ready(Some(Err(_)) | None) => return Poll::Ready(Err(Over)),
                    Poll::Pending => {
                        self.waiting = Some((data, last));
                        return Poll::Pending;
                    }
                }
            }
            return Poll::Ready(self.send(data, last));
        }
        // Nothing is reserved before there is something to send: what one stream reserves, others cannot have.
        match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
            None => Poll::Ready(self.send(Bytes::new(), true)),
            Some(Ok(frame)) => Poll::Ready(self.take(frame)),
            Some(Err(error)) => {
                self.stream.send_reset(reason(&*error.into()));
                Poll::Ready(Err(Over))
            }
        }
    }

    fn take(&mut self, frame: Frame<Bytes>) -> Result<(), Over> {
        let frame = match frame.into_data() {
            Ok(data) => {
                let last = self.body.is_end_stream();
                if data.is_empty() {
                    return self.send(data, last);
                }
                // The library wants room for all of it as soon as it has it.
                self.stream.reserve_capacity(1);
                self.waiting = Some((data, last));
                return Ok(());
            }
            Err(frame) => frame,
        };
        if let Ok(trailers) = frame.into_trailers() {
            self.stream.reserve_capacity(0);
            let _ = self.stream.send_trailers(trailers);
            return Err(Over);
        }
        Ok(())
    }

    fn send(&mut self, data: Bytes, last: bool) -> Result<(), Over> {
        match self.stream.send_data(data, last) {
            Ok(()) if !last => Ok(()),
            Ok(()) | Err(_) => Err(Over),
        }
    }
}

impl<B> Future for Pump<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            // A stream that the other side ended is noticed while nothing can be sent, too.
            if self.stream.poll_reset(cx).is_ready() {
                return Poll::Ready(());
            }
            if ready!(self.poll_step(cx)).is_err() {
                return Poll::Ready(());
            }
        }
    }
}

/// With which reason a request is taken back whose body broke off: with its client's own, where that spoke HTTP/2.
fn reason(error: &(dyn Error + 'static)) -> Reason {
    let mut cause = Some(error);
    while let Some(error) = cause {
        let reason = error
            .downcast_ref::<h2::Error>()
            .and_then(h2::Error::reason);
        if let Some(reason) = reason {
            return reason;
        }
        cause = error.source();
    }
    Reason::INTERNAL_ERROR
}
