//! Answers that their readers leave lying.
//!
//! hyper asks a body for more only when its reader has room. A reader that never makes room, by a window
//! of HTTP/2 that stays closed, would keep the body, and everything it holds, for ever. So bodies that
//! are not given in one piece are put on a list, and looked at from time to time.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::time::Duration;

use tokio::time::Instant;

/// The bodies of one worker that flow.
#[derive(Default)]
pub(crate) struct Stalls(RefCell<Vec<Weak<dyn Look>>>);

/// What can be cut while it is not asked for more.
pub(crate) trait Cut {
    /// Its reader has left it lying for too long.
    fn cut(self);
}

/// Something that flows.
pub(crate) struct Flowing<T> {
    content: RefCell<Option<T>>,
    /// Since when its reader has something to read, and did not ask for more.
    waits_since: Cell<Option<Instant>>,
    patience: Duration,
}

trait Look {
    fn look(&self, now: Instant);
}

impl Stalls {
    /// Puts it on the list. It is cut when its reader asks for nothing for as long as `patience`.
    pub(crate) fn watch<T: Cut + 'static>(&self, content: T, patience: Duration) -> Rc<Flowing<T>> {
        let flowing = Rc::new(Flowing {
            content: RefCell::new(Some(content)),
            waits_since: Cell::new(Some(Instant::now())),
            patience,
        });
        let weak: Weak<Flowing<T>> = Rc::downgrade(&flowing);
        self.0.borrow_mut().push(weak);
        flowing
    }

    /// Cuts what was left lying too long.
    pub(crate) fn look(&self, now: Instant) {
        let mut live = Vec::new();
        self.0.borrow_mut().retain(|weak| {
            let flowing = weak.upgrade();
            let keeps = flowing.is_some();
            live.extend(flowing);
            keeps
        });
        for flowing in live {
            flowing.look(now);
        }
    }
}

impl<T> Flowing<T> {
    /// Its reader asks for more. `None`: it was cut.
    pub(crate) fn asked<R>(&self, give: impl FnOnce(&mut T) -> R) -> Option<R> {
        self.waits_since.set(None);
        self.content.borrow_mut().as_mut().map(give)
    }

    /// It looks at it without asking for more.
    pub(crate) fn seen<R>(&self, look: impl FnOnce(&T) -> R) -> Option<R> {
        self.content.borrow().as_ref().map(look)
    }

    /// Its reader was given something.
    pub(crate) fn given(&self) {
        self.waits_since.set(Some(Instant::now()));
    }
}

impl<T: Cut> Look for Flowing<T> {
    fn look(&self, now: Instant) {
        let stalled = |since: Instant| now.saturating_duration_since(since) >= self.patience;
        if !self.waits_since.get().is_some_and(stalled) {
            return;
        }
        let content = self.content.borrow_mut().take();
        if let Some(content) = content {
            content.cut();
        }
    }
}
