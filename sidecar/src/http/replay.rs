//! A request's body that can be sent again, as long as it is small.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use smallvec::SmallVec;
use tokio::time::Instant;

use super::headers::clean_trailers;
use super::incoming::IncomingBody;

/// So much of a body is kept to be sent again, in bytes.
pub(crate) const REPLAY_MAX: usize = 64 * 1024;

/// The client's body. What was read of it is kept for the next try, until it is too much.
#[derive(Debug)]
pub(crate) struct Replay<B = IncomingBody>(Rc<RefCell<Source<B>>>);

/// The body of one try. When a later try begins, it fails.
#[derive(Debug)]
pub(crate) struct OutBody<B = IncomingBody> {
    source: Rc<RefCell<Source<B>>>,
    number: u32,
    /// How many of the kept frames this try has given.
    given: usize,
    trailers_given: bool,
}

/// Why a body cannot be sent on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OutBodyError {
    /// The client broke off.
    #[error("the client ended its request before it was whole")]
    Client(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Another try took over.
    #[error("the request is being tried elsewhere")]
    Superseded,
}

#[derive(Debug)]
struct Source<B> {
    /// `None` in copies, which have everything.
    body: Option<B>,
    kept: SmallVec<[Bytes; 2]>,
    kept_bytes: usize,
    trailers: Option<HeaderMap>,
    /// More passed than is kept.
    lost: bool,
    broken: bool,
    finished: Option<Instant>,
    received: u64,
    active: Instant,
    tries: u32,
}

impl<B: Body<Data = Bytes> + Unpin> Replay<B> {
    /// The body of a request that began at `now`.
    pub(crate) fn new(body: B, now: Instant) -> Self {
        Self(Rc::new(RefCell::new(Source {
            finished: body.is_end_stream().then_some(now),
            body: Some(body),
            kept: SmallVec::new(),
            kept_bytes: 0,
            trailers: None,
            lost: false,
            broken: false,
            received: 0,
            active: now,
            tries: 0,
        })))
    }

    /// The body for the next try; earlier ones fail from now on.
    pub(crate) fn body(&self) -> OutBody<B> {
        let mut source = self.0.borrow_mut();
        source.tries += 1;
        OutBody {
            number: source.tries,
            source: Rc::clone(&self.0),
            given: 0,
            trailers_given: false,
        }
    }

    /// Whether it can be sent from the beginning again.
    pub(crate) fn replayable(&self) -> bool {
        let source = self.0.borrow();
        !source.lost && !source.broken
    }

    /// The same body again, for somebody else; `None` unless all of it is here.
    pub(crate) fn copy(&self) -> Option<Self> {
        let source = self.0.borrow();
        if source.lost || source.broken || source.finished.is_none() {
            return None;
        }
        Some(Self(Rc::new(RefCell::new(Source {
            body: None,
            kept: source.kept.clone(),
            kept_bytes: source.kept_bytes,
            trailers: source.trailers.clone(),
            lost: false,
            broken: false,
            finished: source.finished,
            received: 0,
            active: source.active,
            tries: 0,
        }))))
    }

    /// Whether the client broke off.
    pub(crate) fn broken(&self) -> bool {
        self.0.borrow().broken
    }

    /// When the client had sent all of it.
    pub(crate) fn finished(&self) -> Option<Instant> {
        self.0.borrow().finished
    }

    /// When something of it moved last.
    pub(crate) fn active(&self) -> Instant {
        self.0.borrow().active
    }

    /// Bytes received from the client.
    pub(crate) fn received(&self) -> u64 {
        self.0.borrow().received
    }
}

impl<B> Clone for Replay<B> {
    fn clone(&self) -> Self {
        Self(Rc::clone(&self.0))
    }
}

impl<B> Source<B> {
    fn keep(&mut self, data: &Bytes) {
        self.received += data.len() as u64;
        self.kept_bytes += data.len();
        if self.lost || self.kept_bytes > REPLAY_MAX {
            self.lost = true;
            self.kept = SmallVec::new();
        } else {
            self.kept.push(data.clone());
        }
    }
}

