//! The counts that one worker uses: found without a lock.

use std::cell::RefCell;
use std::sync::Arc;

use foldhash::HashMap;
use portolan_model::ServiceKey;

use super::{Count, Limit, Limits, Serving};

/// The most counts that one worker keeps at hand for one limit.
const AT_HAND_MAX: usize = 4_096;

/// Counts by key.
type Counts = HashMap<Box<str>, Arc<Count>>;

/// One worker's view of the limits.
#[derive(Debug)]
pub(crate) struct Cache {
    limits: Limits,
    /// By limit and key.
    at_hand: RefCell<HashMap<u64, Counts>>,
}

impl Cache {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            limits,
            at_hand: RefCell::default(),
        }
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.limits
    }

    pub(super) fn serving(&self, service: &ServiceKey) -> Option<Arc<Serving>> {
        self.limits
            .serving(service)
            .filter(|serving| !serving.limits.is_empty())
    }

    /// The count of a key; of all together without one.
    pub(super) fn count(&self, limit: &Limit, key: Option<&str>) -> Arc<Count> {
        let Some(key) = key else {
            return Arc::clone(limit.counts.whole());
        };
        let mut at_hand = self.at_hand.borrow_mut();
        let counts = at_hand.entry(limit.id).or_default();
        if let Some(count) = counts.get(key) {
            return Arc::clone(count);
        }
        let count = limit.counts.of(key, self.limits.now());
        if counts.len() >= AT_HAND_MAX {
            counts.clear();
        }
        counts.insert(key.into(), Arc::clone(&count));
        count
    }

    /// Lets go of what nobody needs.
    pub(crate) fn reap(&self) {
        let now = self.limits.now();
        let mut at_hand = self.at_hand.borrow_mut();
        for counts in at_hand.values_mut() {
            counts.retain(|_, count| !count.is_unused(now));
        }
        at_hand.retain(|_, counts| !counts.is_empty());
    }
}
