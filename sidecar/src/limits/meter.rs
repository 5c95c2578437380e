//! Streams and bodies whose bytes are counted: they slow down to what the limits allow.
//!
//! Of HTTP the bodies are slowed down, and not the connection: its other requests and its signs of life
//! must not wait behind them.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use portolan_policy::limit;
use portolan_policy::limit::lease::{BYTES_PER_TOKEN, Empty, Spent};
use smallvec::SmallVec;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

use super::{Cache, Count, Limit, Limits, Measure, Serving};
use crate::sessions::Facts;

/// The most bytes that are taken at once, so that streams share a limit evenly.
const PIECE_MAX: usize = 16 * 1024;
/// The pause before the next look when nothing may pass.
const PAUSE: Duration = Duration::from_millis(5);

/// A stream of opaque bytes between a caller and this proxy, as far as its limits let it flow.
pub(crate) struct Metered<S> {
    stream: S,
    meter: Meter,
    reading: Option<Pin<Box<Sleep>>>,
    writing: Option<Pin<Box<Sleep>>>,
}

struct Meter {
    facts: Facts,
    /// Of the limits that the counts are of.
    version: u64,
    counts: Counts,
}

/// What bytes count for.
struct Counts {
    limits: Limits,
    each: SmallVec<[(Arc<Limit>, Arc<Count>); 1]>,
}

/// Bytes that may pass, and what each limit was paid for them.
struct Paid {
    bytes: usize,
    each: SmallVec<[Payment; 1]>,
}

#[derive(Clone, Copy)]
enum Payment {
    /// So many bytes of the own count.
    Own(u64),
    /// Tokens of the lease.
    Shared(Spent),
}

impl Meter {
    /// Finds the counts, where the limits are other ones now.
    fn refresh(&mut self) {
        let limits = self.counts.limits.clone();
        let version = limits.version();
        if version == self.version {
            return;
        }
        self.version = version;
        self.counts.each.clear();
        let Some(serving) = limits.serving(&self.facts.service) else {
            return;
        };
        for limit in of_bytes(&serving, &self.facts) {
            let key = limit::caller_key(&limit.spec.per, &self.facts.caller);
            let count = match key {
                Some(key) => limit.counts.of(&key, limits.now()),
                None => Arc::clone(limit.counts.whole()),
            };
            self.counts.each.push((Arc::clone(limit), count));
        }
    }
}

/// The limits of bytes that a caller's connection has.
fn of_bytes<'a>(serving: &'a Serving, facts: &'a Facts) -> impl Iterator<Item = &'a Arc<Limit>> {
    serving.limits.iter().filter(|limit| {
        let of_bytes = matches!(limit.measure, Measure::Bytes(_) | Measure::SharedBytes(..));
        of_bytes && limit::on_port(limit.port, facts.port)
    })
}

impl Counts {
    /// How many of `wanted` bytes may pass now; they are counted.
    fn take(&self, wanted: usize) -> Paid {
        let mut allowed = wanted.min(PIECE_MAX) as u64;
        let mut each: SmallVec<[Payment; 1]> = SmallVec::new();
        for (limit, count) in &self.each {
            let payment = self.pay(limit, count, allowed);
            allowed = allowed.min(payment.bytes());
            each.push(payment);
        }
        // What one limit let through and a later one did not.
        for ((limit, count), payment) in self.each.iter().zip(&mut each) {
            payment.keep(limit, count, allowed);
        }
        Paid {
            // It is at most `wanted`.
            bytes: usize::try_from(allowed).unwrap_or(wanted),
            each,
        }
    }

    /// Gives back what is paid for more than these bytes.
    fn give_back(&self, paid: &mut Paid, used: usize) {
        for ((limit, count), payment) in self.each.iter().zip(&mut paid.each) {
            payment.keep(limit, count, used as u64);
        }
    }

    fn pay(&self, limit: &Limit, count: &Count, wanted: u64) -> Payment {
        let now = self.limits.now();
        match limit.measure {
            Measure::Bytes(rate) => Payment::Own(count.bucket.take_some(&rate, wanted, now)),
            Measure::SharedBytes(rate, alone) => {
                let tokens = tokens_for(wanted);
                let spent = count.lease.take_some(tokens, now).unwrap_or_else(|empty| {
                    let inner = &self.limits.0;
                    if empty == Empty::Unasked {
                        inner.hurry.notify_one();
                    }
                    let Some(since) = inner.contact.alone_since(now) else {
                        return Spent::Alone(0);
                    };
                    let share = limit.share.load(Ordering::Relaxed);
                    let (own, time) = ((&rate, share), (since, now));
                    count.lease.take_some_alone(tokens, alone, own, time)
                });
                Payment::Shared(spent)
            }
            Measure::Requests(_)
            | Measure::Shared(..)
            | Measure::Connections(_)
            | Measure::SharedConnections(..) => Payment::Own(wanted),
        }
    }
}

impl Payment {
    fn bytes(self) -> u64 {
        match self {
            Self::Own(bytes) => bytes,
            Self::Shared(spent) => u64::from(spent.tokens()) * BYTES_PER_TOKEN,
        }
    }

