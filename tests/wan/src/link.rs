//! One direction between two sites: when does a packet arrive, if it does?

use std::time::Duration;

use rand::{Rng, RngExt};
use serde::{Deserialize, Serialize};

use crate::conditions::Conditions;
use crate::loss::Losing;

/// What became of a direction's packets so far.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Counters {
    pub delivered: u64,
    pub delivered_bytes: u64,
    /// Lost on purpose.
    pub lost: u64,
    /// Dropped at the end of a full queue.
    pub overflowed: u64,
    /// Swallowed by a cut.
    pub cut: u64,
    /// Fell back behind younger packets.
    pub reordered: u64,
}

/// One direction between two sites. Moments are times since the emulator's start.
#[derive(Debug, Default)]
pub struct Link {
    pub(crate) conditions: Conditions,
    pub(crate) counters: Counters,
    losing: Losing,
    /// When the last accepted packet has been put on the wire.
    wire_free: Duration,
    /// When the last packet that kept its order arrives.
    last: Duration,
}

impl Link {
    /// When a packet of `bytes` that was sent at `now` arrives; `None`: never.
    pub(crate) fn send(
        &mut self,
        bytes: usize,
        now: Duration,
        random: &mut impl Rng,
    ) -> Option<Duration> {
        let conditions = self.conditions;
        if conditions.cut {
            self.counters.cut += 1;
            return None;
        }
        let Some(sent) = self.serialise(bytes, now) else {
            self.counters.overflowed += 1;
            return None;
        };
        // A lost packet has used the wire like any other.
        if self.losing.next(conditions.loss, random) {
            self.counters.lost += 1;
            return None;
        }
        let earliest = sent + conditions.delay.saturating_sub(conditions.jitter);
        let spread = 2.0 * conditions.jitter.min(conditions.delay).as_secs_f64();
        let spread = if spread > 0.0 {
            Duration::from_secs_f64(spread * random.random::<f64>())
        } else {
            Duration::ZERO
        };
        let arrival = (earliest + spread).max(self.last);
        if conditions.reorder > 0.0 && random.random_bool(conditions.reorder) {
            self.counters.reordered += 1;
            return Some(arrival + conditions.reorder_lag);
        }
        self.last = arrival;
        Some(arrival)
    }

    /// A packet's last moment on the way; whether it gets out.
    pub(crate) fn arrive(&mut self, bytes: usize) -> bool {
        if self.conditions.cut {
            self.counters.cut += 1;
            return false;
        }
        self.counters.delivered += 1;
        self.counters.delivered_bytes += bytes as u64;
        true
    }

    /// When the packet is on the wire, behind those that wait; `None`: the queue is full.
    fn serialise(&mut self, bytes: usize, now: Duration) -> Option<Duration> {
        let Some(rate) = self.conditions.rate.filter(|rate| *rate > 0) else {
            self.wire_free = now;
            return Some(now);
        };
        let begin = self.wire_free.max(now);
        let waiting = (begin - now).as_secs_f64() * rate as f64 / 8.0;
        if waiting + bytes as f64 > self.conditions.queue as f64 {
            return None;
        }
        self.wire_free = begin + Duration::from_secs_f64(bytes as f64 * 8.0 / rate as f64);
        Some(self.wire_free)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    fn link(text: &str) -> Link {
        Link {
            conditions: text.parse().unwrap(),
            ..Link::default()
        }
    }

    fn random() -> SmallRng {
        SmallRng::seed_from_u64(7)
    }

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn delay_is_added_exactly() {
        let mut link = link("delay=30ms");
        assert_eq!(link.send(100, 5 * MS, &mut random()), Some(35 * MS));
    }

    #[test]
    fn the_rate_spaces_packets_and_the_queue_drops_its_tail() {
        // 1 Mbit/s: 1,250 bytes take 10 ms; five of them fit into the queue.
        let mut link = link("rate=1mbit queue=6250");
        let mut random = random();
        let arrivals: Vec<_> = (0..7).map(|_| link.send(1_250, MS, &mut random)).collect();
        let expected: Vec<_> = (1..=5)
            .map(|n| Some((1 + 10 * n) * MS))
            .chain([None, None])
            .collect();
        assert_eq!(arrivals, expected);
        assert_eq!(link.counters.overflowed, 2);
        assert_eq!(
            link.send(1_250, 11 * MS, &mut random),
            Some(61 * MS),
            "one has left"
        );
    }

    #[test]
    fn throughput_is_the_rate() {
        let mut link = link("rate=10mbit queue=64k delay=20ms");
        let mut random = random();
        // Twice as much as fits, for ten seconds.
        let mut bytes = 0.0;
        for step in 0..16_667 {
            let now = Duration::from_secs_f64(f64::from(step) * 0.0006);
            if link.send(1_500, now, &mut random).is_some() {
                bytes += 1_500.0;
            }
        }
        let rate: f64 = bytes * 8.0 / 10.0 / 1e6;
        assert!((rate - 10.0).abs() < 0.2, "{rate} Mbit/s");
    }

    #[test]
    fn a_cut_swallows_what_comes_and_what_is_under_way() {
        let mut link = link("");
        let mut random = random();
        assert!(link.send(1, MS, &mut random).is_some());
        link.conditions.cut = true;
        assert!(!link.arrive(1));
        assert!(link.send(1, MS, &mut random).is_none());
        link.conditions.cut = false;
        assert!(link.send(1, MS, &mut random).is_some() && link.arrive(1));
        assert_eq!((link.counters.cut, link.counters.delivered), (2, 1));
    }

    #[test]
    fn reordered_packets_are_overtaken_and_others_are_not() {
        let mut link = link("delay=10ms reorder=10%/5ms");
        let mut random = random();
        let mut arrivals: Vec<(Duration, u32)> = (0..10_000)
            .filter_map(|n| Some((link.send(1, MS * n, &mut random)?, n)))
            .collect();
        let late = arrivals
            .iter()
            .filter(|(at, n)| *at == MS * (n + 15))
            .count();
        let due = arrivals
            .iter()
            .filter(|(at, n)| *at == MS * (n + 10))
            .count();
        assert_eq!(late + due, 10_000);
        assert!((900..1_100).contains(&late), "{late}");
        arrivals.sort();
        assert!(!arrivals.is_sorted_by_key(|(_, n)| *n));
    }

    proptest! {
        #[test]
        fn without_reordering_nothing_overtakes_and_nothing_is_early(
            delays in prop::collection::vec((0_u64..50, 0_u64..20, 0_u64..3), 1..200),
            rate in prop::option::of(100_000_u64..10_000_000),
            seed: u64,
        ) {
            let mut random = SmallRng::seed_from_u64(seed);
            let mut link = Link::default();
            link.conditions.rate = rate;
            let (mut now, mut before) = (Duration::ZERO, Duration::ZERO);
            for (delay, jitter, step) in delays {
                now += MS * u32::try_from(step).unwrap();
                link.conditions.delay = Duration::from_millis(delay);
                link.conditions.jitter = Duration::from_millis(jitter);
                if let Some(at) = link.send(500, now, &mut random) {
                    prop_assert!(at >= before);
                    prop_assert!(at >= now + Duration::from_millis(delay.saturating_sub(jitter)));
                    before = at;
                }
            }
        }
    }
}
