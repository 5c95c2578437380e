//! The nouns of Portolan, parsed once at the border and never strings after.
//!
//! This crate cannot do I/O. Everything in it is a value: names that cannot be malformed
//! ([`names`]), SPIFFE identities ([`identity`]), services with their endpoints ([`service`],
//! [`endpoint`]), what is declared ([`declared`], [`resource`]) of routes ([`route`]), traffic
//! ([`traffic`]), limits ([`limit`]) and drills ([`fault`]), what peers offer ([`sharing`]), the
//! snapshot that proxies obey ([`snapshot`]), and the closed lists of refusals and problems
//! ([`refusal`], [`problem`]).

pub mod cluster;
pub mod declared;
pub mod duration;
pub mod endpoint;
pub mod fault;
pub mod identity;
pub mod limit;
pub mod names;
pub mod pattern;
pub mod problem;
pub mod refusal;
pub mod resource;
pub mod route;
pub mod service;
pub mod sharing;
pub mod snapshot;
pub mod traffic;

pub use cluster::{ClusterIdentity, Locality};
pub use endpoint::Endpoint;
pub use identity::{IdentityKind, SpiffeId};
pub use names::{
    ClusterName, ClusterSetName, HostName, NameError, Namespace, PortName, Region, ServiceAccount,
    ServiceKey, ServiceName, TrustDomain, WorkloadKey, WorkloadName, Zone,
};
pub use pattern::Pattern;
pub use problem::{Position, Problem, Severity};
pub use refusal::{Hop, Reason, Refusal};
pub use service::{Port, Protocol, ServiceKind, SessionAffinity};