    /// Gives back what is more than these bytes are worth.
    fn keep(&mut self, limit: &Limit, count: &Count, bytes: u64) {
        match (self, limit.measure) {
            (Self::Own(paid), Measure::Bytes(rate)) => {
                count.bucket.give_back(&rate, paid.saturating_sub(bytes));
                *paid = bytes.min(*paid);
            }
            (Self::Shared(spent), Measure::SharedBytes(rate, _)) => {
                let unused = spent.tokens().saturating_sub(tokens_for(bytes));
                count.lease.give_back(*spent, unused, &rate);
                *spent = spent.less(unused);
            }
            (Self::Own(_) | Self::Shared(_), _) => {}
        }
    }
}

/// The tokens that so many bytes cost.
fn tokens_for(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(BYTES_PER_TOKEN)).unwrap_or(u32::MAX)
}

/// How fast the body of one request or answer flows.
pub(crate) struct Pace {
    counts: Counts,
    pause: Option<Pin<Box<Sleep>>>,
}

impl Cache {
    /// How fast a body of this caller flows; `None`: as fast as it can.
    pub(crate) fn pace(&self, facts: &Facts) -> Option<Pace> {
        let serving = self.serving(&facts.service)?;
        let each = of_bytes(&serving, facts).map(|limit| {
            let key = limit::caller_key(&limit.spec.per, &facts.caller);
            (Arc::clone(limit), self.count(limit, key.as_deref()))
        });
        let counts = Counts {
            limits: self.limits().clone(),
            each: each.collect(),
        };
        (!counts.each.is_empty()).then_some(Pace {
            counts,
            pause: None,
        })
    }
}

/// A body at its pace.
pub(crate) struct Paced<B> {
    body: B,
    pace: Option<Pace>,
    /// What came and may not pass yet.
    rest: Bytes,
}

impl<B> Paced<B> {
    pub(crate) fn new(body: B, pace: Option<Pace>) -> Self {
        Self {
            body,
            pace,
            rest: Bytes::new(),
        }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Paced<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = &mut *self;
        let Some(pace) = &mut this.pace else {
            return Pin::new(&mut this.body).poll_frame(cx);
        };
        if this.rest.is_empty() {
            match ready!(Pin::new(&mut this.body).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) if data.is_empty() => return Poll::Ready(Some(Ok(Frame::data(data)))),
                    Ok(data) => this.rest = data,
                    Err(other) => return Poll::Ready(Some(Ok(other))),
                },
                end => return Poll::Ready(end),
            }
        }
        loop {
            ready!(paused(&mut pace.pause, cx));
            let allowed = pace.counts.take(this.rest.len()).bytes;
            if allowed > 0 {
                let piece = this.rest.split_to(allowed);
                return Poll::Ready(Some(Ok(Frame::data(piece))));
            }
            pace.pause = Some(Box::pin(sleep(PAUSE)));
        }
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let rest = self.rest.len() as u64;
        let mut hint = self.body.size_hint();
        if let Some(upper) = hint.upper() {
            hint.set_upper(upper + rest);
        }
        hint.set_lower(hint.lower() + rest);
        hint
    }
}

impl<S> Metered<S> {
    pub(crate) fn new(stream: S, limits: Limits, facts: Facts) -> Self {
        Self {
            stream,
            meter: Meter {
                facts,
                version: u64::MAX,
                counts: Counts {
                    limits,
                    each: SmallVec::new(),
                },
            },
            reading: None,
            writing: None,
        }
    }
}

/// Waits for the pause that was begun, if one was.
fn paused(pause: &mut Option<Pin<Box<Sleep>>>, cx: &mut Context<'_>) -> Poll<()> {
    if let Some(sleeping) = pause {
        ready!(sleeping.as_mut().poll(cx));
        *pause = None;
    }
    Poll::Ready(())
}

impl<S: AsyncRead + Unpin> AsyncRead for Metered<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.meter.refresh();
        if this.meter.counts.each.is_empty() {
            return Pin::new(&mut this.stream).poll_read(cx, buf);
        }
        loop {
            ready!(paused(&mut this.reading, cx));
            let mut paid = this.meter.counts.take(buf.remaining());
            let allowed = paid.bytes;
            if allowed == 0 && buf.remaining() > 0 {
                this.reading = Some(Box::pin(sleep(PAUSE)));
                continue;
            }
            let mut bytes = [0; PIECE_MAX];
            let mut piece = ReadBuf::new(&mut bytes[..allowed]);
            let polled = Pin::new(&mut this.stream).poll_read(cx, &mut piece);
            this.meter.counts.give_back(&mut paid, piece.filled().len());
            buf.put_slice(piece.filled());
            return polled;
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Metered<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.meter.refresh();
        if this.meter.counts.each.is_empty() {
            return Pin::new(&mut this.stream).poll_write(cx, bytes);
        }
        loop {
            ready!(paused(&mut this.writing, cx));
            let mut paid = this.meter.counts.take(bytes.len());
            let allowed = paid.bytes;
            if allowed == 0 && !bytes.is_empty() {
                this.writing = Some(Box::pin(sleep(PAUSE)));
                continue;
            }
            let polled = Pin::new(&mut this.stream).poll_write(cx, &bytes[..allowed]);
            let written = match &polled {
                Poll::Ready(Ok(written)) => *written,
                Poll::Ready(Err(_)) | Poll::Pending => 0,
            };
            this.meter.counts.give_back(&mut paid, written);
            return polled;
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.meter.refresh();
        if self.meter.counts.each.is_empty() {
            return Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        }
        let first = slices.iter().find(|slice| !slice.is_empty());
        self.poll_write(cx, first.map_or(&[], |slice| slice))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
