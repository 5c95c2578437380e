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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn nothing_positive_means_nobody() {
        assert_eq!(pick(&[], 0.5), None);
        assert_eq!(pick(&[0.0, -1.0, f64::NAN], 0.5), None);
        assert_eq!(pick(&[0.0, 1.0], 0.0), Some(1));
        assert_eq!(pick(&[1.0, 0.0], 1.0), Some(0));
    }

    proptest! {
        /// Reference: write every item down as often as its weight says, and point at the list.
        #[test]
        fn shares_are_exact(weights in prop::collection::vec(0_u8..20, 1..8)) {
            let list: Vec<usize> = weights
                .iter()
                .enumerate()
                .flat_map(|(at, weight)| std::iter::repeat_n(at, usize::from(*weight)))
                .collect();
            let real: Vec<f64> = weights.iter().map(|weight| f64::from(*weight)).collect();
            for (at, expected) in list.iter().enumerate() {
                let random = (at as f64 + 0.5) / list.len() as f64;
                prop_assert_eq!(pick(&real, random), Some(*expected));
            }
        }
    }
}
