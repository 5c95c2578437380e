//! What is told of a call, in a form that crosses the wire.

use std::net::SocketAddr;
use std::time::Duration;

use portolan_model::snapshot::{LinkState, Scope, Snapshot};
use portolan_model::{
    ClusterName, Hop, Protocol, Reason, Refusal, ServiceKey, SpiffeId, WorkloadKey,
};
use serde::{Deserialize, Serialize};

use super::routing::RuleView;
use crate::failover::Candidate;
use crate::route::Route;

/// What would happen to a call.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// Who calls.
    pub caller: SpiffeId,
    /// What was called, as it was written.
    pub host: String,
    /// The snapshot's number.
    pub generation: u64,
    /// The service that it means.
    pub service: Option<ServiceKey>,
    /// How far the call may go.
    pub scope: Option<Scope>,
    /// The service port.
    pub port: Option<u16>,
    /// What is spoken on it.
    pub protocol: Option<Protocol>,
    /// The rule of a declared route that it falls under. With it, what follows is about the largest of the
    /// rule's backends.
    pub rule: Option<RuleView>,
    /// The traffic policy that counts, as `namespace/name`; `None` for the defaults.
    #[serde(default)]
    pub policy: Option<String>,
    /// Why the call would fail, if it would.
    pub refusal: Option<Refused>,
    /// Every cluster that could take the call, nearest first.
    pub candidates: Vec<CandidateView>,
    /// The first of those that would be tried (with a share below 1 only for so many of the calls).
    pub chosen: Option<ClusterName>,
    /// The own cluster's endpoints that serve the port.
    pub endpoints: Vec<EndpointView>,
    /// When the call would be tried again.
    pub retry: Option<RetryView>,
    /// How long each step may take.
    pub timeouts: Option<TimeoutsView>,
    /// The decisions, one after the other, in sentences.
    pub steps: Vec<Step>,
}

/// One decision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// What was decided: `name`, `rule`, `backends`, `policy`, `clusters`, `way`, `access`, `endpoints`.
    pub stage: String,
    /// How, and why so.
    pub text: String,
}

/// A refusal, as callers see it, with its sentence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// The reason's word.
    pub reason: Reason,
    /// The hop's word.
    pub hop: Hop,
    /// The sentence.
    pub detail: String,
}

/// A cluster that could take the call.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CandidateView {
    /// The cluster.
    pub cluster: ClusterName,
    /// Whether it is the caller's own.
    pub own: bool,
    /// Whether it is in the caller's region.
    pub same_region: bool,
    /// Its share of the calls, from 0 to 1.
    pub share: f64,
    /// Which part of its share it has regained since it came back, from 0 to 1.
    #[serde(default = "whole")]
    pub regained: f64,
    /// Why it has this share.
    pub why: String,
    /// Ready endpoints.
    pub ready: u32,
    /// Those of them that calls should go to.
    pub healthy: u32,
    /// All endpoints.
    pub total: u32,
    /// The links to it: `own`, `up`, `down` or `unknown`.
    pub link: String,
    /// The best link's round-trip time in milliseconds.
    pub rtt_ms: Option<f64>,
    /// Whether the caller's proxy ejected it.
    pub ejected: bool,
}

/// An endpoint of the own cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointView {
    /// The workload.
    pub workload: WorkloadKey,
    /// Where its sidecar accepts mutual TLS.
    pub inbound: SocketAddr,
    /// Its share relative to its siblings.
    pub weight: u32,
    /// Whether it is ready.
    pub ready: bool,
    /// Whether the caller's proxy ejected it.
    pub ejected: bool,
    /// Whether calls may go to it now.
    pub eligible: bool,
}

/// When a call is tried again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RetryView {
    /// Tries after the first.
    pub attempts: u8,
    /// Statuses after which idempotent calls are tried again.
    pub statuses: Vec<u16>,
    /// The longest wait between tries, in milliseconds.
    pub backoff_max_ms: u64,
}

/// How long each step may take, in milliseconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TimeoutsView {
    /// A connection within the cluster.
    pub connect_local_ms: u64,
    /// A connection to another cluster.
    pub connect_remote_ms: u64,
    /// Until the response's headers.
    pub response_headers_ms: u64,
    /// Without a byte.
    pub stream_idle_ms: u64,
}

impl Explanation {
    pub(super) fn unanswered(snapshot: &Snapshot, caller: &SpiffeId, host: &str) -> Self {
        Self {
            caller: caller.clone(),
            host: host.to_owned(),
            generation: snapshot.generation,
            service: None,
            scope: None,
            port: None,
            protocol: None,
            rule: None,
            policy: None,
            refusal: None,
            candidates: Vec::new(),
            chosen: None,
            endpoints: Vec::new(),
            retry: None,
            timeouts: None,
            steps: Vec::new(),
        }
    }

    pub(super) fn step(&mut self, stage: &str, text: String) {
        let stage = stage.to_owned();
        self.steps.push(Step { stage, text });
    }

    pub(super) fn refuse(&mut self, stage: &str, refusal: Refusal) {
        self.step(stage, format!("refused: {}", refusal.detail));
        self.refusal = Some(Refused {
            reason: refusal.reason,
            hop: refusal.hop,
            detail: refusal.detail,
        });
    }
}

fn whole() -> f64 {
    1.0
}

impl CandidateView {
    pub(super) fn of(candidate: &Candidate) -> Self {
        let health = &candidate.health;
        let link = match (health.own, health.link) {
            (true, _) => "own",
            (false, LinkState::Unknown) => "unknown",
            (false, LinkState::Up { .. }) => "up",
            (false, LinkState::Down) => "down",
        };
        Self {
            cluster: candidate.cluster.clone(),
            own: health.own,
            same_region: health.same_region,
            share: candidate.share,
            regained: health.regained,
            why: if health.regained < 1.0 {
                let percent = health.regained * 100.0;
                format!(
                    "{}; came back, and has {percent:.0} % of its share",
                    candidate.why
                )
            } else {
                candidate.why.to_string()
            },
            ready: health.ready,
            healthy: health.healthy,
            total: health.total,
            link: link.to_owned(),
            rtt_ms: health.rtt.map(|rtt| rtt.as_secs_f64() * 1_000.0),
            ejected: health.ejected,
        }
    }
}

impl RetryView {
    pub(super) fn of(route: &Route) -> Self {
        Self {
            attempts: route.retry.attempts,
            statuses: route.retry.statuses.to_vec(),
            backoff_max_ms: millis(route.retry.backoff_max),
        }
    }
}

impl TimeoutsView {
    pub(super) fn of(route: &Route) -> Self {
        Self {
            connect_local_ms: millis(route.timeouts.connect_local),
            connect_remote_ms: millis(route.timeouts.connect_remote),
            response_headers_ms: millis(route.timeouts.response_headers),
            stream_idle_ms: millis(route.timeouts.stream_idle),
        }
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
