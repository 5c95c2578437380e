//! What a store holds and remembers, as a value: no lock, no file, no clock.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use crate::error::StoreError;
use crate::limits::{HISTORY_BYTES_MAX, HISTORY_REVISIONS_MAX};
use crate::store::{Entry, Event, Listing, Precondition, Revision, Write};

/// A registry identity nobody else has: 128 random bits in hexadecimal.
pub(crate) fn random_id() -> String {
    format!("{:032x}", rand::random::<u128>())
}

/// All that happened in one revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) revision: Revision,
    pub(crate) events: Vec<Event>,
}

impl Change {
    fn bytes(&self) -> usize {
        self.events.iter().map(event_bytes).sum()
    }
}

fn event_bytes(event: &Event) -> usize {
    match event {
        Event::Put(entry) => entry.key.len() + entry.value.len(),
        Event::Deleted { key, .. } => key.len(),
    }
}

/// A part of history, in order.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Batch {
    pub(crate) events: Vec<Event>,
    /// Up to which revision this part reaches.
    pub(crate) through: Revision,
}

/// Entries, and the last part of their history.
#[derive(Debug)]
pub(crate) struct State {
    id: String,
    revision: Revision,
    entries: BTreeMap<String, (Bytes, Revision)>,
    history: VecDeque<Change>,
    history_bytes: usize,
    /// Everything up to here is forgotten.
    compacted: Revision,
}

impl State {
    pub(crate) fn new(id: String) -> Self {
        Self::restore(id, 0, 0, BTreeMap::new(), VecDeque::new())
    }

    /// A state as it was stored.
    pub(crate) fn restore(
        id: String,
        revision: Revision,
        compacted: Revision,
        entries: BTreeMap<String, (Bytes, Revision)>,
        history: VecDeque<Change>,
    ) -> Self {
        let history_bytes = history.iter().map(Change::bytes).sum();
        Self {
            id,
            revision,
            entries,
            history,
            history_bytes,
            compacted,
        }
    }

    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    pub(crate) fn revision(&self) -> Revision {
        self.revision
    }

    pub(crate) fn get(&self, key: &str) -> Option<Entry> {
        let (value, version) = self.entries.get(key)?;
        Some(Entry {
            key: key.to_owned(),
            value: value.clone(),
            version: *version,
        })
    }

    pub(crate) fn list(&self, prefix: &str) -> Listing {
        let entries = self
            .entries
            .range::<str, _>((
                std::ops::Bound::Included(prefix),
                std::ops::Bound::Unbounded,
            ))
            .take_while(|(key, _)| key.starts_with(prefix))
            .map(|(key, (value, version))| Entry {
                key: key.clone(),
                value: value.clone(),
                version: *version,
            })
            .collect();
        Listing {
            entries,
            revision: self.revision,
        }
    }

    /// What the writes would do, or the first precondition that does not hold. `None`: nothing.
    pub(crate) fn plan(&self, writes: &[Write]) -> Result<Option<Change>, StoreError> {
        for write in writes {
            self.check(write)?;
        }
        let revision = self.revision + 1;
        let events: Vec<Event> = writes
            .iter()
            .filter_map(|write| self.event_of(write, revision))
            .collect();
        Ok((!events.is_empty()).then_some(Change { revision, events }))
    }

    /// Up to where history is forgotten once `change` is applied: `compacted` or later.
    pub(crate) fn compacted_by(&self, change: &Change) -> Revision {
        let mut revisions = self.history.len() + 1;
        let mut bytes = self.history_bytes + change.bytes();
        let mut compacted = self.compacted;
        for old in &self.history {
            if revisions <= HISTORY_REVISIONS_MAX && bytes <= HISTORY_BYTES_MAX {
                break;
            }
            revisions -= 1;
            bytes -= old.bytes();
            compacted = old.revision;
        }
        compacted
    }

