//! DNS for meshed and other clients, from the snapshot.
//!
//! [`zone`] reads a name: which of our zones it lies in, and what it names there. [`answer`] makes
//! the answer from a snapshot; both are pure. [`server`] listens on UDP and TCP, and `forward`
//! passes everything that is not ours to the configured resolvers, byte for byte.
//!
//! Message encoding is hickory-proto's. The listening loops are our own: an answer from memory
//! needs no task, a forwarded answer must reach the client unchanged, and connections and queries in
//! flight must be bounded, which hickory-server does not offer.

pub mod answer;
pub mod config;
pub mod error;
pub mod observe;
pub mod server;
pub mod zone;

mod forward;
mod message;
mod view;

pub use config::DnsConfig;
pub use error::DnsError;
pub use observe::{AnswerKind, Observer, Unobserved};
pub use server::DnsServer;
