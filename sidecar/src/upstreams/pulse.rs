//! Whether the other end of a connection lives, while requests wait for it.
//!
//! Whoever says nothing for a while is asked for a sign of life; what counts is whether anything at all arrives.
//! The time is counted only while this worker itself runs: one that was starved must read what
//! arrived meanwhile before it calls anybody dead.

use std::cell::{Cell, RefCell};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use portolan_policy::awake::Awake;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

/// How often it is looked, while requests are under way.
const LOOK: Duration = Duration::from_millis(250);
/// The longest pause between two looks that counts in full.
const STEP_MAX: Duration = Duration::from_millis(375);

/// The signs of life of one connection.
pub(super) struct Pulse {
    created: Instant,
    heard: Cell<Instant>,
    /// Nobody looks; whoever begins a request says so.
    resting: Cell<bool>,
    begun: Notify,
    dead: Cell<bool>,
    reader: RefCell<Option<Waker>>,
}

impl Pulse {
    pub(super) fn new() -> Rc<Self> {
        Rc::new(Self {
            created: Instant::now(),
            heard: Cell::new(Instant::now()),
            resting: Cell::new(false),
            begun: Notify::new(),
            dead: Cell::new(false),
            reader: RefCell::default(),
        })
    }

    /// A request begins.
    pub(super) fn begin(&self) {
        if self.resting.replace(false) {
            self.begun.notify_one();
        }
    }

    /// Since when nothing arrived.
    pub(super) fn heard(&self) -> Instant {
        self.heard.get()
    }

    /// Whether it was found dead.
    pub(super) fn dead(&self) -> bool {
        self.dead.get()
    }

    /// Watches the connection until nothing arrived for `limit` while requests were under way; its reads
    /// fail from then on. `busy` tells whether there are any, and `None` when nobody needs it any more;
    /// `ask` wants a sign of life.
    pub(super) async fn watch(
        &self,
        limit: Duration,
        busy: impl Fn() -> Option<bool>,
        ask: impl Fn(),
    ) {
        let now = || self.created.elapsed();
        let mut awake = Awake::new(STEP_MAX, now());
        let mut last = self.heard.get();
        // How long it was awake when it last saw a sign of life.
        let mut seen = awake.counted();
        loop {
            sleep(LOOK).await;
            let counted = awake.look(now());
            let Some(busy) = busy() else {
                return;
            };
            let heard = self.heard.get();
            if heard != last || !busy {
                (last, seen) = (heard, counted);
            } else {
                ask();
            }
            if counted - seen >= limit {
                self.dead.set(true);
                if let Some(reader) = self.reader.take() {
                    reader.wake();
                }
                return;
            }
            if !busy {
                self.resting.set(true);
                self.begun.notified().await;
                awake = Awake::new(STEP_MAX, now());
                seen = awake.counted();
            }
        }
    }
}

/// A stream whose signs of life are noted.
pub(super) struct Heard<S> {
    stream: S,
    pulse: Rc<Pulse>,
}

impl<S> Heard<S> {
    pub(super) fn new(stream: S, pulse: Rc<Pulse>) -> Self {
        Self { stream, pulse }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Heard<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.pulse.dead() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if read.is_ready() {
            self.pulse.heard.set(Instant::now());
        } else {
            let mut reader = self.pulse.reader.borrow_mut();
            if !reader
                .as_ref()
                .is_some_and(|waker| waker.will_wake(cx.waker()))
            {
                *reader = Some(cx.waker().clone());
            }
        }
        read
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

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::time::timeout;

    const LIMIT: Duration = Duration::from_millis(750);
    const AMPLE: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn whoever_is_silent_is_asked() {
        let pulse = Pulse::new();
        let (busy, asked) = (Cell::new(false), Cell::new(0));
        let ask = || asked.set(asked.get() + 1);
        let mut watching = std::pin::pin!(pulse.watch(LIMIT, || Some(busy.get()), ask));
        assert!(timeout(2 * LOOK, watching.as_mut()).await.is_err());
        assert_eq!(asked.get(), 0, "nobody waits");
        busy.set(true);
        pulse.begin();
        timeout(AMPLE, watching).await.unwrap();
        assert!(asked.get() > 0 && pulse.dead());
    }

    #[tokio::test]
    async fn silence_kills_only_while_somebody_waits() {
        let (near, mut far) = tokio::io::duplex(64);
        let pulse = Pulse::new();
        let mut stream = Heard::new(near, Rc::clone(&pulse));
        let busy = Cell::new(false);
        let mut watching = std::pin::pin!(pulse.watch(LIMIT, || Some(busy.get()), || ()));
        let quiet = timeout(2 * LIMIT, watching.as_mut()).await;
        assert!(quiet.is_err() && !pulse.dead(), "nobody waits");

        busy.set(true);
        pulse.begin();
        let talking = async {
            for _ in 0..30 {
                sleep(LIMIT / 10).await;
                far.write_all(b"x").await.unwrap();
                stream.read_u8().await.unwrap();
            }
        };
        tokio::select! {
            () = watching.as_mut() => panic!("it talks"),
            () = talking => {}
        }
        let (mut byte, begun) = ([0], Instant::now());
        let silence = async { tokio::join!(stream.read(&mut byte), watching).0 };
        let read = timeout(AMPLE, silence).await.unwrap();
        assert_eq!(read.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!(begun.elapsed() >= LIMIT / 2, "{:?}", begun.elapsed());
    }

    #[tokio::test]
    async fn a_worker_that_slept_does_not_take_that_for_silence() {
        let pulse = Pulse::new();
        let mut watching = std::pin::pin!(pulse.watch(LIMIT, || Some(true), || ()));
        assert!(timeout(LOOK / 4, watching.as_mut()).await.is_err());
        // The whole thread gets no time.
        std::thread::sleep(2 * LIMIT);
        assert!(timeout(LOOK / 4, watching.as_mut()).await.is_err());
        assert!(!pulse.dead());
        timeout(AMPLE, watching).await.unwrap();
        assert!(pulse.dead(), "real silence is found nevertheless");
    }

    #[tokio::test]
    async fn it_ends_with_its_connection() {
        let pulse = Pulse::new();
        timeout(AMPLE, pulse.watch(LIMIT, || None, || ()))
            .await
            .unwrap();
        assert!(!pulse.dead());
    }
}
