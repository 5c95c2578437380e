//! Which endpoint takes a call: by default the better of two, by a latency average that believes bad news
//! at once and good news slowly.

mod hash;
mod robin;
#[cfg(test)]
mod slow;

use std::time::Duration;

use portolan_model::traffic::SlowStart;

pub use hash::{HashTable, hash};
pub use robin::RoundRobin;

/// After this time an observation counts for 1/e.
pub const DECAY: Duration = Duration::from_secs(10);

/// Differences below this latency are noise.
const FLOOR_NS: f64 = 1_000.0;

/// What an endpoint costs that was never measured and has a call under way: more than any measured
/// one, so that a new endpoint gets one call, and the next ones when it has answered.
const UNMEASURED_NS: f64 = 60e9;

/// The peak-sensitive moving average of one endpoint's latency, times the calls under way.
#[derive(Debug, Clone)]
pub struct PeakEwma {
    /// `None` until the first answer.
    average_ns: Option<f64>,
    updated: Duration,
    outstanding: u32,
}

impl PeakEwma {
    /// An endpoint that nothing is known of.
    #[must_use]
    pub fn new(now: Duration) -> Self {
        Self {
            average_ns: None,
            updated: now,
            outstanding: 0,
        }
    }

    /// A call begins.
    pub fn begin(&mut self) {
        self.outstanding = self.outstanding.saturating_add(1);
    }

    /// A call that began was answered after `rtt`, and is over.
    pub fn end(&mut self, now: Duration, rtt: Duration) {
        self.abandon();
        self.observe(now, rtt);
    }

    /// A call was answered after `rtt`, and goes on: what is known of the latency must not wait for the
    /// end of a stream that may last for hours.
    pub fn observe(&mut self, now: Duration, rtt: Duration) {
        let rtt_ns = rtt.as_nanos() as f64;
        let recency = self.recency(now);
        self.average_ns = Some(match self.average_ns {
            Some(average) if average > rtt_ns => average * recency + rtt_ns * (1.0 - recency),
            Some(_) | None => rtt_ns,
        });
        self.updated = self.updated.max(now);
    }

    /// A call that began ended without telling anything of the endpoint's latency.
    pub fn abandon(&mut self) {
        self.outstanding = self.outstanding.saturating_sub(1);
    }

    /// The average, if there was an answer. What nobody asks gets faster with time, so that somebody asks
    /// again.
    #[must_use]
    pub fn latency(&self, now: Duration) -> Option<Duration> {
        let average_ns = self.average_ns? * self.recency(now);
        Some(Duration::from_nanos(average_ns as u64))
    }

    /// Calls under way.
    #[must_use]
    pub fn outstanding(&self) -> u32 {
        self.outstanding
    }

    /// What one more call would cost, in nanoseconds of expected waiting. An endpoint that is idle
    /// gets cheaper with time, so that one that was slow is tried again.
    #[must_use]
    pub fn cost(&self, now: Duration) -> f64 {
        let calls = f64::from(self.outstanding) + 1.0;
        match self.average_ns {
            Some(average) => (average * self.recency(now)).max(FLOOR_NS) * calls,
            None if self.outstanding == 0 => FLOOR_NS,
            None => UNMEASURED_NS * calls,
        }
    }

    fn recency(&self, now: Duration) -> f64 {
        let elapsed = now.saturating_sub(self.updated).as_secs_f64();
        libm::exp(-elapsed / DECAY.as_secs_f64())
    }
}

/// The weight of an endpoint that became ready `age` ago (`None`: it always was): a part of its own, that
/// grows linearly from the least share to the whole.
#[must_use]
pub fn slow_started(weight: u32, age: Option<Duration>, rule: Option<SlowStart>) -> u32 {
    let (Some(age), Some(rule)) = (age, rule) else {
        return weight;
    };
    if weight == 0 || age >= rule.window {
        return weight;
    }
    let grown = age.as_secs_f64() / rule.window.as_secs_f64();
    let part = grown.max(f64::from(rule.least_percent) / 100.0);
    ((f64::from(weight) * part).round() as u32).max(1)
}

/// One item at random, by weight.
#[must_use]
pub fn pick_any<T>(items: &[T], weight: impl Fn(&T) -> u32, random: u64) -> Option<&T> {
    let weights: smallvec::SmallVec<[u32; 16]> = items.iter().map(weight).collect();
    items.get(drawn(&weights, random))
}

