//! Faults for drills: delays and errors that a serving sidecar makes, so that callers' retries, ejections and
//! failover show what they do.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::declared::TargetRef;
use crate::names::{ClusterName, Namespace, ServiceAccount};
use crate::route::HttpMatch;

/// The most faults of one policy.
pub const FAULTS_MAX: usize = 16;

/// What a declared `FaultPolicy` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FaultPolicySpec {
    /// What it is attached to.
    pub targets: Vec<TargetRef>,
    /// Its faults; the first that fits a request is done.
    pub faults: Vec<Fault>,
}

/// One fault.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// Its name: `namespace/policy/fault`.
    pub name: String,
    /// Which requests; all where empty.
    pub matches: Vec<HttpMatch>,
    /// Whose.
    pub callers: FaultCallers,
    /// Waits before the request is passed on.
    pub delay: Option<FaultDelay>,
    /// Answers in the app's place.
    pub abort: Option<FaultAbort>,
    /// When it ends, in milliseconds since the Unix epoch. Drills have an end.
    pub ends_ms: u64,
}

impl Fault {
    /// Whether opaque connections meet it as well. They have nothing that could be matched, and nobody could
    /// read an answer there.
    #[must_use]
    pub fn is_for_connections(&self) -> bool {
        self.matches.is_empty()
            && self
                .abort
                .is_none_or(|abort| abort.with == AbortWith::Reset)
    }
}

/// Whose requests a fault is for; all where everything is empty.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct FaultCallers {
    /// Callers of these namespaces.
    pub namespaces: Vec<Namespace>,
    /// Callers with these service accounts.
    pub service_accounts: Vec<ServiceAccount>,
    /// Callers of these clusters.
    pub clusters: Vec<ClusterName>,
}

/// A delay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FaultDelay {
    /// How long.
    pub fixed: Duration,
    /// Of how many requests, in thousandths of a percent.
    pub share_milli_percent: u32,
}

/// An answer in the app's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FaultAbort {
    /// What is answered.
    pub with: AbortWith,
    /// Of how many requests, in thousandths of a percent.
    pub share_milli_percent: u32,
}

/// What is answered in the app's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum AbortWith {
    /// This HTTP status.
    HttpStatus(u16),
    /// This gRPC status.
    GrpcStatus(u32),
    /// The connection or stream is reset.
    Reset,
}
