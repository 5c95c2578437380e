//! What every daemon needs.
//!
//! A daemon reads its file ([`config`]), starts logging ([`telemetry`]) and its threads
//! ([`workers`]), gets an identity ([`identity`]), follows the control plane's snapshots
//! ([`feed`]), says that it lives ([`presence`]), serves its admin port ([`health`]), and stops
//! when asked ([`shutdown`]). gRPC over mutual TLS and over Unix sockets is in [`grpc`].
//! Nothing here decides traffic.

pub mod admin;
mod backoff;
pub mod config;
mod connection;
mod dns_metrics;
pub mod durable;
pub mod feed;
pub mod grpc;
pub mod health;
pub mod identity;
mod open_files;
pub mod presence;
pub mod quota;
pub mod rarely;
pub mod settings;
pub mod shutdown;
pub mod start;
pub mod telemetry;
pub mod workers;

#[cfg(test)]
mod fixture;

pub use config::ConfigError;
pub use dns_metrics::DnsMetrics;
pub use settings::{ControlClientConfig, JoinConfig, LogConfig, LogFormat};
pub use shutdown::Shutdown;
pub use start::StartError;
pub use telemetry::Metrics;
pub use workers::Workers;
