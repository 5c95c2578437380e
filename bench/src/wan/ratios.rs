//! What is claimed: each of Portolan's paths against each other one, at each loss.

use serde::Serialize;

use super::{Lossy, PathResults};
use crate::figures::Ratio;

/// One path of ours against one of the others, at one loss.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Ratios {
    /// Percent.
    pub(super) loss: f64,
    pub(super) path: &'static str,
    pub(super) against: &'static str,
    pub(super) p50: Option<Ratio>,
    pub(super) p99: Option<Ratio>,
    pub(super) up: Option<Ratio>,
    pub(super) down: Option<Ratio>,
}

/// Compares all.
pub(super) fn all(paths: &[PathResults]) -> Vec<Ratios> {
    let ours = |path: &&PathResults| path.name.starts_with("portolan");
    let losses = paths.first().map_or(0, |path| path.lossy.len());
    let mut all = Vec::new();
    for index in 0..losses {
        for own in paths.iter().filter(ours) {
            let others = paths.iter().filter(|path| !ours(path));
            all.extend(others.map(|other| Ratios::of((own, other), index)));
        }
    }
    all
}

impl Ratios {
    fn of((own, other): (&PathResults, &PathResults), index: usize) -> Self {
        let (ours, others) = (&own.lossy[index], &other.lossy[index]);
        let ratio = |of: fn(&Lossy) -> Vec<f64>| Ratio::of(&of(ours), &of(others));
        Self {
            loss: ours.loss,
            path: own.name,
            against: other.name,
            p50: ratio(|at| at.p50.clone()),
            p99: ratio(|at| at.p99.clone()),
            up: ratio(|at| repeats(&at.up)),
            down: ratio(|at| repeats(&at.down)),
        }
    }
}

/// One figure for each repeat, so that figures of the same repeat stay together.
fn repeats(rates: &[Option<f64>]) -> Vec<f64> {
    rates.iter().map(|it| it.unwrap_or(f64::NAN)).collect()
}
