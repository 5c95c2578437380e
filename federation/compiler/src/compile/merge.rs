//! The MCS API's rules for one service that several clusters export (KEP-1645, "Constraints and
//! Conflict Resolution"): the oldest export wins what cannot be merged; ports are united.

use std::collections::BTreeSet;

use portolan_model::{ClusterName, Port, ServiceKind, SessionAffinity};

/// One cluster's export of the service.
#[derive(Debug, Clone, Copy)]
pub(super) struct Exporter<'a> {
    pub(super) cluster: &'a ClusterName,
    pub(super) exported_ms: u64,
    pub(super) kind: ServiceKind,
    pub(super) ports: &'a [Port],
    pub(super) affinity: SessionAffinity,
}

/// What all exports make together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Merged {
    pub(super) kind: ServiceKind,
    pub(super) ports: Vec<Port>,
    pub(super) affinity: SessionAffinity,
    pub(super) conflicts: Vec<Conflict>,
}

/// A property in which the exports differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Conflict {
    /// The MCS API's reason.
    pub(super) reason: &'static str,
    pub(super) message: String,
}

/// Merges the exports; `None` without any.
pub(super) fn merge(mut exporters: Vec<Exporter<'_>>) -> Option<Merged> {
    exporters.sort_by(|a, b| (a.exported_ms, a.cluster).cmp(&(b.exported_ms, b.cluster)));
    let winner = *exporters.first()?;
    Some(Merged {
        kind: winner.kind,
        ports: union(&exporters),
        affinity: match winner.kind {
            ServiceKind::Virtual => winner.affinity,
            ServiceKind::Headless => SessionAffinity::None,
        },
        conflicts: [
            port_conflict(&winner, &exporters),
            type_conflict(&winner, &exporters),
            affinity_conflict(&winner, &exporters),
            affinity_config_conflict(&winner, &exporters),
        ]
        .into_iter()
        .flatten()
        .collect(),
    })
}

fn union(exporters: &[Exporter<'_>]) -> Vec<Port> {
    let mut names = BTreeSet::new();
    let mut numbers = BTreeSet::new();
    let mut ports = Vec::new();
    for exporter in exporters {
        // A cluster's own ports do not compete with each other: several may be unnamed only in
        // malformed entries, which never come this far.
        for port in exporter.ports {
            let number = (port.protocol.transport(), port.number);
            if !names.contains(&port.name) && !numbers.contains(&number) {
                names.insert(port.name.clone());
                numbers.insert(number);
                ports.push(port.clone());
            }
        }
    }
    ports
}

fn port_conflict(winner: &Exporter<'_>, exporters: &[Exporter<'_>]) -> Option<Conflict> {
    let wanted: BTreeSet<&Port> = winner.ports.iter().collect();
    let others: Vec<_> = exporters
        .iter()
        .filter(|exporter| exporter.ports.iter().collect::<BTreeSet<_>>() != wanted)
        .map(|exporter| format!("{} has {}", exporter.cluster, list(exporter.ports)))
        .collect();
    (!others.is_empty()).then(|| Conflict {
        reason: "PortConflict",
        message: format!(
            "the clusters export different ports: {} has {}, {}; they are united, and where they collide the oldest export wins, which is {}'s",
            winner.cluster,
            list(winner.ports),
            others.join(", "),
            winner.cluster
        ),
    })
}

fn type_conflict(winner: &Exporter<'_>, exporters: &[Exporter<'_>]) -> Option<Conflict> {
    let others: Vec<_> = exporters
        .iter()
        .filter(|exporter| exporter.kind != winner.kind)
        .map(|exporter| exporter.cluster.as_str())
        .collect();
    (!others.is_empty()).then(|| Conflict {
        reason: "TypeConflict",
        message: format!(
            "{} exports it as {}, {} as {}; the oldest export wins, which is {}'s",
            winner.cluster,
            import_type(winner.kind),
            others.join(", "),
            import_type(opposite(winner.kind)),
            winner.cluster
        ),
    })
}

