//! What probes say of the app. No I/O here.

use std::collections::BTreeMap;
use std::time::Duration;

/// The pause between probes while every port accepts connections.
pub const PAUSE_UP: Duration = Duration::from_secs(1);
/// The pause between probes while one does not.
pub const PAUSE_DOWN: Duration = Duration::from_millis(250);
/// So many probes in a row must stay unanswered before a port counts as down: an app whose
/// backlog is full for a moment is busy, not gone.
pub(super) const SILENT_MAX: u8 = 3;

/// What one probe of one port found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Finding {
    /// The connection was accepted.
    Accepted,
    /// The connection was refused, or there is no way to the address.
    Refused,
    /// Nothing came back in time.
    Silent,
    /// Connections wait, and the app takes none of them.
    Stuck,
}

/// Whether the app can take calls.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AppHealth {
    /// Whether every port accepts connections.
    pub ready: bool,
    /// Which ports don't, for people.
    pub detail: String,
    /// Ports that were seen not to accept connections.
    pub down: Vec<u16>,
}

/// What is known of every port.
#[derive(Debug, Default)]
pub(super) struct Verdicts(BTreeMap<u16, PortState>);

#[derive(Debug, Default, Clone, Copy)]
struct PortState {
    /// `None` before the first verdict.
    up: Option<bool>,
    silent: u8,
}

impl Verdicts {
    pub(super) fn new(ports: impl IntoIterator<Item = u16>) -> Self {
        let unknown = |port| (port, PortState::default());
        Self(ports.into_iter().map(unknown).collect())
    }

    pub(super) fn ports(&self) -> impl Iterator<Item = u16> {
        self.0.keys().copied()
    }

    pub(super) fn record(&mut self, port: u16, finding: Finding) {
        let Some(state) = self.0.get_mut(&port) else {
            return;
        };
        match finding {
            Finding::Accepted => {
                state.up = Some(true);
                state.silent = 0;
            }
            Finding::Refused | Finding::Stuck => state.up = Some(false),
            Finding::Silent => {
                state.silent = state.silent.saturating_add(1);
                if state.silent >= SILENT_MAX {
                    state.up = Some(false);
                }
            }
        }
    }

    pub(super) fn health(&self) -> AppHealth {
        let list = |wanted: Option<bool>| {
            let ports = self.0.iter().filter(|(_, state)| state.up == wanted);
            let ports: Vec<String> = ports.map(|(port, _)| port.to_string()).collect();
            ports.join(", ")
        };
        let (down, unknown) = (list(Some(false)), list(None));
        let detail = match (down.is_empty(), unknown.is_empty()) {
            (true, true) => String::new(),
            (true, false) => format!("port {unknown} was not probed yet"),
            (false, _) => format!("the app does not accept connections on port {down}"),
        };
        let closed = self.0.iter().filter(|(_, state)| state.up == Some(false));
        AppHealth {
            ready: detail.is_empty(),
            detail,
            down: closed.map(|(port, _)| *port).collect(),
        }
    }

    pub(super) fn pause(&self) -> Duration {
        let all_good = self
            .0
            .values()
            .all(|state| state.up == Some(true) && state.silent == 0);
        if all_good { PAUSE_UP } else { PAUSE_DOWN }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_ready_before_it_was_seen() {
        let mut verdicts = Verdicts::new([80, 81]);
        assert_eq!(verdicts.health().detail, "port 80, 81 was not probed yet");
        verdicts.record(80, Finding::Accepted);
        assert!(!verdicts.health().ready);
        verdicts.record(81, Finding::Accepted);
        assert_eq!(
            (verdicts.health().ready, verdicts.pause()),
            (true, PAUSE_UP)
        );
        assert!(Verdicts::new([]).health().ready, "an app without ports");
    }

    #[test]
    fn one_refusal_is_down_and_one_answer_is_up() {
        let mut verdicts = Verdicts::new([80, 81]);
        verdicts.record(80, Finding::Accepted);
        verdicts.record(81, Finding::Accepted);
        verdicts.record(81, Finding::Refused);
        let health = verdicts.health();
        assert_eq!(
            health.detail,
            "the app does not accept connections on port 81"
        );
        assert_eq!((health.ready, verdicts.pause()), (false, PAUSE_DOWN));
        assert_eq!(health.down, [81]);
        verdicts.record(81, Finding::Accepted);
        assert!(verdicts.health().ready);
    }

    #[test]
    fn silence_must_last() {
        let mut verdicts = Verdicts::new([80]);
        verdicts.record(80, Finding::Accepted);
        for _ in 1..SILENT_MAX {
            verdicts.record(80, Finding::Silent);
            assert!(verdicts.health().ready);
            assert_eq!(verdicts.pause(), PAUSE_DOWN, "look again soon");
        }
        verdicts.record(80, Finding::Silent);
        assert!(!verdicts.health().ready);
        verdicts.record(443, Finding::Refused);
    }
}
