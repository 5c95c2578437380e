//! The battery, run against every store.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking, its helpers too"
)]

mod battery;
#[cfg(feature = "etcd")]
mod etcd;
#[cfg(feature = "etcd")]
#[path = "../../../../tests/skipped.rs"]
mod skipped;

use portolan_registry::{RegistryConfig, open};

#[tokio::test]
async fn memory_keeps_the_contract() {
    let store = open(&RegistryConfig::Memory {}).await.unwrap();
    battery::run(&store, battery::compact_by_writing).await;
}

#[tokio::test]
async fn embedded_keeps_the_contract() {
    let directory = tempfile::tempdir().unwrap();
    let config = RegistryConfig::Embedded {
        path: directory.path().join("registry.redb"),
    };
    let store = open(&config).await.unwrap();
    battery::run(&store, battery::compact_by_writing).await;
}

#[cfg(not(feature = "etcd"))]
#[tokio::test]
async fn without_the_feature_etcd_is_refused_in_one_sentence() {
    let config: RegistryConfig =
        serde_json::from_str(r#"{"kind":"etcd","endpoints":["http://127.0.0.1:1"]}"#).unwrap();
    let error = open(&config).await.unwrap_err().to_string();
    assert_eq!(
        error,
        "this build has no etcd store; build with `--features etcd` (needs Debian's protobuf-compiler and libprotobuf-dev)"
    );
}
