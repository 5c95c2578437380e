//! What an endpoint gets that is slow, beside nine that are not: a simulation of calls and their answers.

use std::time::Duration;

use proptest::prelude::*;

use super::{PeakEwma, pick_two};

const ENDPOINTS: usize = 10;
/// The slow one.
const SLOW: usize = 3;
/// How long the others take for an answer.
const FAST: Duration = Duration::from_millis(10);

/// What becomes of calls at a steady rate.
struct Load {
    per_second: u32,
    seconds: u32,
    /// How many times as long the slow one takes.
    slowness: u32,
    seed: u64,
}

impl Load {
    /// How many calls each endpoint got. Answers vary by half: 5 to 15 ms where 10 are the mean.
    fn run(&self) -> [u32; ENDPOINTS] {
        let mut state = self.seed;
        let mut random = || {
            // SplitMix64.
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            mixed ^ (mixed >> 31)
        };
        let positions: [usize; ENDPOINTS] = std::array::from_fn(|at| at);
        let mut endpoints = vec![PeakEwma::new(Duration::ZERO); ENDPOINTS];
        let mut under_way: Vec<(Duration, usize, Duration)> = Vec::new();
        let mut counts = [0; ENDPOINTS];
        for number in 0..self.per_second * self.seconds {
            let now = Duration::from_secs(number.into()) / self.per_second;
            under_way.retain(|(ends, at, took)| {
                if *ends <= now {
                    endpoints[*at].end(*ends, *took);
                }
                *ends > now
            });
            let cost = |at: &usize| endpoints[*at].cost(now);
            let chosen = *pick_two(&positions, cost, |_| 100, (random(), random())).unwrap();
            endpoints[chosen].begin();
            counts[chosen] += 1;
            let mean = FAST * if chosen == SLOW { self.slowness } else { 1 };
            let took = mean / 2 + mean.mul_f64((random() >> 11) as f64 / (1_u64 << 53) as f64);
            under_way.push((now + took, chosen, took));
        }
        counts
    }

    /// What an endpoint gets of a tenth of all calls.
    fn share(&self, counts: [u32; ENDPOINTS], at: usize) -> f64 {
        let fair = f64::from(self.per_second * self.seconds) / ENDPOINTS as f64;
        f64::from(counts[at]) / fair
    }
}

#[test]
fn how_much_slower_decides_how_much_less() {
    for (per_second, slowness, most) in [
        (100, 10, 0.1),
        (1_000, 10, 0.1),
        (3_000, 20, 0.1),
        (1_000, 3, 0.34),
    ] {
        let load = Load {
            per_second,
            seconds: 60,
            slowness,
            seed: 1,
        };
        let share = load.share(load.run(), SLOW);
        assert!(
            share <= most,
            "{per_second} a second, {slowness} times as slow: {share}"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// It is not forgotten either: somebody looks whether it is still slow.
    #[test]
    fn one_slow_endpoint_of_ten_gets_at_most_a_tenth_of_its_share(
        per_second in 50_u32..2_000, slowness in 10_u32..=40, seed: u64,
    ) {
        let load = Load { per_second, seconds: 40, slowness, seed };
        let counts = load.run();
        let share = load.share(counts, SLOW);
        prop_assert!(share <= 0.1, "{share}: {counts:?}");
        prop_assert!(counts[SLOW] > 0, "{counts:?}");
        for at in (0..ENDPOINTS).filter(|at| *at != SLOW) {
            let share = load.share(counts, at);
            prop_assert!((0.7..1.6).contains(&share), "{at}: {share}: {counts:?}");
        }
    }
}
