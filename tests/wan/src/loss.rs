//! Which packets are lost.

use std::fmt;

use rand::{Rng, RngExt};

/// How a direction loses packets.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Loss {
    None,
    /// Each packet by itself, with this probability.
    Random(f64),
    /// Gilbert and Elliott's model: a good state that loses nothing and a bad one that loses everything.
    Bursty {
        /// The probability to turn bad, per packet.
        begin: f64,
        /// The probability to turn good again, per packet.
        end: f64,
    },
}

impl Loss {
    /// Loses each packet with the probability `mean`.
    pub fn random(mean: f64) -> Self {
        if mean > 0.0 {
            Self::Random(mean)
        } else {
            Self::None
        }
    }

    /// Loses the share `mean` of all packets, in bursts of `burst` packets on average (at least 1).
    pub fn bursty(mean: f64, burst: f64) -> Self {
        if mean <= 0.0 {
            return Self::None;
        }
        if mean >= 1.0 {
            return Self::Random(1.0);
        }
        let end = 1.0 / burst.max(1.0);
        Self::Bursty {
            begin: (end * mean / (1.0 - mean)).min(1.0),
            end,
        }
    }
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Shares that were read from percents come back without their rounding.
        let percent = |share: f64| (share * 1e8).round() / 1e6;
        match self {
            Self::None => write!(f, "0%"),
            Self::Random(mean) => write!(f, "{}%", percent(*mean)),
            Self::Bursty { begin, end } => {
                let burst = (1e6 / end).round() / 1e6;
                write!(f, "{}%/{burst}", percent(begin / (begin + end)))
            }
        }
    }
}

/// Where a direction's loss stands.
#[derive(Debug, Default)]
pub(crate) struct Losing {
    bad: bool,
}

impl Losing {
    /// Whether the next packet is lost.
    pub(crate) fn next(&mut self, loss: Loss, random: &mut impl Rng) -> bool {
        match loss {
            Loss::None => false,
            Loss::Random(mean) => random.random_bool(mean),
            Loss::Bursty { begin, end } => {
                let turn = if self.bad { end } else { begin };
                if random.random_bool(turn) {
                    self.bad = !self.bad;
                }
                self.bad
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    const PACKETS: u32 = 200_000;

    /// The share that was lost, and the mean length of bursts.
    fn measure(loss: Loss, seed: u64) -> (f64, f64) {
        let mut random = SmallRng::seed_from_u64(seed);
        let mut losing = Losing::default();
        let (mut lost, mut bursts, mut before) = (0_u32, 0_u32, false);
        for _ in 0..PACKETS {
            let now = losing.next(loss, &mut random);
            lost += u32::from(now);
            bursts += u32::from(now && !before);
            before = now;
        }
        let share = f64::from(lost) / f64::from(PACKETS);
        (share, f64::from(lost) / f64::from(bursts.max(1)))
    }

    #[test]
    fn random_loss_is_within_four_standard_errors() {
        for mean in [0.001, 0.01, 0.02, 0.05, 0.5] {
            for seed in 0..3 {
                let (share, _) = measure(Loss::random(mean), seed);
                let error = (mean * (1.0 - mean) / f64::from(PACKETS)).sqrt();
                assert!((share - mean).abs() < 4.0 * error, "{mean}: {share}");
            }
        }
    }

    #[test]
    fn bursty_loss_has_its_mean_and_its_bursts() {
        for (mean, burst) in [(0.01, 5.0), (0.02, 10.0), (0.05, 2.0)] {
            for seed in 0..3 {
                let (share, length) = measure(Loss::bursty(mean, burst), seed);
                assert!((share / mean - 1.0).abs() < 0.15, "{mean}: {share}");
                assert!((length / burst - 1.0).abs() < 0.10, "{burst}: {length}");
            }
        }
    }

    #[test]
    fn the_ends_are_exact() {
        assert!(measure(Loss::random(0.0), 1).0 <= 0.0);
        assert!(measure(Loss::bursty(0.0, 5.0), 1).0 <= 0.0);
        assert!(measure(Loss::bursty(1.0, 5.0), 1).0 >= 1.0);
    }
}
