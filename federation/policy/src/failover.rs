//! Which cluster takes a call: a graded spill from one cluster to the next.
//!
//! By default clusters are ordered by nearness: the own one, those of the same region by round-trip
//! time, the others by round-trip time. Each can take as many of the calls as it has healthy endpoints
//! times 1.4 (a cluster with five of seven endpoints healthy still takes everything); what it cannot
//! take goes on to the next. If all together cannot take everything, they share in proportion. If nobody
//! is healthy, everybody who exists is tried: a wrong health signal must not turn a bad day into an
//! outage. A policy may name another order, or shares. A cluster that was gone and comes back gets its
//! part little by little.

mod regain;
mod survey;

use std::fmt;
use std::time::Duration;

use portolan_model::snapshot::{LinkState, Mesh};
use portolan_model::traffic::{ClusterOrder, Failover};
use portolan_model::{ClusterName, Endpoint, Hop, Reason, Refusal, ServiceKey, WorkloadKey};
use smallvec::SmallVec;

use crate::route::Route;
use crate::split;

pub use regain::Regain;
pub use survey::serving;
use survey::{survey, takes_calls};

/// In latency mode a nearer cluster is not left for one that is less than this much faster: a fifth, and
/// half a millisecond.
const FASTER_PERCENT: u32 = 120;
const FASTER_BY: Duration = Duration::from_micros(500);

/// What a proxy learned itself from the answers it got.
pub trait HealthView {
    /// Whether this endpoint of the own cluster is ejected now.
    fn endpoint_ejected(&self, workload: &WorkloadKey) -> bool;
    /// Whether this cluster is ejected now, as a backend of this service.
    fn cluster_ejected(&self, service: &ServiceKey, cluster: &ClusterName) -> bool;

    /// Tells whether the cluster can take calls now, and asks which part of its share it has regained, from
    /// 0 to 1, if it was gone and takes `over` to come back.
    fn regained(
        &self,
        _service: &ServiceKey,
        _cluster: &ClusterName,
        _available: bool,
        _over: Duration,
    ) -> f64 {
        1.0
    }

    /// How long the cluster's answers took lately.
    fn latency(&self, _service: &ServiceKey, _cluster: &ClusterName) -> Option<Duration> {
        None
    }
}

/// The view of somebody who sends no calls, and so has learned nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct NothingEjected;

impl HealthView for NothingEjected {
    fn endpoint_ejected(&self, _: &WorkloadKey) -> bool {
        false
    }

    fn cluster_ejected(&self, _: &ServiceKey, _: &ClusterName) -> bool {
        false
    }
}

/// What is known of one cluster as a backend of one service port.
#[derive(Debug, Clone, PartialEq)]
pub struct ClusterHealth {
    /// The cluster.
    pub cluster: ClusterName,
    /// Whether it is the own one.
    pub own: bool,
    /// Whether it is in the own region.
    pub same_region: bool,
    /// The way to it: the best link's round-trip time, where one is known.
    pub rtt: Option<Duration>,
    /// How long its answers took lately, where somebody measured that.
    pub latency: Option<Duration>,
    /// What the gateways say of the links to it; [`LinkState::Unknown`] for the own cluster.
    pub link: LinkState,
    /// Endpoints that the cluster says are ready.
    pub ready: u32,
    /// Those of them that calls should go to: none of an ejected or unreachable cluster, and of the
    /// own cluster those that are not ejected.
    pub healthy: u32,
    /// All endpoints.
    pub total: u32,
    /// Whether it can be reached as far as anybody knows.
    pub reachable: bool,
    /// Whether the caller's proxy ejected the whole cluster.
    pub ejected: bool,
    /// Which part of its share it has regained since it came back, from 0 to 1.
    pub regained: f64,
}

