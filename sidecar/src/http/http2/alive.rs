//! Whether whoever has a connection open to us still lives.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use h2::{Ping, PingPong};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

use super::{PING_AFTER, PING_TIMEOUT};

/// What is known of the other side's life. Anything that arrives is a sign of it.
pub(super) struct Alive {
    heard: Rc<Cell<bool>>,
    pings: Option<PingPong>,
    /// When it is looked next: that costs what arrives no timer of its own.
    look: Pin<Box<Sleep>>,
    asked: bool,
}

/// A stream that takes note of what arrives.
pub(super) struct Heard<S> {
    stream: S,
    heard: Rc<Cell<bool>>,
}

impl<S> Heard<S> {
    pub(super) fn new(stream: S) -> Self {
        let heard = Rc::default();
        Self { stream, heard }
    }

    /// What it has noted, and will.
    pub(super) fn noted(&self) -> Rc<Cell<bool>> {
        Rc::clone(&self.heard)
    }
}

impl Alive {
    pub(super) fn new(heard: Rc<Cell<bool>>, pings: Option<PingPong>) -> Self {
        Self {
            heard,
            pings,
            look: Box::pin(sleep(PING_AFTER)),
            asked: false,
        }
    }

    /// Asks whoever was silent for a sign of life. Ready when none came.
    pub(super) fn poll_dead(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            ready!(self.look.as_mut().poll(cx));
            let heard = self.heard.replace(false);
            if self.asked && !heard {
                return Poll::Ready(());
            }
            self.asked = !heard && self.ask(cx);
            let wait = if self.asked { PING_TIMEOUT } else { PING_AFTER };
            self.look.as_mut().reset(Instant::now() + wait);
        }
    }

    fn ask(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(pings) = &mut self.pings else {
            return false;
        };
        // Takes note of the last answer: only then can it be asked again.
        let _ = pings.poll_pong(cx);
        pings.send_ping(Ping::opaque()).is_ok()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Heard<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = ready!(Pin::new(&mut self.stream).poll_read(cx, buffer));
        self.heard.set(true);
        Poll::Ready(read)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Heard<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
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
