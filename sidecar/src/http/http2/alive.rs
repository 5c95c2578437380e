//! Whether whoever has a connection open to us still lives.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use h2::{Ping, PingPong};
use tokio::io::AsyncRead;
use tokio::time::{Instant, Sleep, sleep};
use tokio_util::io::InspectReader;

use super::{PING_AFTER, PING_TIMEOUT};

/// What is known of the other side's life. Anything that arrives is a sign of it.
pub(super) struct Alive {
    heard: Rc<Cell<bool>>,
    /// `None` until the connection has begun, which is the other side's to do.
    pings: Option<PingPong>,
    /// When it is looked next: that costs what arrives no timer of its own.
    look: Pin<Box<Sleep>>,
    asked: bool,
}

/// A stream that takes note of what arrives.
pub(super) type Heard<S> = InspectReader<S, Box<dyn FnMut(&[u8])>>;

/// Listens on a stream whose connection is about to begin.
pub(super) fn listen<S: AsyncRead>(stream: S) -> (Heard<S>, Alive) {
    let heard: Rc<Cell<bool>> = Rc::default();
    let noted = Rc::clone(&heard);
    let note = move |_: &[u8]| noted.set(true);
    let alive = Alive {
        heard,
        pings: None,
        look: Box::pin(sleep(PING_AFTER)),
        asked: false,
    };
    (InspectReader::new(stream, Box::new(note)), alive)
}

impl Alive {
    /// The connection has begun.
    pub(super) fn begun(&mut self, pings: Option<PingPong>) {
        self.pings = pings;
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
            return true;
        };
        // Takes note of the last answer: only then can it be asked again.
        let _ = pings.poll_pong(cx);
        pings.send_ping(Ping::opaque()).is_ok()
    }
}
