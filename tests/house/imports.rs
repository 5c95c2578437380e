//! Who may import whom (ARCHITECTURE.md, "Imports").

use std::collections::{BTreeMap, BTreeSet};

/// Each of our crates, and which of our crates it may depend on.
const ALLOWED: &[(&str, &[&str])] = &[
    // It measures the program from outside, like any peer, and over the tests' own network.
    ("bench", &["wan"]),
    ("model", &[]),
    ("policy", &["model"]),
    ("compiler", &["model"]),
    ("registry", &["model"]),
    ("trust", &["model"]),
    ("api", &["model"]),
    ("transport", &["model", "trust"]),
    ("dns", &["model"]),
    ("runtime", &["model", "api", "trust", "transport", "dns"]),
    (
        "gateway",
        &[
            "model",
            "policy",
            "trust",
            "transport",
            "api",
            "runtime",
            "dns",
        ],
    ),
    (
        "sidecar",
        &[
            "model",
            "policy",
            "trust",
            "transport",
            "api",
            "runtime",
            "dns",
        ],
    ),
    (
        "control",
        &[
            "model",
            "policy",
            "compiler",
            "registry",
            "trust",
            "transport",
            "dns",
            "api",
            "runtime",
        ],
    ),
    // The tests' own network.
    ("wan", &[]),
];

#[test]
fn rooms_import_only_what_they_may() {
    let metadata = super::metadata();
    let allowed: BTreeMap<&str, BTreeSet<&str>> = ALLOWED
        .iter()
        .map(|(room, others)| (*room, others.iter().copied().collect()))
        .collect();
    let mut seen = 0;
    for package in &metadata.packages {
        let Some(room) = package.name.strip_prefix("portolan-") else {
            continue;
        };
        let allowed = allowed
            .get(room)
            .unwrap_or_else(|| panic!("the room {room} has no rule in this test"));
        seen += 1;
        for dependency in &package.dependencies {
            if dependency.kind == cargo_metadata::DependencyKind::Development {
                continue;
            }
            if let Some(other) = dependency.name.strip_prefix("portolan-") {
                assert!(
                    allowed.contains(other),
                    "{room} imports {other}, which ARCHITECTURE.md does not allow"
                );
            }
        }
    }
    assert_eq!(seen, ALLOWED.len());
}

#[test]
fn fenced_libraries_are_named_in_one_place() {
    let fences: &[(&str, &str)] = &[
        ("quinn::", "federation/transport/src/quic"),
        ("redb::", "federation/registry/src/"),
        ("etcd_client::", "federation/registry/src/etcd"),
        ("hickory_", "federation/dns/src/"),
        ("rustls::ClientConfig", "federation/transport/src/"),
        ("rustls::ServerConfig", "federation/transport/src/"),
    ];
    for (library, home) in fences {
        let mut at_home = false;
        for (path, text) in super::sources() {
            if text.contains(library) {
                let path = path.to_str().unwrap();
                assert!(
                    path.starts_with(home),
                    "{path} names {library}, which belongs to {home}"
                );
                at_home = true;
            }
        }
        assert!(
            at_home || *library == "rustls::ServerConfig" || *library == "rustls::ClientConfig",
            "{library} is used nowhere"
        );
    }
}