    /// Applies what [`State::plan`] made of this very state.
    pub(crate) fn apply(&mut self, change: Change) {
        self.compacted = self.compacted_by(&change);
        while let Some(old) = self.history.front()
            && old.revision <= self.compacted
        {
            self.history_bytes -= old.bytes();
            self.history.pop_front();
        }
        for event in &change.events {
            match event {
                Event::Put(entry) => {
                    let value = (entry.value.clone(), entry.version);
                    self.entries.insert(entry.key.clone(), value);
                }
                Event::Deleted { key, .. } => {
                    self.entries.remove(key);
                }
            }
        }
        self.revision = change.revision;
        self.history_bytes += change.bytes();
        self.history.push_back(change);
    }

    /// About `max` events under `prefix` after a revision, whole revisions only.
    pub(crate) fn events_after(
        &self,
        prefix: &str,
        after: Revision,
        max: usize,
    ) -> Result<Batch, StoreError> {
        if after < self.compacted || after > self.revision {
            return Err(StoreError::Compacted {
                after,
                oldest: self.compacted,
            });
        }
        let mut batch = Batch {
            events: Vec::new(),
            through: after,
        };
        let first = self
            .history
            .partition_point(|change| change.revision <= after);
        for change in self.history.range(first..) {
            if batch.events.len() >= max {
                break;
            }
            let under = change.events.iter().filter(|e| e.key().starts_with(prefix));
            batch.events.extend(under.cloned());
            batch.through = change.revision;
        }
        Ok(batch)
    }

    fn check(&self, write: &Write) -> Result<(), StoreError> {
        let found = self.entries.get(write.key()).map(|(_, version)| *version);
        let holds = match write.precondition() {
            Precondition::None => true,
            Precondition::DoesNotExist => found.is_none(),
            Precondition::Version(version) => found == Some(version),
        };
        if holds {
            return Ok(());
        }
        Err(StoreError::Conflict {
            key: write.key().to_owned(),
            found,
        })
    }

    fn event_of(&self, write: &Write, revision: Revision) -> Option<Event> {
        match write {
            Write::Put { key, value, .. } => Some(Event::Put(Entry {
                key: key.clone(),
                value: value.clone(),
                version: revision,
            })),
            Write::Delete { key, .. } => self.entries.contains_key(key).then(|| Event::Deleted {
                key: key.clone(),
                revision,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(state: &mut State, key: &str, bytes: usize) {
        let write = Write::put(key, vec![0; bytes], Precondition::None);
        let change = state.plan(&[write]).unwrap().unwrap();
        state.apply(change);
    }

    #[test]
    fn history_is_bounded_by_revisions() {
        let mut state = State::new(random_id());
        for _ in 0..HISTORY_REVISIONS_MAX + 5 {
            put(&mut state, "k", 1);
        }
        assert_eq!(state.history.len(), HISTORY_REVISIONS_MAX);
        assert!(matches!(
            state.events_after("", 4, 1),
            Err(StoreError::Compacted {
                after: 4,
                oldest: 5
            })
        ));
        assert_eq!(state.events_after("", 5, 1).unwrap().through, 6);
    }

    #[test]
    fn history_is_bounded_by_bytes_but_keeps_the_last_revision() {
        let mut state = State::new(random_id());
        for _ in 0..3 {
            put(&mut state, "k", HISTORY_BYTES_MAX);
        }
        assert_eq!((state.history.len(), state.compacted), (1, 2));
        put(&mut state, "k", 1);
        put(&mut state, "k", 1);
        assert_eq!((state.history.len(), state.history_bytes), (2, 4));
    }

    #[test]
    fn a_batch_ends_at_a_revision_and_skips_other_prefixes() {
        let mut state = State::new(random_id());
        put(&mut state, "a/1", 1);
        put(&mut state, "b/1", 1);
        put(&mut state, "a/2", 1);
        let batch = state.events_after("a/", 0, 1).unwrap();
        assert_eq!((batch.events.len(), batch.through), (1, 1));
        let batch = state.events_after("b/", 2, 9).unwrap();
        assert_eq!((batch.events.len(), batch.through), (0, 3));
    }
}