impl ClusterHealth {
    /// The share of all calls that the cluster can take, from 0 to 1.
    #[must_use]
    pub fn capacity(&self, failover: &Failover) -> f64 {
        let healthy = f64::from(self.healthy);
        let part = match failover.healthy_local_min {
            Some(enough) if self.own => healthy / f64::from(enough.max(1)),
            Some(_) | None => {
                let total = self.total.max(self.healthy).max(1);
                f64::from(failover.overprovisioning_percent) / 100.0 * healthy / f64::from(total)
            }
        };
        part.min(1.0) * self.regained.clamp(0.0, 1.0)
    }
}

/// One cluster that could take a call.
#[derive(Debug, Clone, PartialEq)]
pub struct Candidate {
    /// The cluster.
    pub cluster: ClusterName,
    /// Its share of the calls, from 0 to 1.
    pub share: f64,
    /// The share of all calls that it can take, from 0 to 1.
    pub capacity: f64,
    /// Its part of its level.
    pub part: Part,
    /// What is known of it.
    pub health: ClusterHealth,
    /// Why it has this share.
    pub why: Why,
}

/// Which level a cluster is of, and what it is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// Levels take calls one after the other: what one cannot take goes on to the next.
    pub level: usize,
    /// Among clusters with declared shares: its share relative to the others of the level. A level of these
    /// takes everything as long as one of them can take calls.
    pub weight: Option<u32>,
}

/// Why a candidate has its share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// It is the nearest that can take calls.
    Nearest,
    /// It is the first of the declared order that can take calls.
    First,
    /// Its answers are fastest.
    Fastest,
    /// It is the only one that calls may go to.
    Pinned,
    /// Its share is declared.
    Weighted,
    /// Those before it cannot take everything.
    Spill,
    /// Those before it take everything.
    NotNeeded,
    /// It has no endpoint of the service port.
    Empty,
    /// None of its endpoints is ready.
    NotReady,
    /// All of its endpoints failed so often that they are left alone for a while.
    EndpointsEjected,
    /// Calls to it failed so often that it is left alone for a while.
    Ejected,
    /// No gateway has a live link to it.
    Unreachable,
    /// Nobody is healthy, so it is tried although it is not.
    LastResort,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nearest => "the nearest that can take calls",
            Self::First => "the first in the declared order that can take calls",
            Self::Fastest => "the fastest to answer of those that can take calls",
            Self::Pinned => "the only one that the policy allows",
            Self::Weighted => "its declared share of those that can take calls",
            Self::Spill => "nearer clusters cannot take everything",
            Self::NotNeeded => "nearer clusters take everything",
            Self::Empty => "has no endpoint",
            Self::NotReady => "no endpoint is ready",
            Self::EndpointsEjected => "every ready endpoint is ejected after failures",
            Self::Ejected => "ejected after failures",
            Self::Unreachable => "no live link",
            Self::LastResort => "nobody is healthy, so everybody is tried",
        })
    }
}

/// The clusters that could take a call, in the order in which they are asked. Their shares sum to 1, or
/// all are 0 when no cluster has an endpoint.
#[must_use]
pub fn candidates(route: &Route, mesh: &Mesh, health: &dyn HealthView) -> Vec<Candidate> {
    let failover = &route.policy().failover;
    let mut candidates: Vec<Candidate> = ordered(survey(route, mesh, health), &failover.order)
        .map(|(part, health)| Candidate {
            cluster: health.cluster.clone(),
            share: 0.0,
            capacity: health.capacity(failover),
            part,
            health,
            why: Why::NotNeeded,
        })
        .collect();
    let shares = shares(&candidates.iter().collect::<SmallVec<[_; 8]>>());
    let anybody = candidates.iter().any(|it| it.capacity > 0.0);
    let mut taken = None;
    for (candidate, share) in candidates.iter_mut().zip(shares) {
        candidate.share = share;
        let after = taken.is_some_and(|level| level < candidate.part.level);
        candidate.why = why(candidate, &failover.order, anybody, after);
        if share > 0.0 {
            taken.get_or_insert(candidate.part.level);
        }
    }
    candidates
}