fn affinity_conflict(winner: &Exporter<'_>, exporters: &[Exporter<'_>]) -> Option<Conflict> {
    let others = other_affinities(winner, exporters, |affinity| {
        (affinity.as_str() != winner.affinity.as_str()).then(|| affinity.as_str().to_owned())
    })?;
    Some(Conflict {
        reason: "SessionAffinityConflict",
        message: format!(
            "clusters export different session affinities: {} has {}, {others}; the oldest export wins, which is {}'s",
            winner.cluster,
            winner.affinity.as_str(),
            winner.cluster
        ),
    })
}

fn affinity_config_conflict(winner: &Exporter<'_>, exporters: &[Exporter<'_>]) -> Option<Conflict> {
    let SessionAffinity::ClientIp {
        timeout_seconds: won,
    } = winner.affinity
    else {
        return None;
    };
    let others = other_affinities(winner, exporters, |affinity| match affinity {
        SessionAffinity::ClientIp { timeout_seconds } if timeout_seconds != won => {
            Some(format!("{timeout_seconds} s"))
        }
        SessionAffinity::ClientIp { .. } | SessionAffinity::None => None,
    })?;
    Some(Conflict {
        reason: "SessionAffinityConfigConflict",
        message: format!(
            "clusters export different timeouts of session affinity: {} has {won} s, {others}; the oldest export wins, which is {}'s",
            winner.cluster, winner.cluster
        ),
    })
}

/// Who differs from the winner, and what it has; `None` if nobody does. Session affinity is ignored for
/// headless services.
fn other_affinities(
    winner: &Exporter<'_>,
    exporters: &[Exporter<'_>],
    differs: impl Fn(SessionAffinity) -> Option<String>,
) -> Option<String> {
    if winner.kind == ServiceKind::Headless {
        return None;
    }
    let others: Vec<_> = exporters
        .iter()
        .filter(|exporter| exporter.kind == ServiceKind::Virtual)
        .filter_map(|exporter| {
            Some(format!(
                "{} {}",
                exporter.cluster,
                differs(exporter.affinity)?
            ))
        })
        .collect();
    (!others.is_empty()).then(|| others.join(", "))
}

/// The MCS API's word for a kind.
pub(super) fn import_type(kind: ServiceKind) -> &'static str {
    match kind {
        ServiceKind::Virtual => "ClusterSetIP",
        ServiceKind::Headless => "Headless",
    }
}

fn opposite(kind: ServiceKind) -> ServiceKind {
    match kind {
        ServiceKind::Virtual => ServiceKind::Headless,
        ServiceKind::Headless => ServiceKind::Virtual,
    }
}

