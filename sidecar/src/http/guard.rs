//! Stands before hyper's HTTP/1.x server and lets no head pass that could mean two things.
//!
//! hyper mends some requests silently that must be refused: one with both `Transfer-Encoding` and
//! `Content-Length` is the usual way to smuggle a request past a proxy (RFC 9112 §6.1). So the bytes
//! are looked at before hyper reads them: heads line by line, bodies only as far as needed to know
//! where the next head begins. Nothing is copied, unless a head arrives in pieces. A head that is
//! refused is replaced by a request that says so ([`Fault`]), which is answered in its turn.

mod chunks;
mod fault;
mod head;
mod messages;

#[cfg(test)]
mod tests;

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use futures_util::task::AtomicWaker;
use http::header::UPGRADE;
use http::{Method, Request, StatusCode, Version};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

pub(crate) use self::fault::Fault;
use self::messages::{Messages, Stop};
use super::patience::Patience;

/// How many bytes a refused client may go on sending.
const LINGER_BYTES_MAX: usize = 1024 * 1024;
/// What is kept of bytes of which it is not decided yet what they are.
const UNDECIDED_BYTES_MAX: usize = 16 * 1024;
/// What is read at a time of bytes that hyper does not get.
const ASIDE_BYTES: usize = 4 * 1024;

/// How large requests may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bounds {
    /// The head, in bytes.
    pub(crate) bytes_max: usize,
    /// The request line, or in HTTP/2 the path with its query, in bytes.
    pub(crate) line_bytes_max: usize,
    /// Headers.
    pub(crate) headers_max: usize,
}

impl Bounds {
    /// The head, in bytes, as HTTP/2 says it.
    pub(super) fn head_max(&self) -> u32 {
        u32::try_from(self.bytes_max).unwrap_or(u32::MAX)
    }
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            bytes_max: 64 * 1024,
            line_bytes_max: 16 * 1024,
            headers_max: 128,
        }
    }
}

/// How long clients are waited for.
#[derive(Debug, Clone, Copy)]
struct Waits {
    /// For the rest of a head whose beginning has arrived.
    head: Duration,
    /// For a client that reads nothing of an answer.
    write: Duration,
    /// For a refused client to end, so that it can read the answer: a connection that is closed with
    /// bytes unread is reset (RFC 9112 §9.6).
    linger: Duration,
}

const WAITS: Waits = Waits {
    head: Duration::from_secs(15),
    write: Duration::from_secs(300),
    linger: Duration::from_secs(1),
};

/// A client's connection, with the guard before it.
pub(crate) struct Guarded<S> {
    stream: S,
    waits: Waits,
    messages: Messages,
    switch: Switch,
    /// Read from the stream, and not judged.
    held: Vec<u8>,
    /// Judged, and not read by hyper.
    passed: Bytes,
    /// Nothing more is read.
    refused: bool,
    /// Bytes read since then.
    lingered: usize,
    head: Patience,
    write: Patience,
    /// Runs when the stream was shut down and the client may still send.
    linger: Patience,
}

/// Tells the guard whether the connection changes protocols.
#[derive(Debug, Clone, Default)]
pub(crate) struct Switch(Arc<Decision>);

#[derive(Debug, Default)]
struct Decision {
    word: AtomicU8,
    /// Who waits for it. hyper does not ask again by itself.
    reader: AtomicWaker,
}

const UNDECIDED: u8 = 0;
const STAYS: u8 = 1;
const SWITCHES: u8 = 2;

/// Puts the guard before a connection. The switch must be told of each answer to a request that
/// [`may_switch`].
pub(crate) fn guard<S>(stream: S, bounds: Bounds) -> (Guarded<S>, Switch) {
    guard_with(stream, bounds, WAITS)
}

fn guard_with<S>(stream: S, bounds: Bounds, waits: Waits) -> (Guarded<S>, Switch) {
    let switch = Switch::default();
    let guarded = Guarded {
        stream,
        waits,
        messages: Messages::new(bounds),
        switch: switch.clone(),
        held: Vec::new(),
        passed: Bytes::new(),
        refused: false,
        lingered: 0,
        head: Patience::default(),
        write: Patience::default(),
        linger: Patience::default(),
    };
    (guarded, switch)
}

/// Whether the answer decides what is spoken next.
pub(crate) fn may_switch<B>(request: &Request<B>) -> bool {
    request.method() == Method::CONNECT
        || (request.version() == Version::HTTP_11 && request.headers().contains_key(UPGRADE))
}

impl Switch {
    /// The answer to a request that could have changed protocols.
    pub(crate) fn answered(&self, status: StatusCode, connect: bool) {
        let switches =
            status == StatusCode::SWITCHING_PROTOCOLS || (connect && status.is_success());
        let decision = if switches { SWITCHES } else { STAYS };
        self.0.word.store(decision, Ordering::Release);
        self.0.reader.wake();
    }

    fn take(&self) -> Option<bool> {
        match self.0.word.swap(UNDECIDED, Ordering::AcqRel) {
            UNDECIDED => None,
            decision => Some(decision == SWITCHES),
        }
    }
}

