//! A versioned table: what is in it now, when each row last changed, and which rows left it
//! lately. Receivers that say how far they are get the difference, however long they were away;
//! nothing is queued for anybody.

use std::collections::BTreeMap;

/// The most rows that have left a table and are still remembered. Who is further behind starts over.
pub(crate) const REMEMBERED_REMOVALS_MAX: usize = 4_096;

/// See the module's description. Versions only grow.
#[derive(Debug, Clone)]
pub(crate) struct Table<K, V> {
    rows: BTreeMap<K, Row<V>>,
    removed: BTreeMap<K, u64>,
    /// Removals up to this version may have been forgotten.
    horizon: u64,
    version: u64,
}

#[derive(Debug, Clone)]
struct Row<V> {
    value: V,
    changed: u64,
}

/// What changed after a version.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Delta<'a, K, V> {
    /// Rows that are new or changed.
    pub(crate) upserts: Vec<(&'a K, &'a V)>,
    /// Rows that are gone.
    pub(crate) removals: Vec<&'a K>,
}

impl<K: Ord + Clone, V: PartialEq> Table<K, V> {
    /// A table without rows, begun at `version`. Who has an earlier version has it of another table, and
    /// starts over.
    pub(crate) fn begun_at(version: u64) -> Self {
        Self {
            rows: BTreeMap::new(),
            removed: BTreeMap::new(),
            horizon: version,
            version,
        }
    }

    /// The version of the last change.
    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    pub(crate) fn get(&self, key: &K) -> Option<&V> {
        self.rows.get(key).map(|row| &row.value)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.rows.iter().map(|(key, row)| (key, &row.value))
    }

    /// Sets a row; an equal value changes nothing. True when it changed.
    pub(crate) fn put(&mut self, version: u64, key: K, value: V) -> bool {
        if self.get(&key) == Some(&value) {
            return false;
        }
        self.removed.remove(&key);
        self.rows.insert(
            key,
            Row {
                value,
                changed: version,
            },
        );
        self.version = self.version.max(version);
        true
    }

    /// Takes a row out. True when there was one.
    pub(crate) fn remove(&mut self, version: u64, key: &K) -> bool {
        if self.rows.remove(key).is_none() {
            return false;
        }
        self.removed.insert(key.clone(), version);
        self.version = self.version.max(version);
        if self.removed.len() > REMEMBERED_REMOVALS_MAX {
            self.forget_oldest_half();
        }
        true
    }

    /// What changed after `version`; `None` when that is too long ago to say what is gone.
    pub(crate) fn since(&self, version: u64) -> Option<Delta<'_, K, V>> {
        if version < self.horizon {
            return None;
        }
        if version >= self.version {
            return Some(Delta {
                upserts: Vec::new(),
                removals: Vec::new(),
            });
        }
        let upserts = self
            .rows
            .iter()
            .filter(|(_, row)| row.changed > version)
            .map(|(key, row)| (key, &row.value))
            .collect();
        let removals = self
            .removed
            .iter()
            .filter(|(_, at)| **at > version)
            .map(|(key, _)| key)
            .collect();
        Some(Delta { upserts, removals })
    }

    fn forget_oldest_half(&mut self) {
        let mut ages: Vec<u64> = self.removed.values().copied().collect();
        ages.sort_unstable();
        let Some(middle) = ages.get(ages.len() / 2).copied() else {
            return;
        };
        self.removed.retain(|_, at| *at > middle);
        self.horizon = self.horizon.max(middle);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn receivers_get_what_changed_after_their_version() {
        let mut table = Table::begun_at(0);
        table.put(1, "a", 1);
        table.put(2, "b", 1);
        assert!(!table.put(3, "a", 1), "an equal value is no change");
        table.remove(4, &"b");
        let delta = table.since(1).unwrap();
        assert_eq!((delta.upserts, delta.removals), (vec![], vec![&"b"]));
        let delta = table.since(0).unwrap();
        assert_eq!(delta.upserts, vec![(&"a", &1)]);
        table.put(5, "b", 2);
        let delta = table.since(4).unwrap();
        assert_eq!(
            (delta.upserts, delta.removals),
            (vec![(&"b", &2)], Vec::<&&str>::new())
        );
        assert_eq!(table.version(), 5);
    }

    #[test]
    fn who_has_a_version_of_an_earlier_table_starts_over() {
        let mut table = Table::begun_at(7);
        table.put(7, "a", 1);
        assert_eq!(table.version(), 7);
        assert!(table.since(6).is_none(), "rows of then may be gone");
        assert!(table.since(7).is_some());
    }

    #[test]
    fn memory_of_removals_is_bounded_and_who_is_too_far_behind_is_told() {
        let mut table = Table::begun_at(0);
        let count = REMEMBERED_REMOVALS_MAX as u64 * 3;
        for at in 0..count {
            table.put(2 * at + 1, at, ());
            table.remove(2 * at + 2, &at);
        }
        assert!(table.removed.len() <= REMEMBERED_REMOVALS_MAX);
        assert!(table.since(1).is_none());
        assert!(table.since(2 * count - 1).is_some());
    }
}
