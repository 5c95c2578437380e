//! Weighted choice.

/// The position that `random`, in `[0, 1)`, falls on when the line is divided in proportion to
/// `weights`. Weights that are not positive are never chosen; `None` when no weight is positive.
#[must_use]
pub fn pick(weights: &[f64], random: f64) -> Option<usize> {
    let usable = |weight: f64| weight.is_finite() && weight > 0.0;
    let positive = || {
        weights
            .iter()
            .copied()
            .enumerate()
            .filter(|(_, w)| usable(*w))
    };
    let total: f64 = positive().map(|(_, weight)| weight).sum();
    let mut left = random.clamp(0.0, 1.0) * total;
    for (at, weight) in positive() {
        if left < weight {
            return Some(at);
        }
        left -= weight;
    }
    positive().next_back().map(|(at, _)| at)
}
