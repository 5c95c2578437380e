//! TLS with SPIFFE identities: the only place that configures it.
//!
//! A [`TlsContext`] holds the identity and the trust bundle of this process, both replaceable while
//! connections come and go. Every configuration made from it looks them up **in each handshake**, so
//! callers build one configuration per target and keep it.

mod context;
mod error;
mod expect;
mod handshake;
mod verifier;

pub use context::{ClientAuth, TlsContext};
pub use error::TlsError;
pub use expect::Expect;
pub use handshake::{Accepted, ClientTls, Connected, ServerTls, accept, connect};
pub use rustls::{ClientConfig, ServerConfig};

/// ALPN of HTTP/2 between sidecars.
pub const ALPN_H2: &[u8] = b"h2";
/// ALPN of HTTP/1.1 between sidecars, for upgrades.
pub const ALPN_HTTP1: &[u8] = b"http/1.1";
/// ALPN of opaque bytes between sidecars.
pub const ALPN_TCP: &[u8] = b"portolan-tcp";

#[cfg(test)]
mod tests;
