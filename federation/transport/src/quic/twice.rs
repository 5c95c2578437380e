//! Sends packets twice on paths that lose some, as far as congestion control leaves room.
//!
//! A lost packet is noticed and sent again one round trip later, which is what the slowest hundredth
//! of small requests waits for. A copy that follows the packet arrives in its place: whoever has both
//! throws one away, as QUIC demands (RFC 9000 §12.3).

use std::collections::HashMap;
use std::fmt;
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use quinn::udp::{EcnCodepoint, RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};
use tokio::sync::mpsc;
use tokio::time::sleep_until;

use super::PAYLOAD_MAX;

/// How long after a packet its copy is sent: losses come in bursts, which both should not meet.
const COPY_AFTER: Duration = Duration::from_millis(2);
/// What is sent in a round trip at most, packets and copies together, where there are any. Whoever has more
/// to say is delayed by its rate, not by one packet.
const ROUND_TRIP_MAX: f64 = 256.0 * 1024.0;
/// The share of the congestion window that packets and copies may fill together: BBR keeps its window at twice
/// of what fills the path.
const WINDOW_SHARE: f64 = 0.5;
/// The largest send that is copied.
const COPY_MAX: usize = 16 * 1024;
/// Copies of one socket that wait at a time; more are not made. Of [`COPY_MAX`] each, 4 MiB.
const WAITING_MAX: usize = 256;
/// What one read from the socket gives at most, in bytes, several packets together.
const DATAGRAM_MAX: usize = 64 * 1024;
/// A window that is no longer given counts half after so long.
const WINDOW_HALVED: Duration = Duration::from_secs(4);
/// Set in the first byte of packets of the handshake (RFC 9000 §17.2), whose size is limited until
/// the receiver has proved its address.
const LONG_HEADER: u8 = 0x80;

/// A socket whose packets can be sent twice.
pub(super) struct TwiceSocket {
    inner: Arc<dyn AsyncUdpSocket>,
    paths: Mutex<HashMap<SocketAddr, Path>>,
    /// Whether there is one in `paths`.
    any: AtomicBool,
    waiting: mpsc::Sender<Copied>,
}

/// Where packets are sent twice.
struct Path {
    room: Room,
    copies: Arc<AtomicU64>,
}

/// What of a path's congestion window is left for copies, in bytes.
#[derive(Debug)]
struct Room {
    /// The largest window lately: controllers shrink theirs for a round trip after each loss.
    window: f64,
    sized: Instant,
    rtt: Duration,
    left: f64,
    at: Instant,
}

/// A send that is repeated.
struct Copied {
    due: Instant,
    destination: SocketAddr,
    ecn: Option<EcnCodepoint>,
    contents: Box<[u8]>,
    segment_size: Option<usize>,
    src_ip: Option<std::net::IpAddr>,
}

impl TwiceSocket {
    /// Sends nothing twice until it is told to. Call it inside a runtime.
    pub(super) fn new(inner: Arc<dyn AsyncUdpSocket>) -> Arc<Self> {
        let (waiting, copies) = mpsc::channel(WAITING_MAX);
        tokio::spawn(send_copies(Arc::clone(&inner), copies));
        Arc::new(Self {
            inner,
            paths: Mutex::default(),
            any: AtomicBool::new(false),
            waiting,
        })
    }

    /// From now on packets to `to` are sent twice, as long as both fit into a share of the congestion
    /// window for each round trip. `copies` counts them.
    pub(super) fn begin(
        &self,
        to: SocketAddr,
        window: u64,
        rtt: Duration,
        copies: &Arc<AtomicU64>,
    ) {
        let mut paths = self.paths();
        let path = paths.entry(to).or_insert_with(|| Path {
            room: Room::new(Instant::now()),
            copies: Arc::clone(copies),
        });
        path.room.resize(Instant::now(), window, rtt);
        self.any.store(true, Ordering::Relaxed);
    }

    /// Packets to `to` are sent once again.
    pub(super) fn end(&self, to: SocketAddr) {
        if !self.any.load(Ordering::Relaxed) {
            return;
        }
        let mut paths = self.paths();
        paths.remove(&to);
        self.any.store(!paths.is_empty(), Ordering::Relaxed);
    }

    fn copy(&self, sent: &Transmit<'_>) {
        let handshake = sent
            .contents
            .first()
            .is_none_or(|byte| byte & LONG_HEADER != 0);
        let bytes = sent.contents.len();
        let mut paths = self.paths();
        let Some(path) = paths.get_mut(&sent.destination) else {
            return;
        };
        let now = Instant::now();
        if !path.room.sent(now, bytes) || handshake || bytes > COPY_MAX {
            return;
        }
        // Full: then this packet has no copy.
        let Ok(place) = self.waiting.try_reserve() else {
            return;
        };
        let packets = bytes.div_ceil(sent.segment_size.unwrap_or(bytes).max(1));
        path.copies.fetch_add(packets as u64, Ordering::Relaxed);
        path.room.copied(bytes);
        place.send(Copied {
            due: now + COPY_AFTER,
            destination: sent.destination,
            ecn: sent.ecn,
            contents: sent.contents.into(),
            segment_size: sent.segment_size,
            src_ip: sent.src_ip,
        });
    }

