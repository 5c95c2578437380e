//! The sidecar: the proxy beside one workload.
//!
//! Outbound is the app's way into the mesh: `outbound` takes requests and connections, asks
//! `portolan_policy` where they go, and sends them over pooled mutual TLS (`upstreams`) to the
//! sidecar of an endpoint, or through a gateway of this cluster to another one. [`inbound`] is the
//! mesh's way to the app. Every worker is one thread with its own listeners, pools and health
//! records (`balancer`); workers share the newest snapshot and nothing else on a request's way.
//!
//! This crate carries decisions out and makes none: they are in `portolan_policy`.

mod access;
mod admin;
mod balancer;
pub mod capture;
mod config;
mod control;
mod http;
pub mod inbound;
pub mod limits;
mod metrics;
mod outbound;
pub mod probe;
mod respond;
mod run;
mod sessions;
mod sniff;
mod timers;
mod upstreams;
mod worker;

pub use config::{EXAMPLE, SidecarConfig, WORKERS_MAX, WorkloadConfig};
pub use http::HttpConfig;
pub use run::run;
