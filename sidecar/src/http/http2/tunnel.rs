//! A stream of HTTP/2 as a connection: what CONNECT makes of it (RFC 9113 §8.5).

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use h2::{Reason, RecvStream, SendStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The most that is taken at once, in bytes.
const PART_MAX: usize = 16 * 1024;

/// A stream that carries bytes. Dropped before it was shut down, it tells the other side that the connection broke.
#[derive(Debug)]
pub(crate) struct Tunnel {
    sending: SendStream<Bytes>,
    receiving: RecvStream,
    /// What arrived and was not read yet.
    left: Bytes,
    shut_down: bool,
}

impl Tunnel {
    pub(super) fn new(sending: SendStream<Bytes>, receiving: RecvStream) -> Self {
        Self {
            sending,
            receiving,
            left: Bytes::new(),
            shut_down: false,
        }
    }

    /// Waits for room, and tells how much there is.
    fn poll_room(&mut self, cx: &mut Context<'_>, wanted: usize) -> Poll<io::Result<usize>> {
        // What one stream reserves, others cannot have: no more than is sent then.
        self.sending.reserve_capacity(wanted);
        loop {
            match self.sending.capacity() {
                0 => {}
                room => return Poll::Ready(Ok(room.min(wanted))),
            }
            match ready!(self.sending.poll_capacity(cx)) {
                // It may be given room of which nothing is left.
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Err(broken(error))),
                None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            }
        }
    }
}

impl AsyncRead for Tunnel {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.left.is_empty() {
            match ready!(self.receiving.poll_data(cx)) {
                Some(Ok(data)) => self.left = data,
                Some(Err(error)) => return Poll::Ready(Err(broken(error))),
                None => return Poll::Ready(Ok(())),
            }
        }
        let count = self.left.len().min(buffer.remaining());
        buffer.put_slice(&self.left[..count]);
        self.left.advance(count);
        // What was given on must be read before more of it is asked for.
        let _ = self.receiving.flow_control().release_capacity(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Tunnel {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let count = ready!(self.poll_room(cx, bytes.len().min(PART_MAX)))?;
        let part = Bytes::copy_from_slice(&bytes[..count]);
        self.sending.send_data(part, false).map_err(broken)?;
        Poll::Ready(Ok(count))
    }

    /// The connection under it sends what there is by itself.
    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.shut_down {
            self.shut_down = true;
            let sent = self.sending.send_data(Bytes::new(), true);
            return Poll::Ready(sent.map_err(broken));
        }
        Poll::Ready(Ok(()))
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        if !self.shut_down {
            self.sending.send_reset(Reason::CONNECT_ERROR);
        }
    }
}

/// A stream that is reset is a connection that is.
fn broken(error: h2::Error) -> io::Error {
    if error.is_reset() {
        return io::Error::new(io::ErrorKind::ConnectionReset, error);
    }
    io::Error::other(error)
}
