//! Tries that did not end well, and what the app is told if there is no further one.

use portolan_model::{Hop, Reason, Refusal};
use portolan_policy::retry::Outcome;

use super::call::Answer;
use crate::upstreams::{DialError, SendFailure};

/// A try that did not end in an answer worth giving.
pub(super) struct Failure {
    pub(super) outcome: Outcome,
    pub(super) told: Told,
}

/// What the app is told if there is no further try.
pub(super) enum Told {
    Refusal(Refusal),
    /// The upstream's own words.
    Answer(Box<Answer>),
}

impl Failure {
    pub(super) fn refused(outcome: Outcome, reason: Reason, why: impl Into<String>) -> Self {
        let told = Told::Refusal(Refusal::new(reason, Hop::Outbound, why));
        Self { outcome, told }
    }

    /// What the app is told: a refusal, or the upstream's own answer.
    ///
    /// # Errors
    /// The refusal.
    pub(super) fn tell(self) -> Result<Answer, Refusal> {
        match self.told {
            Told::Refusal(refusal) => Err(refusal),
            Told::Answer(answer) => Ok(*answer),
        }
    }
}

impl From<DialError> for Failure {
    fn from(error: DialError) -> Self {
        Self {
            outcome: error.outcome(),
            told: Told::Refusal(error.0),
        }
    }
}

impl From<SendFailure> for Failure {
    fn from(failure: SendFailure) -> Self {
        Self {
            outcome: failure.outcome,
            told: Told::Refusal(failure.refusal),
        }
    }
}
