//! How links behave: settings and bounds.

use std::time::Duration;

/// Tunnels that one side of a link may have open at a time.
pub const TUNNELS_MAX: u32 = 4096;

/// Links that wait to be accepted, for each worker.
pub const INCOMING_MAX: usize = 256;

/// How a sender finds its rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Congestion {
    /// CUBIC (RFC 9438).
    Cubic,
    /// BBR: by measured bandwidth and round trip, so that random loss does not slow it down.
    #[default]
    Bbr,
    /// New Reno (RFC 6582).
    NewReno,
}

/// How links behave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkSettings {
    /// A link that says nothing for so long is dead to whoever watches it, or after three probe
    /// timeouts if that is longer.
    pub dead_after: Duration,
    /// When QUIC itself ends a silent link. It does not know whether this process was awake, so let it
    /// be much longer where somebody watches.
    pub idle_timeout: Duration,
    /// A silent link is probed this often.
    pub keep_alive: Duration,
    /// The round trip that is assumed before the first was measured.
    pub initial_rtt: Duration,
    /// Dialling takes at most this long.
    pub dial_timeout: Duration,
    /// Opening a tunnel waits at most this long for one of [`TUNNELS_MAX`].
    pub open_timeout: Duration,
    /// How a sender finds its rate.
    pub congestion: Congestion,
    /// Bytes in flight on a link, in each direction: the path's rate × its round trip.
    pub link_window: u32,
    /// Bytes in flight in a tunnel, in each direction.
    pub tunnel_window: u32,
    /// Whether whoever watches a link lets it send packets twice while it loses some.
    pub twice_on_loss: bool,
    /// The kernel's buffers of a socket, in bytes, as far as it permits.
    pub socket_buffer: usize,
}

impl Default for LinkSettings {
    fn default() -> Self {
        const MIB: u32 = 1024 * 1024;
        Self {
            dead_after: Duration::from_secs(1),
            idle_timeout: Duration::from_secs(1),
            keep_alive: Duration::from_millis(250),
            initial_rtt: Duration::from_millis(100),
            dial_timeout: Duration::from_secs(3),
            open_timeout: Duration::from_secs(1),
            congestion: Congestion::Bbr,
            // 1.3 Gbit/s over 100 ms.
            link_window: 16 * MIB,
            tunnel_window: 4 * MIB,
            twice_on_loss: true,
            socket_buffer: 4 * 1024 * 1024,
        }
    }
}
