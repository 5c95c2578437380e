//! Copies both ways between two streams until both ended, one broke, or nothing moved for too long.

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, sleep};

/// The buffer of a direction at first, in bytes.
pub const BUFFER_START: usize = 8 * 1024;

/// The buffer of a direction that moves much, in bytes.
pub const BUFFER_MAX: usize = 128 * 1024;

/// After so many reads that used a quarter of the buffer or less, it is halved.
const SMALL_READS: u8 = 32;

/// One of the two streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The first argument.
    A,
    /// The second argument.
    B,
}

/// How the copying ended.
#[derive(Debug)]
pub enum Ended {
    /// Both ended their writing, and everything was delivered.
    Finished {
        /// Who ended first.
        first: Side,
    },
    /// Nothing moved for the idle time.
    Idle,
    /// A stream broke.
    Broken {
        /// Which one.
        side: Side,
        /// How.
        error: io::Error,
    },
}

/// What was copied, and how it ended.
#[derive(Debug)]
pub struct PipeEnd {
    /// Bytes written to `b`.
    pub sent: u64,
    /// Bytes written to `a`.
    pub received: u64,
    /// How it ended.
    pub ended: Ended,
}

/// Copies from `a` to `b` and from `b` to `a`. When one ends its writing, the other is told (half
/// close), and may go on. Returns when both ended, one broke, or for `idle` (at most twice that)
/// no byte moved in either direction.
///
/// The streams are dropped at the end, so whatever was not finished by then is cut.
pub async fn copy_both<A, B>(mut a: A, mut b: B, idle: Duration) -> PipeEnd
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let mut forth = Direction::new(Side::A);
    let mut back = Direction::new(Side::B);
    let mut first = None;
    let mut timer = pin!(sleep(idle));
    let mut moved_at_tick = 0;
    let ended = poll_fn(|cx| {
        let forth_done = match forth.poll(cx, &mut a, &mut b) {
            Poll::Ready(Err(broken)) => return Poll::Ready(broken),
            Poll::Ready(Ok(())) => true,
            Poll::Pending => false,
        };
        if forth_done && first.is_none() {
            first = Some(Side::A);
        }
        let back_done = match back.poll(cx, &mut b, &mut a) {
            Poll::Ready(Err(broken)) => return Poll::Ready(broken),
            Poll::Ready(Ok(())) => true,
            Poll::Pending => false,
        };
        if let Some(first) = first
            && forth_done
            && back_done
        {
            return Poll::Ready(Ended::Finished { first });
        }
        if back_done {
            first.get_or_insert(Side::B);
        }
        while timer.as_mut().poll(cx).is_ready() {
            let moved = forth.moved + back.moved;
            if moved == moved_at_tick {
                return Poll::Ready(Ended::Idle);
            }
            moved_at_tick = moved;
            timer.as_mut().reset(Instant::now() + idle);
        }
        Poll::Pending
    })
    .await;
    PipeEnd {
        sent: forth.written,
        received: back.written,
        ended,
    }
}

thread_local! {
    /// The largest buffer that a direction of this thread has left.
    static SPARE: Cell<Box<[u8]>> = Cell::default();
}

/// One way. The buffer is read into only when it is empty, and left to other directions of the thread while
/// there is nothing to read: most connections rest most of the time.
struct Direction {
    /// Whom it reads from; it writes to the other.
    from: Side,
    /// Empty at rest.
    buffer: Box<[u8]>,
    /// How much of the buffer is read into.
    size: usize,
    /// What of the buffer is not yet written.
    start: usize,
    end: usize,
    small_reads: u8,
    unflushed: bool,
    state: State,
    written: u64,
    /// Counts reads and writes, for the idle time.
    moved: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Copying,
    ShuttingDown,
    Done,
}

impl Direction {
    fn new(from: Side) -> Self {
        Self {
            from,
            buffer: Box::default(),
            size: BUFFER_START,
            start: 0,
            end: 0,
            small_reads: 0,
            unflushed: false,
            state: State::Copying,
            written: 0,
            moved: 0,
        }
    }

