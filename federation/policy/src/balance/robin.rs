//! One endpoint after the other, by weight, smoothly: a heavy one's turns are spread among the others'
//! (nginx's algorithm).

/// Whose turn it is. It names endpoints by keys, so that they may come and go.
#[derive(Debug, Clone)]
pub struct RoundRobin<K> {
    members: Vec<(K, i64)>,
}

impl<K> Default for RoundRobin<K> {
    fn default() -> Self {
        Self {
            members: Vec::new(),
        }
    }
}

impl<K: Clone + PartialEq> RoundRobin<K> {
    /// The position of the endpoint whose turn it is. Weight 0 takes no turns; `None` when all have that.
    /// A set without the endpoints of the last one begins at `random`.
    pub fn next<'a>(
        &mut self,
        endpoints: impl Iterator<Item = (&'a K, u32)> + Clone,
        random: u64,
    ) -> Option<usize>
    where
        K: 'a,
    {
        self.follow(endpoints.clone().map(|(key, _)| key), random);
        let mut total = 0;
        let mut best: Option<usize> = None;
        for (at, (_, weight)) in endpoints.enumerate() {
            let weight = i64::from(weight);
            total += weight;
            self.members[at].1 += weight;
            let ahead = best.is_none_or(|best| self.members[at].1 > self.members[best].1);
            if weight > 0 && ahead {
                best = Some(at);
            }
        }
        self.members[best?].1 -= total;
        best
    }

    /// Keeps the turns of those who stay.
    fn follow<'a>(&mut self, keys: impl Iterator<Item = &'a K> + Clone, random: u64)
    where
        K: 'a,
    {
        if keys.clone().eq(self.members.iter().map(|(key, _)| key)) {
            return;
        }
        let known = std::mem::take(&mut self.members);
        let standing = |key: &K| {
            known
                .iter()
                .find(|(it, _)| it == key)
                .map(|(_, turn)| *turn)
        };
        let members: Vec<_> = keys.map(|key| (key.clone(), standing(key))).collect();
        let fresh = members.iter().all(|(_, turn)| turn.is_none());
        let first = super::below(random, members.len() as u64) as usize;
        self.members = members
            .into_iter()
            .enumerate()
            .map(|(at, (key, turn))| (key, turn.unwrap_or(i64::from(fresh && at == first))))
            .collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn turns(robin: &mut RoundRobin<char>, endpoints: &[(char, u32)], count: usize) -> String {
        let mut turn = || {
            let each = endpoints.iter().map(|(key, weight)| (key, *weight));
            robin.next(each, 0).map_or('-', |at| endpoints[at].0)
        };
        (0..count).map(|_| turn()).collect()
    }

    #[test]
    fn heavy_turns_are_spread_and_weight_zero_has_none() {
        let mut robin = RoundRobin::default();
        let endpoints = [('a', 5), ('b', 1), ('c', 1), ('d', 0)];
        assert_eq!(turns(&mut robin, &endpoints, 7), "aabaaca");
        assert_eq!(turns(&mut robin, &[('d', 0)], 1), "-");
        assert_eq!(turns(&mut RoundRobin::default(), &[], 1), "-");
    }

    #[test]
    fn who_comes_or_goes_disturbs_nobody_s_turn() {
        let mut robin = RoundRobin::default();
        let all = [('a', 1), ('b', 1), ('c', 1)];
        assert_eq!(turns(&mut robin, &all, 4), "abca");
        assert_eq!(turns(&mut robin, &[('a', 1), ('c', 1)], 2), "ca");
        assert_eq!(
            turns(&mut robin, &all, 3)
                .chars()
                .filter(|it| *it == 'b')
                .count(),
            1
        );
    }

    proptest! {
        /// In every round of as many turns as all weights together each has exactly its weight.
        #[test]
        fn shares_are_exact(weights in prop::collection::vec(0_u32..9, 1..7), random: u64) {
            let total: u32 = weights.iter().sum();
            let keys: Vec<usize> = (0..weights.len()).collect();
            let mut robin = RoundRobin::default();
            for _ in 0..3 {
                let mut counts = vec![0; weights.len()];
                for _ in 0..total {
                    let each = keys.iter().zip(weights.iter().copied());
                    counts[robin.next(each, random).unwrap()] += 1;
                }
                prop_assert_eq!(&counts, &weights);
            }
        }
    }
}
