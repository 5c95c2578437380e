//! The counts of one limit, one for each key.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use foldhash::{HashMap, HashMapExt};
use portolan_model::limit::KEYS_MAX;

use super::Count;

/// The least pause between two looks for counts that nobody needs.
const SWEEP_PAUSE: Duration = Duration::from_secs(1);

/// Every count of a limit.
#[derive(Debug)]
pub(super) struct Keys {
    /// Of all together, where the limit tells nobody apart.
    whole: Arc<Count>,
    /// Of those who came when there was no room for a count of their own: they share it, so that no limit
    /// is loosened by a crowd.
    crowd: Arc<Count>,
    known: Mutex<Known>,
}

#[derive(Debug)]
struct Known {
    counts: HashMap<Box<str>, Arc<Count>>,
    swept_at: Duration,
}

impl Default for Keys {
    fn default() -> Self {
        Self {
            whole: Arc::default(),
            crowd: Arc::default(),
            known: Mutex::new(Known {
                counts: HashMap::new(),
                swept_at: Duration::ZERO,
            }),
        }
    }
}

impl Keys {
    pub(super) fn whole(&self) -> &Arc<Count> {
        &self.whole
    }

    /// The count of a key. Whoever asks keeps it for a while, and asks rarely.
    pub(super) fn of(&self, key: &str, now: Duration) -> Arc<Count> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = known.counts.get(key) {
            return Arc::clone(count);
        }
        if known.counts.len() >= KEYS_MAX && now >= known.swept_at + SWEEP_PAUSE {
            known.swept_at = now;
            // A count that somebody holds may be added to at any time.
            known
                .counts
                .retain(|_, count| Arc::strong_count(count) > 1 || !count.is_unused(now));
        }
        if known.counts.len() >= KEYS_MAX {
            return Arc::clone(&self.crowd);
        }
        let count = Arc::<Count>::default();
        known.counts.insert(key.into(), Arc::clone(&count));
        count
    }

    /// The most connections that one key has open.
    pub(super) fn most_open(&self) -> u32 {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let all = known.counts.values().chain([&self.whole, &self.crowd]);
        let open = all.map(|count| count.open.load(Ordering::SeqCst));
        open.max().unwrap_or(0)
    }

    /// Every count that somebody may use now, by key; empty for all together.
    pub(super) fn all(&self) -> Vec<(String, Arc<Count>)> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let each = known
            .counts
            .iter()
            .map(|(key, count)| (key.to_string(), Arc::clone(count)));
        let mut all: Vec<_> = each.collect();
        all.push((String::new(), Arc::clone(&self.whole)));
        all
    }
}

#[cfg(test)]
mod tests {
    use portolan_policy::limit::Rate;

    use super::*;

    #[test]
    fn a_crowd_has_one_count_and_who_is_idle_makes_room() {
        let keys = Keys::default();
        let rate = Rate::of_requests(1, Duration::from_secs(10), 1);
        let now = Duration::from_secs(100);
        for number in 0..KEYS_MAX {
            let count = keys.of(&number.to_string(), now);
            count.bucket.take(&rate, 1, now).unwrap();
        }
        let (one, other) = (keys.of("a", now), keys.of("b", now));
        assert!(Arc::ptr_eq(&one, &other), "all busy: the crowd's");
        let later = now + Duration::from_secs(11);
        let (one, other) = (keys.of("a", later), keys.of("b", later));
        assert!(!Arc::ptr_eq(&one, &other), "there is room again");
        assert!(Arc::ptr_eq(&one, &keys.of("a", later)));
    }
}
