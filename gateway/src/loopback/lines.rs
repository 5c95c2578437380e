//! The access log, as a test reads it.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use tracing::field::{Field, Visit};
use tracing::subscriber::DefaultGuard;
use tracing::{Event, Metadata, Subscriber, span};

/// What the lines of this thread say so far.
#[derive(Clone, Default)]
pub(super) struct Lines(Arc<Mutex<Vec<Line>>>);

#[derive(Clone, Default)]
struct Line {
    direction: String,
    tunnel: Option<String>,
}

impl Lines {
    /// Gathers them until the guard is dropped.
    pub(super) fn gather() -> (Self, DefaultGuard) {
        let lines = Self::default();
        let guard = tracing::subscriber::set_default(lines.clone());
        (lines, guard)
    }

    /// How many lines of that direction there are.
    pub(super) fn count(&self, direction: &str) -> usize {
        let lines = self.0.lock().unwrap();
        lines.iter().filter(|it| it.direction == direction).count()
    }

    /// The tunnels' names in them.
    pub(super) fn tunnels(&self, direction: &str) -> BTreeSet<String> {
        let lines = self.0.lock().unwrap();
        let mine = lines.iter().filter(|it| it.direction == direction);
        mine.filter_map(|it| it.tunnel.clone()).collect()
    }
}

impl Subscriber for Lines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "access"
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = Line::default();
        event.record(&mut line);
        self.0.lock().unwrap().push(line);
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        match field.name() {
            "direction" => self.direction = format!("{value:?}").replace('"', ""),
            "tunnel" => self.tunnel = Some(format!("{value:?}")),
            _ => {}
        }
    }
}