/// The cheaper of two items drawn at random. Equal weights: two different ones. Otherwise each is
/// drawn in proportion to its weight, perhaps twice the same, so that equal costs give each item
/// exactly its share. Weight 0 is drawn only when every weight is 0.
#[must_use]
pub fn pick_two<T>(
    items: &[T],
    cost: impl Fn(&T) -> f64,
    weight: impl Fn(&T) -> u32,
    random: (u64, u64),
) -> Option<&T> {
    if let [only] = items {
        return Some(only);
    }
    let weights: smallvec::SmallVec<[u32; 16]> = items.iter().map(weight).collect();
    let first_weight = *weights.first()?;
    let (first, second) = if weights.iter().all(|weight| *weight == first_weight) {
        let first = below(random.0, items.len() as u64) as usize;
        let second = below(random.1, (items.len() as u64 - 1).max(1)) as usize;
        let second = second + usize::from(second >= first && items.len() > 1);
        (first, second)
    } else {
        (drawn(&weights, random.0), drawn(&weights, random.1))
    };
    let (first, second) = (items.get(first)?, items.get(second)?);
    Some(if cost(second) < cost(first) {
        second
    } else {
        first
    })
}

/// The item with the least load for its weight; among equals one at random. Weight 0 takes nothing.
#[must_use]
pub fn least_loaded<T>(
    items: &[T],
    load: impl Fn(&T) -> u32,
    weight: impl Fn(&T) -> u32,
    random: u64,
) -> Option<&T> {
    // a/b < c/d, without division: a·d < c·b.
    let ratio = |item: &T| (u64::from(load(item)) + 1, u64::from(weight(item)));
    let order = |a: (u64, u64), b: (u64, u64)| (a.0 * b.1).cmp(&(b.0 * a.1));
    let takers = || items.iter().filter(|item| weight(item) > 0);
    let best = takers().map(ratio).min_by(|a, b| order(*a, *b))?;
    let equals = || takers().filter(|item| order(ratio(item), best).is_eq());
    let chosen = below(random, equals().count() as u64);
    equals().nth(chosen as usize)
}

fn drawn(weights: &[u32], random: u64) -> usize {
    let total: u64 = weights.iter().map(|weight| u64::from(*weight)).sum();
    let mut left = below(random, total);
    for (at, weight) in weights.iter().enumerate() {
        match left.checked_sub(u64::from(*weight)) {
            Some(rest) => left = rest,
            None => return at,
        }
    }
    weights.len().saturating_sub(1)
}

