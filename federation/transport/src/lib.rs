//! How bytes cross: TLS between sidecars, QUIC links between gateways, and what is written on both.
//!
//! - [`wire`] is pure: the names in SNI, the ClientHello, alerts, and the header of a tunnel. Every
//!   parser takes hostile bytes, is bounded, and never panics.
//! - [`mtls`] is the only place that configures TLS. TLS 1.3 only; every handshake judges the peer
//!   with `portolan_trust::verify` and the bundle **of this moment**; sessions are never resumed,
//!   because a resumed one would outlive a removed root or a revoked peer.
//! - [`quic`] is the only file that names the QUIC library. A [`quic::Link`] is symmetric: whoever
//!   dialled, both sides open tunnels. A tunnel that is dropped before it was finished is reset,
//!   so that a cut is never taken for an end.
//! - [`hello`] and [`tunnel`] read and write the wire's pieces on any stream, within a time limit;
//!   [`pipe`] copies both ways between any two streams with bounded buffers; [`listen`] makes sockets.
//!
//! This crate decides nothing about services: it knows names and identities, not policy.

pub mod hello;
pub mod listen;
pub mod mtls;
pub mod pipe;
pub mod quic;
pub mod tunnel;
pub mod wire;

#[cfg(test)]
mod fixtures;
