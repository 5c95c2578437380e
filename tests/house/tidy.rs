//! Files that hold one idea each.

/// The longest product file, unit tests apart.
const LINES_MAX: usize = 500;
/// Longer ones, each with its reason.
const LONGER: &[(&str, &str)] = &[(
    "federation/transport/src/quic.rs",
    "quinn may be named in one file only, so that it can be replaced in one",
)];

#[test]
fn files_are_short() {
    for (path, text) in super::sources() {
        let lines = super::product(&text).lines().count();
        let path = path.to_str().unwrap();
        let excused = LONGER.iter().any(|(file, _)| *file == path);
        assert!(
            lines <= LINES_MAX || excused,
            "{path} has {lines} lines: split it, or say why not"
        );
    }
}

#[test]
fn names_say_what_is_inside() {
    for (path, _) in super::sources() {
        let stem = path.file_stem().unwrap().to_str().unwrap();
        assert!(
            !["utils", "util", "common", "manager", "helpers", "misc"].contains(&stem),
            "{} says nothing",
            path.display()
        );
    }
}

#[test]
fn nothing_is_left_for_later() {
    for (path, text) in super::sources() {
        for word in ["todo!", "unimplemented!", "TODO", "FIXME", "XXX"] {
            assert!(!text.contains(word), "{} says {word}", path.display());
        }
    }
}

#[test]
fn the_map_names_every_room_and_no_other() {
    let map = std::fs::read_to_string(super::root().join("ARCHITECTURE.md")).unwrap();
    for room in [
        "model",
        "policy",
        "compiler",
        "registry",
        "trust",
        "transport",
        "dns",
        "api",
        "control",
        "runtime",
    ] {
        assert!(
            map.contains(&format!("federation/{room}/")),
            "ARCHITECTURE.md does not name federation/{room}/"
        );
    }
    for line in map.lines() {
        for path in line
            .split('`')
            .skip(1)
            .step_by(2)
            .filter(|path| path.ends_with(".rs") || path.ends_with('/'))
        {
            assert!(
                super::root().join(path).exists(),
                "ARCHITECTURE.md names `{path}`, which is not there"
            );
        }
    }
}
