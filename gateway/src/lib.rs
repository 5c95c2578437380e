//! The east-west gateway: joins QUIC links to peer clusters with TCP from local sidecars. It moves
//! bytes and never reads payload: TLS runs from sidecar to sidecar, and the gateway holds no key to it.
//!
//! A call's way: a local sidecar's connection arrives at `egress`, which reads the name in its
//! ClientHello, chooses a link (`links` decides, `table` holds them, `peers` keeps them alive) and
//! opens a tunnel on it. The peer's `ingress` asks whether the service is exported to the cluster
//! that the link's identity belongs to, chooses an endpoint (`endpoints` decides) and connects to
//! the sidecar there. When a snapshot withdraws what allowed a tunnel, it is closed (`tunnels`).
//!
//! What must hold:
//! - Who calls is known from the link's verified identity alone, never from what a tunnel says.
//! - No byte of a caller is consumed before the called side has accepted.
//! - Every refusal carries one reason of the closed list, and every wait and every table has a bound.
//! - Workers share the snapshot pointer, the link table, counters and bounds, and no lock.

mod access;
mod admin;
mod config;
mod counted;
mod daemon;
mod egress;
mod endpoints;
mod ingress;
mod links;
mod losses;
mod metrics;
mod peers;
mod report;
mod table;
mod tunnels;
mod worker;

pub use config::{
    ALL_TUNNELS_MAX, AdvertiseConfig, CongestionConfig, EXAMPLE, GatewayConfig, LimitsConfig,
    LinksConfig, WORKERS_MAX,
};
pub use daemon::run;

#[cfg(test)]
mod loopback;