impl<B> Body for OutBody<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Data = Bytes;
    type Error = OutBodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, OutBodyError>>> {
        let this = self.get_mut();
        let mut source = this.source.borrow_mut();
        if source.tries != this.number {
            return Poll::Ready(Some(Err(OutBodyError::Superseded)));
        }
        if !source.lost
            && let Some(data) = source.kept.get(this.given)
        {
            this.given += 1;
            return Poll::Ready(Some(Ok(Frame::data(data.clone()))));
        }
        if source.finished.is_some() {
            let trailers = source.trailers.clone().filter(|_| !this.trailers_given);
            this.trailers_given = true;
            return Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))));
        }
        let Some(body) = &mut source.body else {
            return Poll::Ready(None);
        };
        let polled = Pin::new(body).poll_frame(cx);
        let Poll::Ready(frame) = polled else {
            return Poll::Pending;
        };
        source.active = Instant::now();
        match frame {
            None => {
                source.finished = Some(source.active);
                Poll::Ready(None)
            }
            Some(Err(error)) => {
                source.broken = true;
                Poll::Ready(Some(Err(OutBodyError::Client(error.into()))))
            }
            Some(Ok(mut frame)) => {
                if let Some(trailers) = frame.trailers_mut() {
                    clean_trailers(trailers);
                }
                if let Some(data) = frame.data_ref() {
                    source.keep(data);
                    this.given += 1;
                } else if let Some(trailers) = frame.trailers_ref() {
                    source.trailers = Some(trailers.clone());
                    source.finished = Some(source.active);
                    this.trailers_given = true;
                }
                let ended = source.body.as_ref().is_none_or(Body::is_end_stream);
                if ended && source.finished.is_none() {
                    source.finished = Some(source.active);
                }
                Poll::Ready(Some(Ok(frame)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        let source = self.source.borrow();
        let trailers_left = source.trailers.is_some() && !self.trailers_given;
        source.finished.is_some()
            && !trailers_left
            && (source.lost || self.given >= source.kept.len())
    }

    fn size_hint(&self) -> SizeHint {
        let source = self.source.borrow();
        let kept = source.kept.iter().skip(self.given);
        let kept = kept.map(|data| data.len() as u64).sum::<u64>();
        let rest = source
            .body
            .as_ref()
            .map_or(SizeHint::with_exact(0), Body::size_hint);
        let mut hint = SizeHint::new();
        hint.set_lower(kept + rest.lower());
        if let Some(upper) = rest.upper() {
            hint.set_upper(kept + upper);
        }
        hint
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::{BodyExt, StreamBody};
    use std::convert::Infallible;

    type Frames = tokio_stream::Iter<std::vec::IntoIter<Result<Frame<Bytes>, Infallible>>>;

    fn body(parts: Vec<Frame<Bytes>>) -> StreamBody<Frames> {
        let frames: Vec<_> = parts.into_iter().map(Ok).collect();
        StreamBody::new(tokio_stream::iter(frames))
    }

    fn data(text: &'static str) -> Frame<Bytes> {
        Frame::data(Bytes::from_static(text.as_bytes()))
    }

    #[tokio::test]
    async fn a_small_body_is_given_again_from_the_beginning() {
        let trailers = HeaderMap::from_iter([("x-sum".parse().unwrap(), "1".parse().unwrap())]);
        let replay = Replay::new(
            body(vec![
                data("one "),
                data("two"),
                Frame::trailers(trailers.clone()),
            ]),
            Instant::now(),
        );
        let mut first = replay.body();
        first.frame().await.unwrap().unwrap();
        assert!(replay.replayable() && replay.finished().is_none());
        for _ in 0..2 {
            let again = replay.body().collect().await.unwrap();
            assert_eq!(again.trailers(), Some(&trailers));
            assert_eq!(again.to_bytes(), "one two");
        }
        assert_eq!(replay.received(), 7);
        let superseded = first.frame().await.unwrap();
        assert!(matches!(superseded, Err(OutBodyError::Superseded)));
    }

    #[tokio::test]
    async fn a_whole_small_body_can_be_copied() {
        let replay = Replay::new(body(vec![data("one "), data("two")]), Instant::now());
        assert!(replay.copy().is_none());
        replay.body().collect().await.unwrap();
        let copy = replay.copy().unwrap();
        for _ in 0..2 {
            let again = copy.body();
            assert_eq!(again.size_hint().exact(), Some(7));
            assert_eq!(again.collect().await.unwrap().to_bytes(), "one two");
        }
        // Copies take nothing from the original.
        let again = replay.body().collect().await.unwrap();
        assert_eq!(again.to_bytes(), "one two");
    }

    #[tokio::test]
    async fn a_large_body_flows_once() {
        let part = Bytes::from(vec![0; REPLAY_MAX]);
        let replay = Replay::new(
            body(vec![Frame::data(part.clone()), Frame::data(part)]),
            Instant::now(),
        );
        let mut only = replay.body();
        only.frame().await.unwrap().unwrap();
        assert!(replay.replayable());
        only.frame().await.unwrap().unwrap();
        assert!(!replay.replayable());
        assert!(only.frame().await.is_none() && only.is_end_stream());
    }
}
