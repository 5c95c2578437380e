//! What became of one request.

use serde::{Deserialize, Serialize};

/// What became of one request, as `load` prints it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Outcome {
    /// When it was due, in microseconds of Unix time.
    pub at_us: u64,
    /// From then to its answer or failure, in microseconds.
    pub took_us: u64,
    /// The cluster that answered it.
    pub from: Option<String>,
    /// Why it failed.
    pub failed: Option<String>,
}

impl Outcome {
    pub fn new(at_us: u64, took_us: u64, answer: Result<String, String>) -> Self {
        let (from, failed) = match answer {
            Ok(from) => (Some(from), None),
            Err(why) => (None, Some(why)),
        };
        Self {
            at_us,
            took_us,
            from,
            failed,
        }
    }
}