/// A number below `bound` (0 for bound 0), as evenly spread as `random` is.
pub(crate) fn below(random: u64, bound: u64) -> u64 {
    ((u128::from(random) * u128::from(bound)) >> 64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MS: Duration = Duration::from_millis(1);

    fn answered(now: Duration, rtt: Duration) -> PeakEwma {
        let mut endpoint = PeakEwma::new(now);
        endpoint.begin();
        endpoint.end(now, rtt);
        endpoint
    }

    #[test]
    fn bad_news_count_at_once_and_good_news_slowly() {
        let mut endpoint = answered(MS, MS);
        endpoint.end(2 * MS, 100 * MS);
        assert!((endpoint.cost(2 * MS) / 1e6 - 100.0).abs() < 0.1);
        endpoint.end(3 * MS, MS);
        assert!(endpoint.cost(3 * MS) / 1e6 > 99.0);
        let later = 3 * MS + DECAY;
        endpoint.end(later, MS);
        let expected = 100.0 * (-1.0_f64).exp() + (1.0 - (-1.0_f64).exp());
        assert!((endpoint.cost(later) / 1e6 - expected).abs() < 0.1);
    }

    #[test]
    fn calls_under_way_make_an_endpoint_dearer() {
        let mut endpoint = answered(MS, MS);
        let idle = endpoint.cost(MS);
        endpoint.begin();
        endpoint.begin();
        assert!((endpoint.cost(MS) - 3.0 * idle).abs() < 1.0);
        endpoint.abandon();
        endpoint.abandon();
        endpoint.abandon();
        assert_eq!(endpoint.outstanding(), 0);
    }

    #[test]
    fn a_new_endpoint_gets_one_call_and_then_waits_for_its_answer() {
        let known = answered(MS, 50 * MS);
        let mut new = PeakEwma::new(MS);
        assert!(new.cost(MS) < known.cost(MS));
        new.begin();
        assert!(new.cost(MS) > known.cost(MS) * 100.0);
    }

    #[test]
    fn a_stream_that_goes_on_does_not_keep_others_away() {
        let known = answered(MS, 50 * MS);
        let mut new = PeakEwma::new(MS);
        new.begin();
        new.observe(2 * MS, MS);
        assert_eq!(new.outstanding(), 1);
        assert!(new.cost(2 * MS) < known.cost(2 * MS));
    }

    /// How often each item is chosen when `random` runs evenly over a grid.
    fn shares(costs: &[f64], weights: &[u32]) -> Vec<f64> {
        const GRID: u64 = 300;
        let items: Vec<usize> = (0..costs.len()).collect();
        let mut counts = vec![0_u32; costs.len()];
        let at = |step: u64| ((u128::from(step) << 64) / u128::from(GRID)) as u64 + 1;
        for first in 0..GRID {
            for second in 0..GRID {
                let random = (at(first), at(second));
                let chosen = pick_two(&items, |i| costs[*i], |i| weights[*i], random);
                counts[*chosen.unwrap()] += 1;
            }
        }
        let all = (GRID * GRID) as f64;
        counts
            .into_iter()
            .map(|count| f64::from(count) / all)
            .collect()
    }

    #[test]
    fn equal_costs_give_each_its_weight() {
        let found = shares(&[1.0, 1.0, 1.0], &[100, 200, 300]);
        for (share, expected) in found.iter().zip([1.0 / 6.0, 2.0 / 6.0, 3.0 / 6.0]) {
            assert!((share - expected).abs() < 0.01, "{found:?}");
        }
    }

    #[test]
    fn the_dearest_of_equals_gets_nothing_and_weight_zero_neither() {
        assert_eq!(shares(&[1.0, 9.0], &[100, 100]), [1.0, 0.0]);
        assert!(shares(&[9.0, 1.0, 1.0, 1.0], &[5; 4])[0] < 0.001);
        assert_eq!(shares(&[9.0, 1.0], &[100, 0]), [1.0, 0.0]);
        assert_eq!(shares(&[9.0, 1.0], &[0, 0]), [0.0, 1.0]);
    }

    #[test]
    fn a_new_endpoint_s_weight_grows() {
        let s = Duration::from_secs;
        let rule = Some(SlowStart {
            window: s(10),
            least_percent: 10,
        });
        for (age, expected) in [
            (None, 100),
            (Some(s(0)), 10),
            (Some(s(1)), 10),
            (Some(s(5)), 50),
            (Some(s(10)), 100),
        ] {
            assert_eq!(slow_started(100, age, rule), expected, "{age:?}");
        }
        assert_eq!(slow_started(1, Some(s(0)), rule), 1);
        assert_eq!(slow_started(0, Some(s(0)), rule), 0);
        assert_eq!(slow_started(100, Some(s(0)), None), 100);
    }

    #[test]
    fn any_is_any_by_weight() {
        let count = |wanted: usize| {
            let grid = (0..1_000_u64).map(|step| step * (u64::MAX / 1_000));
            let picked =
                grid.map(|random| *pick_any(&[0, 1, 2], |at| [1, 3, 0][*at], random).unwrap());
            picked.filter(|at| *at == wanted).count()
        };
        assert_eq!([count(0), count(1), count(2)], [251, 749, 0]);
        assert_eq!(pick_any(&[0_u8; 0], |_| 1, 7), None);
    }

    #[test]
    fn picking_from_few() {
        let none: [u8; 0] = [];
        assert_eq!(pick_two(&none, |_| 0.0, |_| 1, (5, 5)), None);
        assert_eq!(
            pick_two(&[7], |_| 0.0, |_| 1, (u64::MAX, u64::MAX)),
            Some(&7)
        );
        assert_eq!(least_loaded(&none, |_| 0, |_| 1, 0), None);
        assert_eq!(least_loaded(&[7], |_| 0, |_| 0, 0), None);
    }

    proptest! {
        /// Reference: two different items by their costs.
        #[test]
        fn the_better_of_two_is_never_the_worst(
            costs in prop::collection::vec(0_u32..100, 2..9), random: (u64, u64),
        ) {
            let chosen = *pick_two(&costs, |cost| f64::from(*cost), |_| 1, random).unwrap();
            let mut sorted = costs;
            sorted.sort_unstable();
            prop_assert!(chosen <= sorted[sorted.len() - 2]);
        }

        /// Reference: the least quotient, by division.
        #[test]
        fn the_least_loaded_has_the_least_quotient(
            items in prop::collection::vec((0_u32..50, 0_u32..5), 1..9), random: u64,
        ) {
            let quotient = |item: &(u32, u32)| (f64::from(item.0) + 1.0) / f64::from(item.1);
            let least = items.iter().map(quotient).fold(f64::INFINITY, f64::min);
            match least_loaded(&items, |item| item.0, |item| item.1, random) {
                Some(chosen) => prop_assert!((quotient(chosen) - least).abs() < 1e-12),
                None => prop_assert!(items.iter().all(|item| item.1 == 0)),
            }
        }
    }
}