/// Draws the cluster for the next try with `random` in `[0, 1)`. Clusters that were tried for this
/// call already are left out, and the others share the calls as if those did not exist. `None` when
/// nobody is left who has an endpoint.
#[must_use]
pub fn choose_cluster<'a>(
    candidates: &'a [Candidate],
    tried: &[ClusterName],
    random: f64,
) -> Option<&'a Candidate> {
    let left: SmallVec<[&Candidate; 8]> = candidates
        .iter()
        .filter(|candidate| !tried.contains(&candidate.cluster))
        .collect();
    let loads = if left.len() == candidates.len() {
        left.iter().map(|candidate| candidate.share).collect()
    } else {
        shares(&left)
    };
    left.get(split::pick(&loads, random)?).copied()
}

/// The endpoints of the own cluster that a call may go to: those that are ready and not ejected; if
/// there are none, the ready ones; if there are none, all that serve the port.
#[must_use]
pub fn own_endpoints<'a>(route: &'a Route, health: &dyn HealthView) -> SmallVec<[&'a Endpoint; 8]> {
    let healthy: SmallVec<[&Endpoint; 8]> = survey::healthy(route, health).collect();
    if !healthy.is_empty() {
        return healthy;
    }
    let ready: SmallVec<[&Endpoint; 8]> = serving(route).filter(|it| takes_calls(it)).collect();
    if ready.is_empty() {
        serving(route).collect()
    } else {
        ready
    }
}

/// The refusal for a call that no cluster can take.
#[must_use]
pub fn nobody(route: &Route) -> Refusal {
    Refusal::new(
        Reason::NoHealthyUpstream,
        Hop::Outbound,
        format!("no cluster has an endpoint of {}", route.destination),
    )
}

/// The clusters in the order in which they are asked, from nearest first. Those that are not allowed are
/// left out.
fn ordered(
    mut healths: Vec<ClusterHealth>,
    order: &ClusterOrder,
) -> impl Iterator<Item = (Part, ClusterHealth)> {
    let weight_of = move |health: &ClusterHealth| match order {
        ClusterOrder::Weighted(weights) => weights.get(&health.cluster).copied(),
        ClusterOrder::Nearest
        | ClusterOrder::Listed(_)
        | ClusterOrder::Latency
        | ClusterOrder::Pinned(_) => None,
    };
    match order {
        ClusterOrder::Nearest => {}
        ClusterOrder::Listed(listed) => healths.sort_by_key(|health| {
            let at = listed.iter().position(|it| it == &health.cluster);
            at.unwrap_or(listed.len())
        }),
        ClusterOrder::Weighted(_) => healths.sort_by_key(|health| weight_of(health).is_none()),
        ClusterOrder::Latency => healths = fastest_first(healths),
        ClusterOrder::Pinned(pinned) => healths.retain(|health| &health.cluster == pinned),
    }
    let numbered = healths.into_iter().enumerate();
    numbered.map(move |(at, health)| {
        let weight = weight_of(&health);
        let level = if weight.is_some() { 0 } else { at + 1 };
        (Part { level, weight }, health)
    })
}

/// Sorts by latency, but leaves the nearer one before one that is hardly faster: so that calls do not swing
/// between clusters that are alike.
fn fastest_first(mut left: Vec<ClusterHealth>) -> Vec<ClusterHealth> {
    // No answer is faster than its way; and who was never measured is as fast as that allows.
    let expected = |health: &ClusterHealth| {
        let way = health.rtt.unwrap_or_default();
        health.latency.map_or(way, |latency| latency.max(way))
    };
    let mut sorted = Vec::with_capacity(left.len());
    while let Some(best) = left.iter().map(expected).min() {
        let enough = best * FASTER_PERCENT / 100 + FASTER_BY;
        let at = left.iter().position(|health| expected(health) <= enough);
        sorted.push(left.remove(at.unwrap_or(0)));
    }
    sorted
}