    fn paths(&self) -> MutexGuard<'_, HashMap<SocketAddr, Path>> {
        // Nothing that holds it can leave it half changed.
        self.paths.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sends copies when they are due, until the socket is gone.
async fn send_copies(socket: Arc<dyn AsyncUdpSocket>, mut copies: mpsc::Receiver<Copied>) {
    while let Some(copy) = copies.recv().await {
        sleep_until(copy.due.into()).await;
        // What the kernel does not take now is late anyway.
        let _ = socket.try_send(&Transmit {
            destination: copy.destination,
            ecn: copy.ecn,
            contents: &copy.contents,
            segment_size: copy.segment_size,
            src_ip: copy.src_ip,
        });
    }
}

impl Room {
    fn new(now: Instant) -> Self {
        Self {
            window: 0.0,
            sized: now,
            rtt: Duration::ZERO,
            left: 0.0,
            at: now,
        }
    }

    fn resize(&mut self, now: Instant, window: u64, rtt: Duration) {
        let passed = now.saturating_duration_since(self.sized);
        let halvings = passed.as_secs_f64() / WINDOW_HALVED.as_secs_f64();
        self.window = (window as f64).max(self.window * libm::exp2(-halvings));
        self.sized = now;
        self.rtt = rtt;
        self.left = self.left.min(self.most());
    }

    /// What packets and copies may take in a round trip.
    fn most(&self) -> f64 {
        (self.window * WINDOW_SHARE).min(ROUND_TRIP_MAX)
    }

    /// So many bytes were sent. Whether there is room for as many again.
    fn sent(&mut self, now: Instant, bytes: usize) -> bool {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        let rtt = self.rtt.as_secs_f64().max(f64::EPSILON);
        self.at = now;
        let most = self.most();
        self.left = (self.left + most * passed / rtt).min(most);
        self.left = (self.left - bytes as f64).max(0.0);
        self.left >= bytes as f64
    }

    /// So many bytes will be sent again.
    fn copied(&mut self, bytes: usize) {
        self.left = (self.left - bytes as f64).max(0.0);
    }
}

impl AsyncUdpSocket for TwiceSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Arc::clone(&self.inner).create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.inner.try_send(transmit)?;
        if self.any.load(Ordering::Relaxed) {
            self.copy(transmit);
        }
        Ok(())
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        self.inner.poll_recv(cx, buffers, meta)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.inner.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        // The library makes room for so many packets of the largest size in each of its buffers. The kernel
        // never gives more than one datagram's worth (64 KiB) at a time, whatever it says here.
        let fit = DATAGRAM_MAX.div_ceil(usize::from(PAYLOAD_MAX));
        self.inner.max_receive_segments().min(fit)
    }

    fn may_fragment(&self) -> bool {
        self.inner.may_fragment()
    }
}

impl fmt::Debug for TwiceSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TwiceSocket({:?})", self.inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const RTT: Duration = Duration::from_millis(60);

    fn room(window: u64, now: Instant) -> Room {
        let mut room = Room::new(now);
        room.resize(now, window, RTT);
        room
    }

    #[test]
    fn copies_take_what_the_window_leaves() {
        let begin = Instant::now();
        let mut room = room(12_000, begin);
        assert!(!room.sent(begin, 100), "nothing is known yet");
        let later = begin + RTT;
        assert!(room.sent(later, 2_000));
        room.copied(2_000);
        assert!(!room.sent(later, 1_500), "500 are left");
        assert!(room.sent(later + RTT / 2, 1_000), "half is back");
        assert!(!room.sent(later + RTT / 2, 6_000));
    }

    #[test]
    fn bulk_has_no_copies_however_large_the_window() {
        let begin = Instant::now();
        let mut room = room(16 * 1024 * 1024, begin);
        let mut copies = 0;
        for millisecond in 0..600 {
            // 500 Mbit/s.
            for _ in 0..5 {
                let now = begin + Duration::from_millis(millisecond);
                if room.sent(now, 12_500) {
                    room.copied(12_500);
                    copies += 1;
                }
            }
        }
        assert!(copies < 20, "{copies} of 3000");
    }

    #[test]
    fn a_window_that_shrank_is_forgotten_slowly() {
        let begin = Instant::now();
        let mut room = room(8_000, begin);
        room.resize(begin + WINDOW_HALVED, 1_000, RTT);
        assert!((room.window - 4_000.0).abs() < 1.0, "{room:?}");
        room.resize(begin + WINDOW_HALVED, 5_000, RTT);
        assert!((room.window - 5_000.0).abs() < 1.0, "{room:?}");
    }

    proptest! {
        #[test]
        fn copies_stay_within_one_window_for_each_round_trip(
            sends in proptest::collection::vec((0..20_u64, 1..3_000_usize), 1..200),
        ) {
            const WINDOW: u64 = 20_000;
            let begin = Instant::now();
            let mut room = room(WINDOW, begin);
            let (mut now, mut copied, mut originals) = (begin, 0, 0);
            for (pause, bytes) in sends {
                now += Duration::from_millis(pause);
                originals += bytes;
                if room.sent(now, bytes) {
                    room.copied(bytes);
                    copied += bytes;
                }
            }
            let trips = (now - begin).as_secs_f64() / RTT.as_secs_f64();
            let allowed = WINDOW as f64 * WINDOW_SHARE * (trips + 1.0);
            prop_assert!(copied <= originals);
            prop_assert!(copied as f64 <= allowed);
        }
    }
}
