//! The outbound half on loopback, against made-up sidecars and gateways.

mod failover;
mod protocols;
mod proxying;
