//! The outbound half on loopback, against made-up sidecars and gateways.

mod failover;
mod floods;
mod policies;
mod protocols;
mod proxying;
mod routes;
mod semantics;
mod volumes;
