//! Choosing by a key: the same key goes to the same endpoint, from every proxy, as long as that is there.

/// Points on the ring for an endpoint of average weight (ketama's number), and for all together.
const POINTS_EACH: u64 = 160;
const POINTS_MAX: u64 = 65_536;
/// Slots of a Maglev table: a prime, far above the number of endpoints (Envoy's).
const SLOTS: u64 = 65_537;
/// How often a Maglev lookup tries another slot before it takes the next endpoint that may be used.
const REHASHES_MAX: u64 = 32;

/// A table for one set of endpoints. It names them by their position in the list that it was made from.
#[derive(Debug, Clone)]
pub enum HashTable {
    /// Points in the order of their hashes, each with its endpoint (ketama).
    Ring(Vec<(u64, u32)>),
    /// Slots, each with its endpoint (Maglev).
    Maglev(Vec<u32>),
}

impl HashTable {
    /// A ring of endpoints by name and weight. When one leaves, only its keys move.
    #[must_use]
    pub fn ring(members: &[(String, u32)]) -> Self {
        let total: u64 = members.iter().map(|(_, weight)| u64::from(*weight)).sum();
        let weighty = members.iter().filter(|(_, weight)| *weight > 0).count() as u64;
        let all = (weighty * POINTS_EACH).min(POINTS_MAX);
        let mut points = Vec::new();
        for (at, (name, weight)) in (0_u32..).zip(members) {
            let wanted = (all * u64::from(*weight)).checked_div(total).unwrap_or(0);
            let count = if *weight > 0 { wanted.max(1) } else { 0 };
            let own = hash(name.as_bytes());
            points.extend((0..count).map(|number| (mixed(own ^ mixed(number + 1)), at)));
        }
        points.sort_unstable();
        Self::Ring(points)
    }

    /// A Maglev table of endpoints by name and weight: each fills slots in an order of its own, in turn. More
    /// even than a ring, and when an endpoint leaves a few keys of others move too.
    #[must_use]
    pub fn maglev(members: &[(String, u32)]) -> Self {
        let heaviest = members.iter().map(|(_, weight)| *weight).max().unwrap_or(0);
        let mut table = vec![u32::MAX; SLOTS as usize];
        if heaviest == 0 {
            return Self::Maglev(Vec::new());
        }
        let mut turns: Vec<Turn> = members
            .iter()
            .map(|(name, weight)| Turn::new(name, *weight))
            .collect();
        let mut filled = 0;
        while filled < SLOTS {
            for (at, turn) in (0_u32..).zip(&mut turns) {
                turn.credit += u64::from(turn.weight);
                if turn.credit < u64::from(heaviest) || filled == SLOTS {
                    continue;
                }
                turn.credit -= u64::from(heaviest);
                let mut slot = turn.next();
                while table[slot] != u32::MAX {
                    slot = turn.next();
                }
                table[slot] = at;
                filled += 1;
            }
        }
        Self::Maglev(table)
    }

    /// The endpoint for a key's hash, the next one if it may not be used; `None` if none may.
    #[must_use]
    pub fn choose(&self, key: u64, usable: impl Fn(usize) -> bool) -> Option<usize> {
        match self {
            Self::Ring(points) => {
                let from = points.partition_point(|(point, _)| *point < key);
                let (before, after) = points.split_at(from);
                let mut way = after.iter().chain(before).map(|(_, at)| *at as usize);
                way.find(|at| usable(*at))
            }
            Self::Maglev(table) if table.is_empty() => None,
            Self::Maglev(table) => {
                let slot = |hash: u64| table[(hash % SLOTS) as usize] as usize;
                let others = (1..=REHASHES_MAX).map(|number| mixed(key ^ mixed(number)));
                let mut ways = std::iter::once(key).chain(others).map(slot);
                let from = (key % SLOTS) as usize;
                let (before, after) = table.split_at(from);
                ways.find(|at| usable(*at)).or_else(|| {
                    let mut way = after.iter().chain(before).map(|at| *at as usize);
                    way.find(|at| usable(*at))
                })
            }
        }
    }
}

/// The order in which one endpoint takes slots.
struct Turn {
    weight: u32,
    credit: u64,
    at: u64,
    skip: u64,
}

