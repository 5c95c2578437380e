//! gRPC over mutual TLS between processes, and over Unix sockets on one machine.

mod client;
mod server;
mod unix;

use std::time::Duration;

use portolan_model::SpiffeId;

pub use client::{Addresses, ControlTarget, Credentials, channel};
pub use server::{CONNECTIONS_MAX, serve};
pub use unix::{UnixPeer, bind_unix, connect_unix, serve_unix};

/// How often an HTTP/2 connection is asked whether it lives.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(1);
/// How long the answer may take.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(2);
/// The protocol that TLS agrees on.
const ALPN: &[&[u8]] = &[b"h2"];
/// The most calls that one connection has open at a time.
const CALLS_PER_CONNECTION_MAX: u32 = 100;
/// How long calls may take to end after the shutdown began.
const DRAIN: Duration = Duration::from_millis(500);

/// Who is calling, as the certificate of the connection says: an extension of every request that
/// [`serve`] hands on. `None`: the caller showed no certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller(pub Option<SpiffeId>);

impl Caller {
    /// Who sent this request; nobody if it did not come through [`serve`].
    pub fn of<T>(request: &tonic::Request<T>) -> Option<&SpiffeId> {
        request.extensions().get::<Self>()?.0.as_ref()
    }
}

/// What a failed call says, with its causes, on one line.
#[must_use]
pub fn describe(status: &tonic::Status) -> String {
    let mut text = if status.message().is_empty() {
        status.code().description().to_owned()
    } else {
        status.message().to_owned()
    };
    let mut source = std::error::Error::source(status);
    while let Some(cause) = source {
        let words = cause.to_string();
        if !text.contains(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests;
