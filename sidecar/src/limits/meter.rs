//! A stream whose bytes are counted: it slows down to what the limits allow.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use portolan_policy::limit::{self, Rate};
use smallvec::SmallVec;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

use super::{Count, Limits, Measure};
use crate::sessions::Facts;

/// The most bytes that are taken at once, so that streams share a limit evenly.
const PIECE_MAX: usize = 16 * 1024;
/// The pause before the next look when nothing may pass.
const PAUSE: Duration = Duration::from_millis(5);

/// A stream between a caller and this proxy, as far as its limits let it flow.
pub(crate) struct Metered<S> {
    stream: S,
    meter: Meter,
    reading: Option<Pin<Box<Sleep>>>,
    writing: Option<Pin<Box<Sleep>>>,
}

struct Meter {
    limits: Limits,
    facts: Facts,
    /// Of the limits that `counts` is of.
    version: u64,
    counts: SmallVec<[(Rate, Arc<Count>); 1]>,
}

impl Meter {
    /// Finds the counts, where the limits are other ones now.
    fn refresh(&mut self) {
        let version = self.limits.version();
        if version == self.version {
            return;
        }
        self.version = version;
        self.counts.clear();
        let Some(serving) = self.limits.serving(&self.facts.service) else {
            return;
        };
        for limit in &serving.limits {
            let Measure::Bytes(rate) = limit.measure else {
                continue;
            };
            if limit::on_port(limit.port, self.facts.port) {
                let key = limit::caller_key(&limit.spec.per, &self.facts.caller);
                let count = match key {
                    Some(key) => limit.counts.of(&key, self.limits.now()),
                    None => Arc::clone(limit.counts.whole()),
                };
                self.counts.push((rate, count));
            }
        }
    }

    /// How many of `wanted` bytes may pass now; they are counted.
    fn take(&self, wanted: usize) -> usize {
        let now = self.limits.now();
        let mut allowed = wanted.min(PIECE_MAX) as u64;
        for (index, (rate, count)) in self.counts.iter().enumerate() {
            let some = count.bucket.take_some(rate, allowed, now);
            for (rate, count) in &self.counts[..index] {
                count.bucket.give_back(rate, allowed - some);
            }
            allowed = some;
        }
        // It is at most `wanted`.
        usize::try_from(allowed).unwrap_or(wanted)
    }

    fn give_back(&self, bytes: usize) {
        for (rate, count) in &self.counts {
            count.bucket.give_back(rate, bytes as u64);
        }
    }
}

impl<S> Metered<S> {
    pub(crate) fn new(stream: S, limits: Limits, facts: Facts) -> Self {
        Self {
            stream,
            meter: Meter {
                limits,
                facts,
                version: u64::MAX,
                counts: SmallVec::new(),
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
        if this.meter.counts.is_empty() {
            return Pin::new(&mut this.stream).poll_read(cx, buf);
        }
        loop {
            ready!(paused(&mut this.reading, cx));
            let allowed = this.meter.take(buf.remaining());
            if allowed == 0 && buf.remaining() > 0 {
                this.reading = Some(Box::pin(sleep(PAUSE)));
                continue;
            }
            let mut bytes = [0; PIECE_MAX];
            let mut piece = ReadBuf::new(&mut bytes[..allowed]);
            let polled = Pin::new(&mut this.stream).poll_read(cx, &mut piece);
            this.meter.give_back(allowed - piece.filled().len());
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
        if this.meter.counts.is_empty() {
            return Pin::new(&mut this.stream).poll_write(cx, bytes);
        }
        loop {
            ready!(paused(&mut this.writing, cx));
            let allowed = this.meter.take(bytes.len());
            if allowed == 0 && !bytes.is_empty() {
                this.writing = Some(Box::pin(sleep(PAUSE)));
                continue;
            }
            let polled = Pin::new(&mut this.stream).poll_write(cx, &bytes[..allowed]);
            let written = match &polled {
                Poll::Ready(Ok(written)) => *written,
                Poll::Ready(Err(_)) | Poll::Pending => 0,
            };
            this.meter.give_back(allowed - written);
            return polled;
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.meter.refresh();
        if self.meter.counts.is_empty() {
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