impl<S: AsyncRead + Unpin> Guarded<S> {
    /// Reads what hyper gets, straight into its buffer. `false`: it must be asked again.
    fn poll_through(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<bool>> {
        let before = buf.filled().len();
        if Pin::new(&mut self.stream).poll_read(cx, buf)?.is_pending() {
            ready!(self.poll_head_timer(cx));
            return Poll::Ready(Ok(false));
        }
        let new = &buf.filled()[before..];
        if new.is_empty() {
            return Poll::Ready(Ok(true));
        }
        if !self.held.is_empty() {
            self.held.extend_from_slice(new);
            buf.set_filled(before);
            self.judge_held();
            return Poll::Ready(Ok(false));
        }
        let (count, stop) = self.messages.read(new);
        if stop != Stop::Nothing {
            self.held.extend_from_slice(&new[count..]);
            buf.set_filled(before + count);
            self.stop(&stop);
        }
        Poll::Ready(Ok(count > 0))
    }

    /// Ready when a head has taken too long: it is refused.
    fn poll_head_timer(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.held.is_empty() {
            return Poll::Pending;
        }
        ready!(self.head.poll(cx, self.waits.head));
        self.stop(&Stop::Refused(Fault::HeadTooSlow));
        Poll::Ready(())
    }

    fn judge_held(&mut self) {
        let (count, stop) = self.messages.read(&self.held);
        if count > 0 {
            let rest = self.held.split_off(count);
            self.passed = Bytes::from(std::mem::replace(&mut self.held, rest));
            self.head.renew();
        }
        self.stop(&stop);
    }

    fn stop(&mut self, stop: &Stop) {
        let instead = match stop {
            Stop::Nothing | Stop::Partial | Stop::Undecided => return,
            Stop::Refused(fault) => fault.stand_in(),
            // No body goes on like this, so hyper ends it.
            Stop::Malformed => b"\0\n".to_vec(),
        };
        self.held = Vec::new();
        self.refused = true;
        let passed = std::mem::take(&mut self.passed);
        self.passed = if passed.is_empty() {
            Bytes::from(instead)
        } else {
            Bytes::from([&passed, &instead[..]].concat())
        };
    }

    /// Waits for the word whether the connection changes protocols; what arrives meanwhile is kept.
    /// `true`: the client is gone. `false`: it is decided.
    fn poll_decision(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        self.switch.0.reader.register(cx.waker());
        loop {
            if let Some(switched) = self.switch.take() {
                self.messages.decide(switched);
                self.judge_held();
                return Poll::Ready(Ok(false));
            }
            if self.held.len() >= UNDECIDED_BYTES_MAX {
                return Poll::Pending;
            }
            let mut space = [0; ASIDE_BYTES];
            let mut aside = ReadBuf::new(&mut space);
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut aside))?;
            if aside.filled().is_empty() {
                return Poll::Ready(Ok(true));
            }
            self.held.extend_from_slice(aside.filled());
        }
    }

    /// Reads what a refused client still sends. Ready when it has ended, or sent too much.
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.lingered < LINGER_BYTES_MAX {
            let mut space = [0; ASIDE_BYTES];
            let mut aside = ReadBuf::new(&mut space);
            match ready!(Pin::new(&mut self.stream).poll_read(cx, &mut aside)) {
                Ok(()) if !aside.filled().is_empty() => self.lingered += aside.filled().len(),
                Ok(()) | Err(_) => break,
            }
        }
        self.lingered = LINGER_BYTES_MAX;
        Poll::Ready(())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            if !this.passed.is_empty() {
                let count = this.passed.len().min(buf.remaining());
                buf.put_slice(&this.passed[..count]);
                this.passed.advance(count);
                return Poll::Ready(Ok(()));
            }
            if this.refused {
                // The end would be taken for the client's, and the answer not be written.
                let _ = this.poll_linger(cx);
                return Poll::Pending;
            }
            if this.messages.switched() {
                return Pin::new(&mut this.stream).poll_read(cx, buf);
            }
            let done = if this.messages.undecided() {
                ready!(this.poll_decision(cx))?
            } else {
                ready!(this.poll_through(cx, buf))?
            };
            if done {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<S> Guarded<S> {
    fn written<T>(
        &mut self,
        cx: &mut Context<'_>,
        polled: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        // Who speaks another protocol may be silent for as long as that allows.
        if polled.is_ready() || self.messages.switched() {
            self.write.renew();
        } else if self.write.poll(cx, self.waits.write).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        polled
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.stream).poll_write(cx, bytes);
        this.written(cx, polled)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.stream).poll_write_vectored(cx, slices);
        this.written(cx, polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.stream).poll_flush(cx);
        this.written(cx, polled)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.linger.is_running() {
            let polled = Pin::new(&mut this.stream).poll_shutdown(cx);
            ready!(this.written(cx, polled))?;
        }
        let lingers = this.refused
            && this.linger.poll(cx, this.waits.linger).is_pending()
            && this.poll_linger(cx).is_pending();
        if lingers {
            Poll::Pending
        } else {
            Poll::Ready(Ok(()))
        }
    }
}
