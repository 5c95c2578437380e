//! What a scenario is: what is done when, and what may come of it.

use std::time::Duration;

use super::mesh::By;

/// Something that is done to a mesh. Parts are named like `us-east/gateway-1`; `us-west/*` is a whole
/// cluster, `*/control` all control planes.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Act {
    /// `kill -9`.
    Kill(&'static str),
    /// Asked to end (SIGTERM), and waited for.
    End(&'static str),
    /// SIGSTOP: it is there and answers nothing.
    Stop(&'static str),
    /// SIGCONT.
    Resume(&'static str),
    /// Started again.
    Start(&'static str),
    /// Conditions of the wide-area network change: `us-west cut=yes`.
    Wan(&'static str),
    /// The middle of a cluster's registry file is overwritten.
    Damage(&'static str),
    /// A host answers everything on this TCP and on this UDP port with random bytes.
    Garbage(&'static str, u16, u16),
    /// Somebody with the keys of this gateway, which does not run, takes its place and links with all peers, to
    /// talk nonsense.
    Impersonate(&'static str),
    /// The disk that everything of every cluster is kept on has no byte left.
    Fill,
    /// It has room again.
    Free,
}

/// What must be true of the outcome. Times are generous: they hold on a machine that does other things.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    pub(crate) failed_max: usize,
    pub(crate) longest_max: Duration,
    /// The cluster that answers in the end, alone or again.
    pub(crate) ends: &'static str,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    /// In each cluster.
    pub(crate) gateways: u8,
    /// Between all clusters, in each direction.
    pub(crate) between: &'static str,
    /// How the calls of us-east's frontend get to its sidecar.
    pub(crate) by: By,
    /// What us-east's frontend calls.
    pub(crate) method: &'static str,
    pub(crate) url: &'static str,
    /// Done before the load begins.
    pub(crate) before: &'static [Act],
    /// The cluster that answers before the first act.
    pub(crate) begins: &'static str,
    /// What is done when, in seconds after the load began.
    pub(crate) script: &'static [(f64, Act)],
    /// How long the load runs, in seconds.
    pub(crate) seconds: f64,
    pub(crate) bounds: Bounds,
}