impl Turn {
    fn new(name: &str, weight: u32) -> Self {
        let own = hash(name.as_bytes());
        Self {
            weight,
            credit: 0,
            at: own % SLOTS,
            skip: mixed(own) % (SLOTS - 1) + 1,
        }
    }

    fn next(&mut self) -> usize {
        let slot = self.at;
        self.at = (self.at + self.skip) % SLOTS;
        slot as usize
    }
}

/// A hash that is the same in every process and version: keys must not move when proxies are renewed
/// (FNV-1a, then mixed, since its upper bits are weak).
#[must_use]
pub fn hash(bytes: &[u8]) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    mixed(bytes.iter().fold(0xcbf2_9ce4_8422_2325, step))
}

/// Spreads over all bits (the finaliser of SplitMix64).
fn mixed(mut bits: u64) -> u64 {
    bits ^= bits >> 30;
    bits = bits.wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits ^= bits >> 27;
    bits = bits.wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KEYS: u64 = 20_000;

    fn members(weights: &[u32]) -> Vec<(String, u32)> {
        let named = weights.iter().enumerate();
        named
            .map(|(at, weight)| (format!("shop/orders-{at}"), *weight))
            .collect()
    }

    fn both(members: &[(String, u32)]) -> [HashTable; 2] {
        [HashTable::ring(members), HashTable::maglev(members)]
    }

    fn key(number: u64) -> u64 {
        hash(format!("user-{number}").as_bytes())
    }

    #[test]
    fn each_endpoint_gets_its_weight_of_the_keys() {
        let weights = [100, 100, 200, 0, 100];
        // A ring of 160 points each is only so even.
        for (table, slack) in both(&members(&weights)).iter().zip([0.25, 0.05]) {
            let mut counts = [0.0; 5];
            for number in 0..KEYS {
                counts[table.choose(key(number), |_| true).unwrap()] += 1.0;
            }
            for (count, weight) in counts.iter().zip(weights) {
                let expected = KEYS as f64 * f64::from(weight) / 500.0;
                assert!((count - expected).abs() <= expected * slack, "{counts:?}");
            }
        }
    }

    #[test]
    fn when_one_of_ten_leaves_few_keys_of_others_move() {
        let all = members(&[100; 10]);
        let fewer: Vec<_> = all[..9].to_vec();
        for (with, without, moved_max) in [
            (HashTable::ring(&all), HashTable::ring(&fewer), 0),
            (
                HashTable::maglev(&all),
                HashTable::maglev(&fewer),
                KEYS / 20,
            ),
        ] {
            let moved = (0..KEYS).filter(|number| {
                let before = with.choose(key(*number), |_| true);
                before != Some(9) && before != without.choose(key(*number), |_| true)
            });
            let moved = moved.count() as u64;
            assert!(moved <= moved_max, "{moved}");
        }
    }

    #[test]
    fn the_order_in_which_endpoints_are_listed_does_not_move_ring_keys() {
        let forwards = members(&[100; 7]);
        let backwards: Vec<_> = forwards.iter().rev().cloned().collect();
        let (one, other) = (HashTable::ring(&forwards), HashTable::ring(&backwards));
        for number in 0..1_000 {
            let chosen = one.choose(key(number), |_| true).unwrap();
            assert_eq!(other.choose(key(number), |_| true), Some(6 - chosen));
        }
    }

    #[test]
    fn the_hash_never_changes() {
        assert_eq!(hash(b""), 0xf52a_15e9_a9b5_e89b);
        assert_ne!(hash(b"a"), hash(b"b"));
    }

    proptest! {
        #[test]
        fn a_usable_endpoint_is_found_if_there_is_one_and_unusable_ones_move_nobody_else(
            weights in prop::collection::vec(1_u32..5, 1..12), number in 0_u64..1_000, broken: u16,
        ) {
            let usable = |at: usize| broken >> at & 1 == 0;
            let any = (0..weights.len()).any(usable);
            for table in both(&members(&weights)) {
                let first = table.choose(key(number), |_| true).unwrap();
                match table.choose(key(number), usable) {
                    Some(at) => prop_assert!(usable(at) && (at == first || !usable(first))),
                    None => prop_assert!(!any),
                }
            }
        }
    }
}
