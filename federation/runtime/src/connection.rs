//! Accepted connections, bounded in number and, where strangers make them, in time.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Sleep;
use tonic::transport::server::Connected;

/// So many connections at a time, and each for so long.
#[derive(Debug, Clone)]
pub(crate) struct Leases {
    places: Arc<Semaphore>,
    life: Duration,
}

/// The place and the time of one connection.
#[derive(Debug)]
pub(crate) struct Lease {
    end: Pin<Box<Sleep>>,
    _place: OwnedSemaphorePermit,
}

impl Leases {
    /// At most `max` connections at a time, each for at most `life`.
    pub(crate) fn new(max: usize, life: Duration) -> Self {
        Self {
            places: Arc::new(Semaphore::new(max)),
            life,
        }
    }

    /// A lease that begins now, if a place is free.
    pub(crate) fn lease(&self) -> Option<Lease> {
        Some(Lease {
            _place: Arc::clone(&self.places).try_acquire_owned().ok()?,
            end: Box::pin(tokio::time::sleep(self.life)),
        })
    }

    /// Waits until a place is free.
    pub(crate) async fn free(&self) {
        // It fails only when somebody closes the places, which nobody does.
        drop(self.places.acquire().await);
    }
}

/// An accepted connection, with what is known of its other end. Whatever it holds is given back
/// before the stream ends, for who comes next.
#[derive(Debug)]
pub(crate) struct Connection<S, I> {
    lease: Option<Lease>,
    _place: Option<OwnedSemaphorePermit>,
    stream: S,
    info: I,
}

impl<S, I> Connection<S, I> {
    pub(crate) fn new(stream: S, info: I) -> Self {
        Self {
            lease: None,
            _place: None,
            stream,
            info,
        }
    }

    /// With a time after which reading fails.
    pub(crate) fn leased(self, lease: Option<Lease>) -> Self {
        Self { lease, ..self }
    }

    /// With a place that is given back at its end.
    pub(crate) fn placed(self, place: OwnedSemaphorePermit) -> Self {
        Self {
            _place: Some(place),
            ..self
        }
    }
}

impl<S, I: Clone + Send + Sync + 'static> Connected for Connection<S, I> {
    type ConnectInfo = I;

    fn connect_info(&self) -> I {
        self.info.clone()
    }
}

impl<S: AsyncRead + Unpin, I: Unpin> AsyncRead for Connection<S, I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(lease) = &mut self.lease
            && lease.end.as_mut().poll(context).is_ready()
        {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin, I: Unpin> AsyncWrite for Connection<S, I> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
