//! One tunnel: a stream of a link.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use quinn::VarInt;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The code of a stream that was dropped before its end.
const CUT: VarInt = VarInt::from_u32(1);

/// Bytes both ways within a link. Shutting down ends the writing; dropping before that cuts it, and
/// the peer's read fails.
pub struct Tunnel {
    send: quinn::SendStream,
    recv: quinn::RecvStream,
    finished: bool,
    open: Arc<AtomicUsize>,
}

impl Tunnel {
    /// Counts as one of `open` until it is dropped.
    pub(super) fn new(
        send: quinn::SendStream,
        recv: quinn::RecvStream,
        open: Arc<AtomicUsize>,
    ) -> Self {
        open.fetch_add(1, Ordering::Relaxed);
        Self {
            send,
            recv,
            finished: false,
            open,
        }
    }

    /// Waits until the peer has everything that was written to a tunnel which was shut down, or does
    /// not want it, or the link ended. Whoever closes the link before loses what is on its way.
    pub async fn delivered(&self) {
        // An error says that the link ended.
        let _ = self.send.stopped().await;
    }
}

impl AsyncRead for Tunnel {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        AsyncRead::poll_read(Pin::new(&mut self.recv), cx, buffer)
    }
}

impl AsyncWrite for Tunnel {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        AsyncWrite::poll_write(Pin::new(&mut self.send), cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.finished {
            return Poll::Ready(Ok(()));
        }
        self.finished = true;
        // It fails only when the stream ended before: it was reset, or the link is gone.
        let ended = |_| io::ErrorKind::NotConnected.into();
        Poll::Ready(self.send.finish().map_err(ended))
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        if !self.finished {
            // It fails only when the stream ended before.
            let _ = self.send.reset(CUT);
        }
        self.open.fetch_sub(1, Ordering::Relaxed);
    }
}

impl fmt::Debug for Tunnel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tunnel({})", self.send.id())
    }
}
