//! Why there is no link or tunnel, or no more.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use quinn::ConnectionError;

use super::settings::TUNNELS_MAX;

/// Errors of the TLS handshake have these codes (RFC 9001 §4.8).
const TLS_CODES: std::ops::Range<u64> = 0x100..0x200;

/// Why there is no link or tunnel.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The socket cannot be had.
    #[error("cannot use UDP address {addr} for links")]
    Bind {
        /// Which.
        addr: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A setting is out of range, or TLS cannot be used for QUIC.
    #[error("the link cannot be configured: {0}")]
    Settings(String),
    /// The peer did not answer in time.
    #[error("no link to {addr} within {limit:?}")]
    Timeout {
        /// Which address was dialled.
        addr: SocketAddr,
        /// The time limit.
        limit: Duration,
    },
    /// The peer is not who it should be.
    #[error("the peer's identity is refused: {0}")]
    Peer(String),
    /// The peer does not accept who we are.
    #[error("the peer does not accept this gateway's identity: {0}")]
    NotAccepted(String),
    /// The link has as many tunnels as it may have.
    #[error("the link has {TUNNELS_MAX} tunnels already")]
    Busy,
    /// The link ended.
    #[error("the link is closed: {0}")]
    Closed(LinkEnd),
}

/// Why a link ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkEnd {
    /// The peer is silent: it died, or the path did.
    Silent,
    /// The peer closed the link, and said why.
    ByPeer(String),
    /// We closed it.
    Here,
    /// The peer restarted.
    Restarted,
    /// A side broke the protocol.
    Protocol(String),
}

impl fmt::Display for LinkEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Silent => f.write_str("the peer fell silent"),
            Self::ByPeer(reason) => write!(f, "the peer closed it ({reason})"),
            Self::Here => f.write_str("closed here"),
            Self::Restarted => f.write_str("the peer restarted"),
            Self::Protocol(detail) => write!(f, "the protocol was broken ({detail})"),
        }
    }
}

/// A setting that the library refuses.
pub(super) fn unusable(error: impl fmt::Display) -> LinkError {
    LinkError::Settings(error.to_string())
}

/// Why a connection that just failed us is over.
pub(super) fn ended(connection: &quinn::Connection) -> LinkError {
    connection
        .close_reason()
        .map_or(LinkError::Closed(LinkEnd::Here), link_error)
}

/// Why there is no link, by the library's error.
pub(super) fn link_error(error: ConnectionError) -> LinkError {
    if let ConnectionError::TransportError(local) = &error
        && TLS_CODES.contains(&u64::from(local.code))
    {
        return LinkError::Peer(local.reason.clone());
    }
    if let ConnectionError::ConnectionClosed(close) = &error
        && TLS_CODES.contains(&u64::from(close.error_code))
    {
        return LinkError::NotAccepted(close.to_string());
    }
    LinkError::Closed(link_end(&error))
}

/// Why a link ended, by the library's error.
pub(super) fn link_end(error: &ConnectionError) -> LinkEnd {
    match error {
        ConnectionError::TimedOut => LinkEnd::Silent,
        ConnectionError::ApplicationClosed(close) => {
            LinkEnd::ByPeer(String::from_utf8_lossy(&close.reason).into_owned())
        }
        ConnectionError::ConnectionClosed(close) => LinkEnd::ByPeer(close.to_string()),
        ConnectionError::LocallyClosed => LinkEnd::Here,
        ConnectionError::Reset => LinkEnd::Restarted,
        ConnectionError::VersionMismatch
        | ConnectionError::TransportError(_)
        | ConnectionError::CidsExhausted => LinkEnd::Protocol(error.to_string()),
    }
}
