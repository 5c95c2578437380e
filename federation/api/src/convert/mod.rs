//! Between the wire's messages and the model's values.
//!
//! Towards the model everything is checked: names, addresses, numbers, list lengths. A failed
//! check says which field is wrong and how. Towards the wire nothing can fail.

mod catalogue;
mod field;
mod inbound;
mod mesh;
mod problem;
mod registration;
mod service;

pub use registration::Registration;

/// The most gateways of one cluster, or addresses of one peer, in a mesh.
pub const GATEWAYS_MAX: usize = 1_000;
/// The most peers in a mesh.
pub const PEERS_MAX: usize = 1_000;
/// The most zones of a cluster.
pub const ZONES_MAX: usize = 64;
/// The most root certificates in a trust bundle.
pub const ROOTS_MAX: usize = 64;
/// The most bytes of one root certificate.
pub const ROOT_BYTES_MAX: usize = 16 * 1024;
/// The most ports of a merged service or of a workload.
pub const PORTS_MAX: usize = 1_000;
/// The most virtual IPs of one scope of a service.
pub const VIPS_MAX: usize = 8;
/// The most endpoints of a service in its own cluster.
pub const ENDPOINTS_MAX: usize = 20_000;
/// The most bytes of the rules of one service.
pub const RULES_BYTES_MAX: usize = 4 * 1024 * 1024;
/// The most labels of a registered workload.
pub const LABELS_MAX: usize = 100;
/// The most bytes of a label's key or value.
pub const LABEL_BYTES_MAX: usize = 320;

/// What is wrong with a message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct Invalid {
    /// The field, as `ports[3].number`.
    pub field: String,
    /// What is wrong with it.
    pub problem: String,
}

impl Invalid {
    /// A field with what is wrong with it.
    pub fn new(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            problem: problem.into(),
        }
    }

    /// The same, seen from the message around it.
    fn within(mut self, outer: &str) -> Self {
        self.field = format!("{outer}.{}", self.field);
        self
    }
}

#[cfg(test)]
mod tests;
