//! Compiles the contracts in `proto/` with a protobuf compiler written in Rust: nothing needs to be installed.

use std::error::Error;

const CONTRACTS: &[&str] = &[
    "envoy/service/discovery/v3/discovery.proto",
    "portolan/discovery/v1/resources.proto",
    "portolan/presence/v1/presence.proto",
    "portolan/authority/v1/authority.proto",
    "portolan/peering/v1/peering.proto",
    "portolan/admin/v1/admin.proto",
    "portolan/quota/v1/quota.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let descriptors = protox::compile(CONTRACTS, ["proto"])?;
    tonic_prost_build::configure()
        // Sorted maps: equal resources have equal bytes, and so equal versions.
        .btree_map(".")
        .emit_rerun_if_changed(false)
        .compile_fds(descriptors)?;
    Ok(())
}
