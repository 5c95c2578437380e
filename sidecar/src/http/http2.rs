//! HTTP/2's bounds, said once for every server and client of this proxy.
//!
//! What a peer can make us keep or do without being answered is bounded by the library, and set here so
//! that no new version of it moves a bound unseen. Frames that want an answer (SETTINGS, PING) are read
//! one at a time: the next is not read before the answer is written.

mod alive;
mod answers;
mod pump;
mod requests;
mod tunnel;

use std::time::Duration;

use super::guard::Bounds;

pub(crate) use answers::answer;
pub(crate) use requests::{Requests, SendError, handshake};
pub(crate) use tunnel::Tunnel;

/// The largest head of an answer, in bytes.
const REPLY_HEAD_MAX: u32 = 64 * 1024;
/// The most requests under way on one connection as a client.
pub(crate) const CLIENT_STREAMS: u32 = 100;
/// What is kept of one stream until it is written, in bytes.
const SEND_BUFFER: usize = 256 * 1024;
/// Streams that the other side opened and reset before we looked at them; more end the connection
/// (CVE-2023-44487, "rapid reset").
const RESET_UNSEEN_MAX: usize = 64;
/// Streams that we reset because of the other side's mistakes; more end the connection
/// (CVE-2025-8671, "made you reset").
const RESET_BY_US_MAX: usize = 128;
/// The table of header compression, in bytes.
const HEADER_TABLE: u32 = 4096;
/// A client that is silent for so long is asked whether it lives.
const PING_AFTER: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// How far away the other side is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    /// In the cluster.
    Near,
    /// Perhaps a continent away, with few requests on one connection.
    Far,
}

impl Reach {
    /// What may be under way to us on one stream, in bytes: more where a round trip takes longer.
    fn stream_window(self) -> u32 {
        match self {
            Self::Near => 256 * 1024,
            Self::Far => 1024 * 1024,
        }
    }

    /// What may be under way to us on one connection, in bytes. In the cluster it has room for every
    /// stream: streams that nobody reads would else starve the others.
    fn connection_window(self, streams: u32) -> u32 {
        match self {
            Self::Near => self.stream_window() * streams,
            Self::Far => self.stream_window() * 16,
        }
    }
}

/// What every server begins with.
fn server(bounds: &Bounds, streams_max: u32, reach: Reach) -> h2::server::Builder {
    let mut builder = h2::server::Builder::new();
    builder
        .max_concurrent_streams(streams_max)
        .max_header_list_size(bounds.head_max())
        .header_table_size(HEADER_TABLE)
        .initial_window_size(reach.stream_window())
        .initial_connection_window_size(reach.connection_window(streams_max))
        .max_send_buffer_size(SEND_BUFFER)
        .max_pending_accept_reset_streams(RESET_UNSEEN_MAX)
        .max_local_error_reset_streams(Some(RESET_BY_US_MAX));
    builder
}

/// What every client begins with.
fn client(reach: Reach) -> h2::client::Builder {
    let mut builder = h2::client::Builder::new();
    builder
        .enable_push(false)
        .initial_max_send_streams(CLIENT_STREAMS as usize)
        .max_header_list_size(REPLY_HEAD_MAX)
        .header_table_size(HEADER_TABLE)
        .initial_window_size(reach.stream_window())
        .initial_connection_window_size(reach.connection_window(CLIENT_STREAMS))
        .max_send_buffer_size(SEND_BUFFER)
        .max_pending_accept_reset_streams(RESET_UNSEEN_MAX)
        .max_local_error_reset_streams(Some(RESET_BY_US_MAX));
    builder
}