    fn poll<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut R,
        writer: &mut W,
    ) -> Poll<Result<(), Ended>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        let polled = self.poll_copy(cx, reader, writer);
        if self.start == self.end {
            leave(std::mem::take(&mut self.buffer));
        } else if self.buffer.len() > self.size {
            self.keep_the_rest();
        }
        polled
    }

    fn poll_copy<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut R,
        writer: &mut W,
    ) -> Poll<Result<(), Ended>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        loop {
            match self.state {
                State::Copying => {
                    ready!(self.poll_write_all(cx, writer)).map_err(|e| self.write_broke(e))?;
                    match self.poll_fill(cx, reader) {
                        Poll::Ready(Ok(0)) => self.state = State::ShuttingDown,
                        Poll::Ready(Ok(_)) => {}
                        Poll::Ready(Err(error)) => {
                            let side = self.from;
                            return Poll::Ready(Err(Ended::Broken { side, error }));
                        }
                        Poll::Pending => {
                            ready!(self.poll_flush(cx, writer)).map_err(|e| self.write_broke(e))?;
                            return Poll::Pending;
                        }
                    }
                }
                State::ShuttingDown => {
                    match ready!(Pin::new(&mut *writer).poll_shutdown(cx)) {
                        // The other side is gone already, after it said all it had to say.
                        Err(error) if error.kind() == io::ErrorKind::NotConnected => {}
                        result => result.map_err(|e| self.write_broke(e))?,
                    }
                    self.state = State::Done;
                }
                State::Done => return Poll::Ready(Ok(())),
            }
        }
    }

    fn poll_fill<R>(&mut self, cx: &mut Context<'_>, reader: &mut R) -> Poll<io::Result<usize>>
    where
        R: AsyncRead + Unpin,
    {
        if self.buffer.len() < self.size {
            self.buffer = take(self.size);
        }
        let mut buffer = ReadBuf::new(&mut self.buffer[..self.size]);
        ready!(Pin::new(reader).poll_read(cx, &mut buffer))?;
        self.start = 0;
        self.end = buffer.filled().len();
        self.moved += 1;
        Poll::Ready(Ok(self.end))
    }

    fn poll_write_all<W>(&mut self, cx: &mut Context<'_>, writer: &mut W) -> Poll<io::Result<()>>
    where
        W: AsyncWrite + Unpin,
    {
        if self.start == self.end {
            return Poll::Ready(Ok(()));
        }
        while self.start < self.end {
            let rest = &self.buffer[self.start..self.end];
            let count = ready!(Pin::new(&mut *writer).poll_write(cx, rest))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.start += count;
            self.written += count as u64;
            self.moved += 1;
            self.unflushed = true;
        }
        self.fit_buffer();
        Poll::Ready(Ok(()))
    }

    /// Leaves a buffer that was taken of somebody who needed a larger one: a writer that is stuck may hold what is
    /// left of it for long.
    fn keep_the_rest(&mut self) {
        let mut own: Box<[u8]> = vec![0; self.size].into();
        let rest = &self.buffer[self.start..self.end];
        own[..rest.len()].copy_from_slice(rest);
        (self.start, self.end) = (0, rest.len());
        leave(std::mem::replace(&mut self.buffer, own));
    }

    fn poll_flush<W>(&mut self, cx: &mut Context<'_>, writer: &mut W) -> Poll<io::Result<()>>
    where
        W: AsyncWrite + Unpin,
    {
        if self.unflushed {
            ready!(Pin::new(writer).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Doubles the buffer when a read filled it, halves it when reads stay small. It is empty here.
    fn fit_buffer(&mut self) {
        let used = self.end;
        (self.start, self.end) = (0, 0);
        if used == self.size && self.size < BUFFER_MAX {
            self.small_reads = 0;
            self.size *= 2;
        } else if used > self.size / 4 || self.size == BUFFER_START {
            self.small_reads = 0;
        } else {
            self.small_reads += 1;
            if self.small_reads == SMALL_READS {
                self.small_reads = 0;
                self.size /= 2;
            }
        }
    }

    fn write_broke(&self, error: io::Error) -> Ended {
        let side = match self.from {
            Side::A => Side::B,
            Side::B => Side::A,
        };
        Ended::Broken { side, error }
    }
}

/// A buffer of at least this size.
fn take(size: usize) -> Box<[u8]> {
    let spare = SPARE.try_with(Cell::take).unwrap_or_default();
    if spare.len() < size {
        return vec![0; size].into();
    }
    spare
}

/// Leaves a buffer to whoever takes the next one.
fn leave(buffer: Box<[u8]>) {
    // A thread that ends keeps none.
    let _ = SPARE.try_with(|spare| {
        let kept = spare.take();
        spare.set(if kept.len() < buffer.len() {
            buffer
        } else {
            kept
        });
    });
}

#[cfg(test)]
mod tests;
