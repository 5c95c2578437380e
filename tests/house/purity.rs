//! The pure rooms decide and do nothing: no I/O, no clocks, no randomness of their own.

/// Crates that cannot be had in a pure room.
const IMPURE_CRATES: &[&str] = &[
    "tokio",
    "mio",
    "hyper",
    "tonic",
    "quinn",
    "rustls",
    "socket2",
    "rustix",
    "getrandom",
    "tracing",
    "notify",
    "redb",
];
const PURE_ROOMS: &[&str] = &["model", "policy", "compiler"];
/// Words that must not stand in pure code.
const IMPURE_WORDS: &[&str] = &[
    "std::net::Tcp",
    "std::net::Udp",
    "std::fs",
    "std::env",
    "std::thread",
    "std::process",
    "Instant::now",
    "SystemTime",
    "rand::rng(",
    "thread_rng",
    "tokio::",
];
/// Pure files inside rooms that also do I/O.
const PURE_FILES: &[&str] = &[
    "federation/transport/src/wire",
    "federation/dns/src/answer",
    "federation/dns/src/zone",
    "gateway/src/links.rs",
];

#[test]
fn pure_rooms_depend_on_nothing_that_acts() {
    let metadata = cargo_metadata::MetadataCommand::new()
        .manifest_path(super::root().join("Cargo.toml"))
        .no_deps()
        .other_options(vec!["--offline".to_owned(), "--locked".to_owned()])
        .exec()
        .unwrap();
    for room in PURE_ROOMS {
        let package = metadata
            .packages
            .iter()
            .find(|package| package.name.as_str() == format!("portolan-{room}"))
            .unwrap();
        for dependency in package
            .dependencies
            .iter()
            .filter(|dependency| dependency.kind == cargo_metadata::DependencyKind::Normal)
        {
            assert!(
                !IMPURE_CRATES.contains(&dependency.name.as_str()),
                "{room} depends on {}",
                dependency.name
            );
        }
    }
}

#[test]
fn pure_code_has_no_clock_no_randomness_and_no_input_or_output() {
    let mut seen = 0;
    for (path, text) in super::sources() {
        let path = path.to_str().unwrap();
        let pure = PURE_ROOMS
            .iter()
            .any(|room| path.starts_with(&format!("federation/{room}/")))
            || PURE_FILES.iter().any(|file| path.starts_with(file));
        if !pure {
            continue;
        }
        seen += 1;
        for word in IMPURE_WORDS {
            assert!(
                !super::product(&text).contains(word),
                "{path} is pure and says `{word}`"
            );
        }
    }
    assert!(seen > 30, "{seen}");
}
