//! The contracts between Portolan's processes: protobuf messages and gRPC services, generated at
//! build time without a system `protoc`, and the border between them and the model.
//!
//! [`convert`] is that border: what arrives is hostile until it has passed through a `TryFrom`,
//! whose error names the field. [`resource`] knows the four kinds of resource that proxies
//! subscribe to.

pub mod convert;
#[expect(
    unused_qualifications,
    unreachable_pub,
    clippy::too_many_lines,
    reason = "generated code, whose paths prescribe the tree around it"
)]
mod generated;
pub mod resource;

pub use generated::envoy::config::core::v3 as core;
pub use generated::envoy::service::discovery::v3 as discovery;
pub use generated::google::rpc;
pub use generated::portolan::admin::v1 as admin;
pub use generated::portolan::authority::v1 as authority;
pub use generated::portolan::discovery::v1 as resources;
pub use generated::portolan::peering::v1 as peering;
pub use generated::portolan::presence::v1 as presence;
pub use generated::portolan::quota::v1 as quota;

pub use resource::{INBOUND, MESH, SERVICE, TRUST};

/// The largest gRPC message that any of our servers and clients accept, in bytes.
pub const MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;
