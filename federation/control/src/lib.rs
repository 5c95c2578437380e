//! The control plane of one cluster.
//!
//! Declarations come in by the admin API ([`admin`]) and from files ([`sources`]) and go into the
//! registry; its watch ([`watch`]) is the only way from there to the reconcile loop
//! ([`reconcile`]), which owns the compiler. The loop publishes one immutable view ([`view`]);
//! everything else only reads it: discovery streams ([`publish`]), the peers' catalogue streams
//! ([`exchange`]), DNS, the admin API. Proxies say that they live ([`presence`]) and get their
//! certificates here ([`authority`]).
//!
//! What must hold:
//! - Nothing but the loop touches the compiler, and everything reaches the loop as one closed enum of events.
//! - Nothing is queued for a slow receiver: whoever can take more gets the difference to the latest view.
//! - A failing registry, a peer that is away, or a restart changes nothing that proxies do.
//! - Callers are judged by the identity of their certificate, never by what they say.
#![expect(
    rustdoc::private_intra_doc_links,
    reason = "the map above is for readers of the source as well"
)]

mod admin;
mod apply;
mod authority;
mod ca;
mod caller;
mod config;
mod documents;
mod exchange;
mod keys;
mod metrics;
mod open_streams;
mod presence;
mod publish;
mod quota;
mod reconcile;
mod restore;
mod services;
mod sources;
mod start;
mod table;
mod view;
mod vips;
mod watch;

#[cfg(test)]
mod fixtures;
#[cfg(test)]
mod tests;

pub use ca::CaError;
pub use config::{
    CaConfig, ConfigError, ControlConfig, EXAMPLE, IdentityPattern, LocalIdentity, VipConfig,
};
pub use start::{StartError, run};
