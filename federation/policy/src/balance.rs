//! Which endpoint takes a call: the better of two, by a latency average that believes bad news at
//! once and good news slowly.

use std::time::Duration;

/// After this time an observation counts for 1/e.
pub const DECAY: Duration = Duration::from_secs(10);

/// Differences below this latency are noise.
const FLOOR_NS: f64 = 1_000.0;

/// What an endpoint costs that was never measured and has a call under way: more than any measured one, so
/// that a new endpoint gets one call, and the next ones when it has answered.
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

    /// A call that began was answered after `rtt`.
    pub fn end(&mut self, now: Duration, rtt: Duration) {
        self.abandon();
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
        (-elapsed / DECAY.as_secs_f64()).exp()
    }
}

/// The cheaper of two items drawn at random. Equal weights: two different ones. Otherwise each is drawn in proportion to its
/// weight, perhaps twice the same, so that equal costs give each item exactly its share. Weight 0 is drawn only when
/// every weight is 0.
#[must_use]
pub fn pick_two<T>(
    items: &[T],
    cost: impl Fn(&T) -> f64,
    weight: impl Fn(&T) -> u32,
    random: (u64, u64),
) -> Option<&T> {
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
fn below(random: u64, bound: u64) -> u64 {
    ((u128::from(random) * u128::from(bound)) >> 64) as u64
}