fn list(ports: &[Port]) -> String {
    let words: Vec<_> = ports
        .iter()
        .map(|port| {
            let name = port.name.as_ref().map_or("unnamed", |name| name.as_str());
            format!("{name} {}/{}", port.number, port.protocol)
        })
        .collect();
    if words.is_empty() {
        "none".to_owned()
    } else {
        words.join(" and ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use portolan_model::Protocol;

    fn port(name: &str, number: u16, protocol: Protocol) -> Port {
        Port {
            name: (!name.is_empty()).then(|| name.parse().unwrap()),
            number,
            protocol,
        }
    }

    fn exporter<'a>(cluster: &'a ClusterName, at: u64, ports: &'a [Port]) -> Exporter<'a> {
        Exporter {
            cluster,
            exported_ms: at,
            kind: ServiceKind::Virtual,
            ports,
            affinity: SessionAffinity::None,
        }
    }

    fn reasons(merged: &Merged) -> Vec<&str> {
        merged
            .conflicts
            .iter()
            .map(|conflict| conflict.reason)
            .collect()
    }

    #[test]
    fn a_port_name_that_is_taken_is_dropped_and_a_conflict_said() {
        let (a, b) = ("a".parse().unwrap(), "b".parse().unwrap());
        let winner = [
            port("tcp", 42, Protocol::Tcp),
            port("udp", 42, Protocol::Udp),
        ];
        let loser = [port("tcp", 43, Protocol::Tcp)];
        let merged = merge(vec![exporter(&b, 2, &loser), exporter(&a, 1, &winner)]).unwrap();
        assert_eq!(merged.ports, winner);
        assert_eq!(reasons(&merged), ["PortConflict"]);
    }

    #[test]
    fn ports_that_do_not_collide_are_united() {
        let (a, b) = ("a".parse().unwrap(), "b".parse().unwrap());
        let winner = [port("tcp", 42, Protocol::Tcp)];
        let loser = [
            port("tcp2", 4242, Protocol::Tcp),
            port("tcp3", 42, Protocol::Tcp),
        ];
        let merged = merge(vec![exporter(&a, 1, &winner), exporter(&b, 2, &loser)]).unwrap();
        assert_eq!(merged.ports, [winner[0].clone(), loser[0].clone()]);
        assert_eq!(reasons(&merged), ["PortConflict"]);
    }

    #[test]
    fn equal_ports_in_another_order_are_no_conflict() {
        let (a, b) = ("a".parse().unwrap(), "b".parse().unwrap());
        let one = [port("x", 1, Protocol::Tcp), port("y", 2, Protocol::Http)];
        let two = [one[1].clone(), one[0].clone()];
        let merged = merge(vec![exporter(&a, 1, &one), exporter(&b, 1, &two)]).unwrap();
        assert_eq!(merged.conflicts, []);
        assert_eq!(merged.ports, one);
    }

    #[test]
    fn the_oldest_export_decides_the_type_and_the_name_breaks_ties() {
        let (a, b) = ("a".parse().unwrap(), "b".parse().unwrap());
        let headless = Exporter {
            kind: ServiceKind::Headless,
            ..exporter(&a, 7, &[])
        };
        let merged = merge(vec![exporter(&b, 7, &[]), headless]).unwrap();
        assert_eq!(merged.kind, ServiceKind::Headless);
        assert_eq!(reasons(&merged), ["TypeConflict"]);
        assert!(merged.conflicts[0].message.contains("Headless"));
        assert_eq!(merge(vec![]), None);
    }

    #[test]
    fn the_oldest_export_decides_the_session_affinity() {
        use ServiceKind::{Headless, Virtual};
        const NONE: SessionAffinity = SessionAffinity::None;
        let client = |timeout_seconds| SessionAffinity::ClientIp { timeout_seconds };
        let (a, b) = ("a".parse().unwrap(), "b".parse().unwrap());
        let both = |older, younger| {
            let of = |cluster, at, (kind, affinity)| Exporter {
                kind,
                affinity,
                ..exporter(cluster, at, &[])
            };
            let merged = merge(vec![of(&b, 2, younger), of(&a, 1, older)]).unwrap();
            let reasons = reasons(&merged).join(",");
            (merged.affinity, reasons)
        };
        let affinity = "SessionAffinityConflict";
        let config = "SessionAffinityConfigConflict";
        for (older, younger, won, reasons) in [
            ((Virtual, NONE), (Virtual, NONE), NONE, ""),
            ((Virtual, client(9)), (Virtual, client(9)), client(9), ""),
            (
                (Virtual, client(9)),
                (Virtual, client(8)),
                client(9),
                config,
            ),
            ((Virtual, client(9)), (Virtual, NONE), client(9), affinity),
            ((Virtual, NONE), (Virtual, client(9)), NONE, affinity),
            ((Headless, client(9)), (Headless, NONE), NONE, ""),
            (
                (Headless, client(9)),
                (Virtual, client(8)),
                NONE,
                "TypeConflict",
            ),
            (
                (Virtual, client(9)),
                (Headless, NONE),
                client(9),
                "TypeConflict",
            ),
        ] {
            assert_eq!(
                both(older, younger),
                (won, reasons.to_owned()),
                "{older:?} {younger:?}"
            );
        }
    }

    #[test]
    fn every_cluster_of_another_affinity_is_named() {
        let (a, b, c) = (
            "a".parse().unwrap(),
            "b".parse().unwrap(),
            "c".parse().unwrap(),
        );
        let of = |cluster, at, timeout_seconds| Exporter {
            affinity: SessionAffinity::ClientIp { timeout_seconds },
            ..exporter(cluster, at, &[])
        };
        let merged = merge(vec![of(&c, 3, 7), of(&a, 1, 9), exporter(&b, 2, &[])]).unwrap();
        assert_eq!(
            reasons(&merged),
            ["SessionAffinityConflict", "SessionAffinityConfigConflict"]
        );
        assert!(
            merged.conflicts[0]
                .message
                .contains("a has ClientIP, b None;")
        );
        assert!(merged.conflicts[1].message.contains("a has 9 s, c 7 s;"));
    }
}
