//! What the server tells its daemon, so that the daemon can count.

use std::time::Duration;

/// Whose answer it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AnswerKind {
    /// From the snapshot.
    Own,
    /// From a resolver that the query was forwarded to.
    Forwarded,
    /// Refused without looking: malformed, unsupported, or too much at once.
    Refused,
}

impl AnswerKind {
    /// The word for metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Own => "own",
            Self::Forwarded => "forwarded",
            Self::Refused => "refused",
        }
    }
}

/// Is told of every answer.
pub trait Observer: Send + Sync + 'static {
    /// One answer was sent: whose, the response code (0 is NOERROR, 2 SERVFAIL, 3 NXDOMAIN, …), and
    /// how long it took from the query's arrival.
    fn on_answer(&self, kind: AnswerKind, rcode: u8, latency: Duration);
}

/// Nobody counts.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unobserved;

impl Observer for Unobserved {
    fn on_answer(&self, _kind: AnswerKind, _rcode: u8, _latency: Duration) {}
}
