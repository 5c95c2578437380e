//! How large things may be. Every backend refuses more, so that what one store holds another can.

use std::collections::BTreeSet;

use crate::error::StoreError;
use crate::store::Write;

/// The longest key in bytes.
pub const KEY_BYTES_MAX: usize = 1024;
/// The largest value in bytes: what an etcd with default settings takes in one request, with room to spare.
pub const VALUE_BYTES_MAX: usize = 1024 * 1024;
/// How many revisions the embedded and memory stores remember for resuming watchers.
pub const HISTORY_REVISIONS_MAX: usize = 10_000;
/// How many bytes of keys and values those revisions may hold together.
pub const HISTORY_BYTES_MAX: usize = 16 * 1024 * 1024;
/// How many events a watcher reads ahead.
pub const WATCH_BATCH_EVENTS_MAX: usize = 256;

/// What one atomic batch may hold; it depends on the backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The most writes in one batch.
    pub batch_writes_max: usize,
    /// The most bytes of keys and values in one batch.
    pub batch_bytes_max: usize,
}

/// The limits of the embedded and memory stores.
pub(crate) const LOCAL: Limits = Limits {
    batch_writes_max: 20_000,
    batch_bytes_max: 32 * 1024 * 1024,
};

/// The limits of an etcd with default settings (`--max-txn-ops`, `--max-request-bytes`).
#[cfg(feature = "etcd")]
pub(crate) const ETCD: Limits = Limits {
    batch_writes_max: 128,
    batch_bytes_max: 1024 * 1024 + 256 * 1024,
};

impl Limits {
    /// Refuses what no store with these limits can hold, before anything is sent or stored.
    pub(crate) fn check(&self, writes: &[Write]) -> Result<(), StoreError> {
        within("a batch's writes", writes.len(), self.batch_writes_max)?;
        let mut seen = BTreeSet::new();
        let mut bytes = 0_usize;
        for write in writes {
            check_key(write.key())?;
            if !seen.insert(write.key()) {
                return Err(StoreError::DuplicateKey {
                    key: write.key().to_owned(),
                });
            }
            let value_bytes = write.value().map_or(0, bytes::Bytes::len);
            within("a value's bytes", value_bytes, VALUE_BYTES_MAX)?;
            bytes += write.key().len() + value_bytes;
        }
        within("a batch's bytes", bytes, self.batch_bytes_max)
    }
}

fn check_key(key: &str) -> Result<(), StoreError> {
    if key.is_empty() || key.chars().any(char::is_control) {
        return Err(StoreError::InvalidKey {
            key: key.escape_default().to_string(),
        });
    }
    within("a key's bytes", key.len(), KEY_BYTES_MAX)
}

fn within(what: &'static str, size: usize, max: usize) -> Result<(), StoreError> {
    if size > max {
        return Err(StoreError::TooLarge { what, size, max });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Precondition;

    fn put(key: &str, bytes: usize) -> Write {
        Write::put(key, vec![0; bytes], Precondition::None)
    }

    #[test]
    fn what_does_not_fit_is_refused_by_name() {
        let limits = Limits {
            batch_writes_max: 2,
            batch_bytes_max: VALUE_BYTES_MAX + 10,
        };
        let refused = |writes: &[Write]| limits.check(writes).unwrap_err().to_string();
        assert!(
            limits
                .check(&[put("a", 3), put("b", VALUE_BYTES_MAX)])
                .is_ok()
        );
        assert!(refused(&[put("a", 1), put("b", 1), put("c", 1)]).contains("writes"));
        assert!(refused(&[put("a", VALUE_BYTES_MAX + 1)]).contains("value"));
        assert!(refused(&[put("a", VALUE_BYTES_MAX), put("b", 20)]).contains("batch"));
        assert!(refused(&[put(&"k".repeat(KEY_BYTES_MAX + 1), 0)]).contains("key"));
        assert!(refused(&[put("a", 1), put("a", 2)]).contains("`a`"));
        for key in ["", "a\nb"] {
            assert!(refused(&[put(key, 0)]).contains("key"));
        }
    }
}
