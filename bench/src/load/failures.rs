//! Requests that were not answered: counted, and too many of them end the measurement.

use std::cell::{Cell, RefCell};

use anyhow::{Result, bail};

/// With so many failures nothing is measured but failures.
const FAILURES_MAX: u64 = 1_000;

/// What failed so far.
#[derive(Default)]
pub(super) struct Failures {
    count: Cell<u64>,
    last: RefCell<Option<String>>,
}

impl Failures {
    /// Notes one.
    pub(super) fn note(&self, error: &anyhow::Error) -> Result<()> {
        let count = self.count.get() + 1;
        self.count.set(count);
        self.last.replace(Some(format!("{error:#}")));
        if count > FAILURES_MAX {
            bail!("more than {FAILURES_MAX} requests failed, the last with: {error:#}");
        }
        Ok(())
    }

    /// How many there were, and why the last one.
    pub(super) fn all(&self) -> (u64, Option<String>) {
        (self.count.get(), self.last.borrow().clone())
    }
}
