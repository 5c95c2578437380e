//! Where the control plane keeps what is its own in the registry, beside the declarations.
//! Declarations lie under [`portolan_model::declared::ResourceKey::path`].

use portolan_model::{WorkloadKey, declared::ResourceKey};

/// Everything here is Portolan's own: no declaration, and nothing to edit by hand.
pub(crate) const INTERNAL: &str = "internal/";
/// The number of the latest start of a control plane on this registry, decimal; numbers only grow.
pub(crate) const EPOCH: &str = "internal/epoch";
/// The secret that join tokens are made with, 32 bytes.
pub(crate) const JOIN_SECRET: &str = "internal/join-secret";
/// Virtual IPs by key, each a JSON list.
pub(crate) const VIPS: &str = "internal/vips/";
/// Leased workloads that were not ready when last heard of.
pub(crate) const UNREADY: &str = "internal/unready/";
/// Gateways that were alive when last heard of, each a JSON document.
pub(crate) const GATEWAYS: &str = "internal/gateways/";

/// Where a virtual IP is kept.
pub(crate) fn vip(key: &str) -> String {
    format!("{VIPS}{key}")
}

/// Where it is kept that a workload is not ready.
pub(crate) fn unready(workload: &WorkloadKey) -> String {
    format!("{UNREADY}{workload}")
}

/// Where a gateway is kept.
pub(crate) fn gateway(name: &str) -> String {
    format!("{GATEWAYS}{name}")
}

/// The declaration that lies under a registry key; `None` for everything else.
pub(crate) fn declaration(key: &str) -> Option<ResourceKey> {
    (!key.starts_with(INTERNAL))
        .then(|| ResourceKey::parse_path(key))
        .flatten()
}
