//! A UDP socket whose worker is woken for what arrives, and for nothing else.
//!
//! The library's own asks the kernel after each read whether there is more, although one that was not full has
//! told; and it is woken after each send because it may send again. A lone request pays for both at every gateway.

use std::io::{self, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use quinn::udp::{BATCH_SIZE, RecvMeta, Transmit, UdpSocketState};
use quinn::{AsyncUdpSocket, UdpPoller};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// The socket.
#[derive(Debug)]
pub(super) struct Socket {
    arriving: AsyncFd<UdpSocket>,
    state: UdpSocketState,
    /// The kernel took no more at the last send.
    full: AtomicBool,
}

impl Socket {
    /// Call it inside a runtime.
    ///
    /// # Errors
    /// When the socket lacks what QUIC needs, or cannot be waited for.
    pub(super) fn new(socket: UdpSocket) -> io::Result<Self> {
        Ok(Self {
            state: UdpSocketState::new((&socket).into())?,
            arriving: told_of(socket, Interest::READABLE)?,
            full: AtomicBool::new(false),
        })
    }
}

impl AsyncUdpSocket for Socket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(Room {
            socket: self,
            waiting: None,
        })
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let sent = self.state.send(self.arriving.get_ref().into(), transmit);
        if matches!(&sent, Err(error) if error.kind() == io::ErrorKind::WouldBlock) {
            self.full.store(true, Ordering::Relaxed);
        }
        sent
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let asked = buffers.len().min(BATCH_SIZE);
        loop {
            let mut ready = ready!(self.arriving.poll_read_ready(cx))?;
            match self
                .state
                .recv(self.arriving.get_ref().into(), buffers, meta)
            {
                Ok(count) => {
                    if count < asked {
                        // What arrives from now on is told anew.
                        ready.clear_ready();
                    }
                    return Poll::Ready(Ok(count));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready.clear_ready(),
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.arriving.get_ref().local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.state.max_gso_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.state.gro_segments()
    }

    fn may_fragment(&self) -> bool {
        self.state.may_fragment()
    }
}

/// Waits for room in the kernel, for one link, where there is none.
#[derive(Debug)]
struct Room {
    socket: Arc<Socket>,
    /// Another handle of the same socket, which is told of room alone.
    waiting: Option<AsyncFd<UdpSocket>>,
}

impl UdpPoller for Room {
    fn poll_writable(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { socket, waiting } = &mut *self;
        if socket.full.load(Ordering::Relaxed) {
            let handle = match waiting {
                Some(handle) => handle,
                None => {
                    let handle = socket.arriving.get_ref().try_clone()?;
                    waiting.insert(told_of(handle, Interest::WRITABLE)?)
                }
            };
            drop(ready!(handle.poll_write_ready(cx))?);
            socket.full.store(false, Ordering::Relaxed);
        }
        *waiting = None;
        Poll::Ready(Ok(()))
    }
}

/// A socket whose task is woken for `interest` alone; `tokio`'s own is for both.
#[expect(
    deprecated,
    reason = "what took its place is unsafe, for the sake of descriptors that change; those of sockets do not"
)]
fn told_of(socket: UdpSocket, interest: Interest) -> io::Result<AsyncFd<UdpSocket>> {
    AsyncFd::with_interest(socket, interest)
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::net::Ipv4Addr;
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    const AMPLE: Duration = Duration::from_secs(10);

    fn socket() -> Arc<Socket> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        Arc::new(Socket::new(socket).unwrap())
    }

    fn packet(to: SocketAddr, contents: &[u8]) -> Transmit<'_> {
        Transmit {
            destination: to,
            ecn: None,
            contents,
            segment_size: None,
            src_ip: None,
        }
    }

    /// The first bytes of what one read gives.
    async fn read(socket: &Socket) -> Vec<u8> {
        let mut space = vec![[0; 2048]; BATCH_SIZE];
        let mut buffers: Vec<_> = space.iter_mut().map(|it| IoSliceMut::new(it)).collect();
        let mut meta = vec![RecvMeta::default(); BATCH_SIZE];
        let reading = poll_fn(|cx| socket.poll_recv(cx, &mut buffers, &mut meta));
        let count = timeout(AMPLE, reading).await.expect("a packet").unwrap();
        buffers[..count].iter().map(|buffer| buffer[0]).collect()
    }

    #[tokio::test]
    async fn a_read_that_was_not_full_loses_nothing_that_comes_later() {
        let (from, to) = (socket(), socket());
        let addr = to.local_addr().unwrap();
        for round in 0..50_u8 {
            let waits = tokio::spawn({
                let to = Arc::clone(&to);
                async move { read(&to).await }
            });
            if round % 2 == 0 {
                tokio::task::yield_now().await;
            }
            from.try_send(&packet(addr, &[round])).unwrap();
            assert_eq!(waits.await.unwrap(), [round]);
        }
    }

    #[tokio::test]
    async fn more_than_one_read_takes_is_read_with_the_next() {
        let (from, to) = (socket(), socket());
        let addr = to.local_addr().unwrap();
        let count = u8::try_from(2 * BATCH_SIZE + 3).unwrap();
        for number in 0..count {
            from.try_send(&packet(addr, &[number])).unwrap();
        }
        let mut all = Vec::new();
        while all.len() < usize::from(count) {
            all.extend(read(&to).await);
        }
        assert_eq!(all, (0..count).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn whoever_found_no_room_is_woken_when_there_is_some() {
        let from = socket();
        let mut room = Arc::clone(&from).create_io_poller();
        let mut writable = async || {
            let waiting = poll_fn(|cx| room.as_mut().poll_writable(cx));
            timeout(AMPLE, waiting).await.expect("room").unwrap();
        };
        writable().await;
        // As after a send for which the kernel had no room; it has by the time that somebody waits.
        from.full.store(true, Ordering::Relaxed);
        writable().await;
        assert!(!from.full.load(Ordering::Relaxed));
        writable().await;
    }
}
