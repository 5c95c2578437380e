//! What is claimed: each of Portolan's paths against each peer's of the same shape.

use serde::Serialize;

use super::{Pace, PathResults};
use crate::figures::Ratio;
use crate::subjects::direct;

/// Which of a rate's latencies are compared.
const P50: usize = 0;
const P99: usize = 2;

/// One path of ours against one of the peers'.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Ratios {
    pub(crate) path: &'static str,
    pub(crate) against: &'static str,
    /// CPU of all proxies for a request.
    pub(crate) cpu: Option<Ratio>,
    pub(crate) throughput: Option<Ratio>,
    /// At each rate.
    pub(crate) added: Vec<AddedRatios>,
    pub(crate) up: Option<Ratio>,
    pub(crate) down: Option<Ratio>,
}

/// What is added to the direct path's latency at one rate.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct AddedRatios {
    #[serde(flatten)]
    pub(crate) pace: Pace,
    pub(crate) p50: Option<Ratio>,
    pub(crate) p99: Option<Ratio>,
}

/// Compares all that have the same shape.
pub(super) fn all(paths: &[PathResults]) -> Vec<Ratios> {
    let ours = |path: &&PathResults| path.name.starts_with("portolan");
    let gateways = |path: &PathResults| path.name.contains("gateways");
    let mut all = Vec::new();
    for own in paths.iter().filter(ours) {
        let peers = paths.iter().filter(|path| {
            !ours(path) && path.name != direct::NAME && gateways(path) == gateways(own)
        });
        all.extend(peers.map(|peer| Ratios::of(paths, own, peer)));
    }
    all
}

impl Ratios {
    fn of(paths: &[PathResults], own: &PathResults, peer: &PathResults) -> Self {
        let added = own.fixed.iter().enumerate().map(|(index, fixed)| {
            let added = |path, at| added(paths, path, index, at);
            let ratio = |at| Ratio::of(&added(own, at), &added(peer, at));
            AddedRatios {
                pace: fixed.pace,
                p50: ratio(P50),
                p99: ratio(P99),
            }
        });
        Self {
            path: own.name,
            against: peer.name,
            cpu: Ratio::of(&own.cpu(), &peer.cpu()),
            throughput: Ratio::of(&own.throughput, &peer.throughput),
            added: added.collect(),
            up: Ratio::of(&own.up, &peer.up),
            down: Ratio::of(&own.down, &peer.down),
        }
    }
}

/// What a path adds to the direct one's latency in each repeat; of the direct one itself, all of it.
pub(super) fn added(paths: &[PathResults], path: &PathResults, rate: usize, at: usize) -> Vec<f64> {
    let of = |path: &PathResults| -> Vec<f64> {
        let fixed = path.fixed.get(rate);
        let repeats = fixed.iter().flat_map(|fixed| &fixed.latency);
        repeats.map(|latency| latency[at]).collect()
    };
    match paths.iter().find(|it| it.name == direct::NAME) {
        Some(direct) if path.name != direct::NAME => {
            let repeats = of(path).into_iter().zip(of(direct));
            repeats.map(|(all, direct)| all - direct).collect()
        }
        Some(_) | None => of(path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::path::FixedRate;

    fn path(name: &'static str, latency: &[f64]) -> PathResults {
        PathResults {
            name,
            throughput: Vec::new(),
            full_latency: Vec::new(),
            fixed: vec![FixedRate {
                pace: Pace {
                    rate: 1_000,
                    awake: false,
                },
                latency: latency.iter().map(|it| [*it; 4]).collect(),
            }],
            up: Vec::new(),
            down: Vec::new(),
            proxies: Vec::new(),
        }
    }

    #[test]
    fn the_direct_path_of_the_same_repeat_is_subtracted() {
        let paths = [
            path("direct", &[100.0, 900.0]),
            path("portolan", &[150.0, 950.0]),
            path("envoy", &[200.0, 1_000.0]),
        ];
        assert_eq!(added(&paths, &paths[1], 0, P50), [50.0, 50.0]);
        assert_eq!(added(&paths, &paths[0], 0, P50), [100.0, 900.0]);
        let ratio = all(&paths)[0].added[0].p50.clone().unwrap();
        assert_eq!(ratio.to_string(), "0.50 (0.50–0.50)");
    }

    #[test]
    fn only_paths_of_the_same_shape_are_compared() {
        let paths = [
            "direct",
            "portolan",
            "portolan gateways",
            "envoy",
            "envoy gateways",
        ];
        let pairs: Vec<_> = all(&paths.map(|name| path(name, &[])))
            .iter()
            .map(|ratios| (ratios.path, ratios.against))
            .collect();
        assert_eq!(
            pairs,
            [
                ("portolan", "envoy"),
                ("portolan gateways", "envoy gateways")
            ]
        );
    }
}