/// Envoy's priority load: each level takes what it can of what is left; when all together cannot
/// take everything, in proportion. Within a level by weight, as far as each can take calls.
fn shares(candidates: &[&Candidate]) -> SmallVec<[f64; 8]> {
    let pull = |it: &Candidate| it.part.weight.map_or(1.0, f64::from) * it.capacity;
    let together_in = |level: usize| -> f64 {
        let members = candidates.iter().filter(|it| it.part.level == level);
        members.map(|it| pull(it)).sum()
    };
    let level_capacity = |it: &Candidate| match it.part.weight {
        Some(_) if together_in(it.part.level) > 0.0 => 1.0,
        Some(_) => 0.0,
        None => it.capacity,
    };
    let mut levels: SmallVec<[(usize, f64); 8]> = SmallVec::new();
    for candidate in candidates {
        if levels
            .iter()
            .all(|(level, _)| *level != candidate.part.level)
        {
            levels.push((candidate.part.level, level_capacity(candidate)));
        }
    }
    let together: f64 = levels.iter().map(|(_, capacity)| capacity).sum();
    if together <= 0.0 {
        return last_resort(candidates);
    }
    let scale = together.min(1.0);
    let mut remaining = 1.0_f64;
    for (_, capacity) in &mut levels {
        *capacity = (*capacity / scale).min(remaining);
        remaining -= *capacity;
    }
    let share = |it: &&Candidate| {
        let taken = levels.iter().find(|(level, _)| *level == it.part.level);
        let taken = taken.map_or(0.0, |(_, taken)| *taken);
        if taken > 0.0 {
            taken * pull(it) / together_in(it.part.level)
        } else {
            0.0
        }
    };
    candidates.iter().map(share).collect()
}

/// Everybody who has endpoints and can be reached, by their number; if nobody, everybody who has
/// endpoints; if nobody, every other cluster, since what we know of them may be old.
fn last_resort(candidates: &[&Candidate]) -> SmallVec<[f64; 8]> {
    let healths = || candidates.iter().map(|candidate| &candidate.health);
    let weigh = |weight: &dyn Fn(&ClusterHealth) -> u32| -> Option<SmallVec<[f64; 8]>> {
        let weights: SmallVec<[f64; 8]> = healths().map(|h| f64::from(weight(h))).collect();
        let sum: f64 = weights.iter().sum();
        (sum > 0.0).then(|| weights.iter().map(|weight| weight / sum).collect())
    };
    weigh(&|h| if h.reachable { h.total } else { 0 })
        .or_else(|| weigh(&|h| h.total))
        .or_else(|| weigh(&|h| u32::from(!h.own)))
        .unwrap_or_else(|| healths().map(|_| 0.0).collect())
}

fn why(candidate: &Candidate, order: &ClusterOrder, anybody: bool, after_another: bool) -> Why {
    let health = &candidate.health;
    match (candidate.share > 0.0, after_another) {
        (true, _) if !anybody => Why::LastResort,
        (true, _) if candidate.part.weight.is_some() => Why::Weighted,
        (true, true) => Why::Spill,
        (true, false) => match order {
            ClusterOrder::Nearest | ClusterOrder::Weighted(_) => Why::Nearest,
            ClusterOrder::Listed(_) => Why::First,
            ClusterOrder::Latency => Why::Fastest,
            ClusterOrder::Pinned(_) => Why::Pinned,
        },
        (false, _) if health.total == 0 => Why::Empty,
        (false, _) if !health.reachable => Why::Unreachable,
        (false, _) if health.ejected => Why::Ejected,
        (false, _) if health.ready == 0 => Why::NotReady,
        (false, _) if health.healthy == 0 => Why::EndpointsEjected,
        (false, _) => Why::NotNeeded,
    }
}

#[cfg(test)]
mod tests;
