//! Rate limits: how much a service takes, judged at the receiving side.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::declared::TargetRef;
use crate::route::HttpMatch;

/// The most limits of one policy.
pub const LIMITS_MAX: usize = 16;
/// The most distinct keys (identities, header values) for which one limit keeps a count of its own; beyond
/// it the rarest used are forgotten.
pub const KEYS_MAX: usize = 10_000;

/// What a declared `RateLimitPolicy` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RateLimitPolicySpec {
    /// What it is attached to.
    pub targets: Vec<TargetRef>,
    /// Its limits; each must be kept.
    pub limits: Vec<RateLimit>,
}

/// One limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RateLimit {
    /// Its name: `namespace/policy/limit`.
    pub name: String,
    /// What it counts; everything where empty. Connections and bytes cannot be told apart by it.
    pub matches: Vec<HttpMatch>,
    /// What has a count of its own.
    pub per: LimitPer,
    /// How much.
    pub amount: LimitAmount,
    /// Who counts.
    pub counted: Counted,
}

/// What has a count of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum LimitPer {
    /// The service as a whole.
    Service,
    /// Each caller's identity.
    Identity,
    /// Each caller's namespace (and trust domain).
    Namespace,
    /// Each value of a header, by lower-case name; requests without it count together.
    Header(String),
}

/// How much is allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum LimitAmount {
    /// Requests in a time, and so many at once after a pause.
    Requests {
        /// How many.
        count: u32,
        /// In how long.
        per: Duration,
        /// At once.
        burst: u32,
    },
    /// Connections at a time.
    Connections(u32),
    /// Bytes, both ways together, in a time.
    Bytes {
        /// How many.
        count: u64,
        /// In how long.
        per: Duration,
    },
}

/// Who counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Counted {
    /// Each instance for itself.
    Instance,
    /// All instances in the cluster together, through the control plane.
    Cluster {
        /// What holds while the control plane does not answer.
        alone: Alone,
    },
}

/// What holds while nobody can be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Alone {
    /// Everything is allowed.
    Open,
    /// Nothing is.
    Closed,
    /// Each instance goes by its last share.
    LastShare,
}
