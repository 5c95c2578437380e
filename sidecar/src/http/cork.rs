//! Gathers what an HTTP/2 connection writes while it is polled once, so that it leaves as few TLS
//! records in few system calls.
//!
//! The library under HTTP/2 flushes after every DATA frame of more than a few hundred bytes, although
//! the answers to other requests are waiting. So a flush is not obeyed at once, but when the
//! connection has nothing more to write for now: [`Around`] sees when that is.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What is gathered at most, in bytes: the plaintext of one TLS record.
const GATHERED_MAX: usize = 16 * 1024;

/// A stream whose writes are gathered.
pub(crate) struct Corked<S>(Rc<RefCell<Gathered<S>>>);

/// Lets out what its [`Corked`] has gathered.
pub(crate) struct Cork<S>(Rc<RefCell<Gathered<S>>>);

/// A connection on a [`Corked`] stream. Whoever runs it runs this instead.
pub(crate) struct Around<S, C> {
    cork: Cork<S>,
    connection: Pin<Box<C>>,
}

struct Gathered<S> {
    stream: S,
    buffer: Vec<u8>,
    /// How much of the buffer is written.
    written: usize,
    /// What the connection will be told with its next write.
    failed: Option<io::Error>,
}

/// Gathers what is written to `stream`.
pub(crate) fn cork<S>(stream: S) -> (Corked<S>, Cork<S>) {
    let gathered = Rc::new(RefCell::new(Gathered {
        stream,
        buffer: Vec::new(),
        written: 0,
        failed: None,
    }));
    (Corked(Rc::clone(&gathered)), Cork(gathered))
}

impl<S> Cork<S> {
    /// Runs the connection that has the other half.
    pub(crate) fn around<C>(self, connection: C) -> Around<S, C> {
        Around {
            cork: self,
            connection: Box::pin(connection),
        }
    }
}

impl<S, C> Around<S, C> {
    /// The connection.
    pub(crate) fn connection(self: Pin<&mut Self>) -> Pin<&mut C> {
        self.get_mut().connection.as_mut()
    }
}

impl<S: AsyncWrite + Unpin, C: Future> Future for Around<S, C> {
    type Output = C::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<C::Output> {
        let polled = self.connection.as_mut().poll(cx);
        if polled.is_pending() {
            let mut gathered = self.cork.0.borrow_mut();
            if let Poll::Ready(Err(error)) = gathered.poll_flush(cx) {
                gathered.failed = Some(error);
                // It does not know that it has something to learn.
                cx.waker().wake_by_ref();
            }
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> Gathered<S> {
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(rest) = self.buffer.get(self.written..).filter(|it| !it.is_empty()) {
            let count = ready!(Pin::new(&mut self.stream).poll_write(cx, rest))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += count;
        }
        self.buffer.clear();
        self.written = 0;
        Poll::Ready(Ok(()))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.buffer.is_empty() {
            return Poll::Ready(Ok(()));
        }
        ready!(self.poll_drain(cx))?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    /// Makes room for `count` more bytes.
    fn poll_room(&mut self, cx: &mut Context<'_>, count: usize) -> Poll<io::Result<()>> {
        if let Some(error) = self.failed.take() {
            return Poll::Ready(Err(error));
        }
        if !self.buffer.is_empty() && self.buffer.len() + count > GATHERED_MAX {
            return self.poll_drain(cx);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Corked<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0.borrow_mut().stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Corked<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut gathered = self.0.borrow_mut();
        let count: usize = slices.iter().map(|slice| slice.len()).sum();
        ready!(gathered.poll_room(cx, count))?;
        if count >= GATHERED_MAX && gathered.buffer.is_empty() {
            // A copy would gain nothing.
            return Pin::new(&mut gathered.stream).poll_write_vectored(cx, slices);
        }
        for slice in slices {
            gathered.buffer.extend_from_slice(slice);
        }
        Poll::Ready(Ok(count))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.0.borrow_mut().failed.take() {
            Some(error) => Poll::Ready(Err(error)),
            None => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut gathered = self.0.borrow_mut();
        ready!(gathered.poll_drain(cx))?;
        Pin::new(&mut gathered.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn what_is_written_in_one_turn_leaves_when_it_ends() {
        let (near, mut far) = tokio::io::duplex(1024);
        let (mut corked, cork) = cork(near);
        let connection = poll_fn(move |cx| {
            for word in [b"one ", b"two "] {
                assert!(Pin::new(&mut corked).poll_write(cx, word).is_ready());
                assert!(Pin::new(&mut corked).poll_flush(cx).is_ready());
            }
            Poll::<()>::Pending
        });
        let mut running = cork.around(connection);
        let mut buffer = [0; 64];
        tokio::select! {
            biased;
            () = &mut running => unreachable!("it never ends"),
            count = far.read(&mut buffer) => assert_eq!(&buffer[..count.unwrap()], b"one two "),
        }
    }

    #[tokio::test]
    async fn more_than_fits_waits_for_the_reader_and_arrives_in_order() {
        let (near, mut far) = tokio::io::duplex(1000);
        let (mut corked, cork) = cork(near);
        let sent: Vec<u8> = (0..200_000_u32).map(|number| number as u8).collect();
        let expected = sent.clone();
        let writing = cork.around(async move {
            for part in sent.chunks(3_001) {
                corked.write_all(part).await.unwrap();
                corked.flush().await.unwrap();
            }
            corked.write_all(&[7; 40_000]).await.unwrap();
            corked.shutdown().await.unwrap();
        });
        let mut arrived = Vec::new();
        let (_, read) = tokio::join!(writing, far.read_to_end(&mut arrived));
        read.unwrap();
        assert_eq!(arrived[..200_000], expected);
        assert_eq!(arrived[200_000..], [7; 40_000]);
    }

    #[tokio::test]
    async fn a_failed_write_is_told() {
        let (near, far) = tokio::io::duplex(16);
        let (mut corked, cork) = cork(near);
        drop(far);
        let writing = cork.around(async move {
            corked.write_all(b"lost").await.unwrap();
            // Lets the turn end.
            tokio::task::yield_now().await;
            corked.write_all(b"told").await.unwrap_err().kind()
        });
        assert_eq!(writing.await, io::ErrorKind::BrokenPipe);
    }
}
