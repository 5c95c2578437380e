//! Who is alive: what presence streams said, what lapsed, and what follows from it. Time comes in
//! as an argument, since the control plane's start.

mod life;

use std::collections::BTreeMap;
use std::time::Duration;

use portolan_model::snapshot::{Gateway, LinkState};
use portolan_model::{ClusterName, WorkloadKey};

use life::Life;

/// How long a proxy may be gone before it counts as not alive: longer than a reconnection takes.
pub(crate) const GRACE: Duration = Duration::from_secs(1);
/// How long after the control plane's start the last known state is believed, so that its restart
/// moves no traffic.
pub(crate) const START_GRACE: Duration = Duration::from_secs(10);
/// How long the declaration of a leased workload outlives its sidecar.
pub(crate) const LEASE_KEPT: Duration = Duration::from_secs(300);
/// How long it does when the sidecar said farewell: long enough for a restart. Until then it counts as an
/// endpoint that fails, and sends a part of the calls to other clusters.
pub(crate) const FAREWELL_KEPT: Duration = Duration::from_secs(10);

/// Round-trip times that differ by no more than this, or by a quarter, are the same: every proxy would hear of it.
const RTT_NOISE_US: u32 = 1_000;

/// Which stream says something; later streams have larger numbers.
pub(crate) type StreamId = u64;

/// What a gateway sees of the links to its peers; `None`: it has not said so yet.
pub(crate) type Links = BTreeMap<ClusterName, LinkState>;

/// What follows from what happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Effect {
    /// A workload can serve or cannot; `None`: nobody says any more.
    Liveness {
        workload: WorkloadKey,
        ready: Option<bool>,
    },
    /// These gateways are alive now.
    Gateways(Vec<Gateway>),
    /// This is known of the links now.
    Links(Links),
    /// The workload's lease is over.
    Expired(WorkloadKey),
    /// Several live proxies claim this name. Told once.
    Disputed(String),
}

/// See the module's description.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    /// A sidecar says whether its app is ready; `None`: it has not said so yet.
    workloads: BTreeMap<WorkloadKey, Life<Option<bool>>>,
    gateways: BTreeMap<String, Life<GatewayFacts>>,
    /// The links as they were last told.
    told: Links,
}

#[derive(Debug, Clone)]
struct GatewayFacts {
    gateway: Gateway,
    links: Option<Links>,
}

impl Ledger {
    /// A leased workload was found in the registry at start; `ready` is what was last known.
    pub(crate) fn workload_found(
        &mut self,
        now: Duration,
        workload: WorkloadKey,
        ready: bool,
    ) -> Vec<Effect> {
        let effect = liveness(&workload, ready);
        self.workloads
            .insert(workload, Life::found(now, ready, None));
        vec![effect]
    }

    /// A sidecar registered the workload. What was known of its readiness holds for a moment, until it says itself.
    pub(crate) fn workload_opened(
        &mut self,
        now: Duration,
        stream: StreamId,
        workload: &WorkloadKey,
    ) -> Vec<Effect> {
        let mut effects = Vec::new();
        let life = self.workloads.entry(workload.clone()).or_insert_with(|| {
            effects.push(liveness(workload, false));
            Life::found(now, false, None)
        });
        life.opened(now, stream, None);
        effects
    }

    /// A sidecar is about to stop.
    pub(crate) fn workload_draining(
        &mut self,
        now: Duration,
        stream: StreamId,
        workload: &WorkloadKey,
    ) -> Vec<Effect> {
        let Some(life) = self.workloads.get_mut(workload) else {
            return Vec::new();
        };
        if let Some(claim) = life.claim(stream) {
            claim.said = Some(false);
        }
        if !life.draining(now, stream) {
            return Vec::new();
        }
        follow(workload, life)
    }

    /// A sidecar says how its app is.
    pub(crate) fn workload_ready(
        &mut self,
        stream: StreamId,
        workload: &WorkloadKey,
        ready: bool,
    ) -> Vec<Effect> {
        let Some(life) = self.workloads.get_mut(workload) else {
            return Vec::new();
        };
        if let Some(claim) = life.claim(stream) {
            claim.said = Some(ready);
        }
        if !life.is_held_by(stream) {
            return Vec::new();
        }
        follow(workload, life)
    }

    /// A sidecar's stream ended.
    pub(crate) fn workload_closed(
        &mut self,
        now: Duration,
        stream: StreamId,
        workload: &WorkloadKey,
    ) -> Vec<Effect> {
        let Some(life) = self.workloads.get_mut(workload) else {
            return Vec::new();
        };
        if !life.closed(now, stream) {
            return Vec::new();
        }
        follow(workload, life)
    }

    /// A gateway was alive when last heard of.
    pub(crate) fn gateway_found(&mut self, now: Duration, gateway: Gateway) -> Vec<Effect> {
        let name = gateway.name.clone();
        let facts = GatewayFacts {
            gateway,
            links: None,
        };
        self.gateways.insert(name, Life::found(now, true, facts));
        vec![Effect::Gateways(self.alive_gateways())]
    }

    /// A gateway registered.
    pub(crate) fn gateway_opened(
        &mut self,
        now: Duration,
        stream: StreamId,
        gateway: Gateway,
    ) -> Vec<Effect> {
        let before = self.alive_gateways();
        let facts = GatewayFacts {
            gateway,
            links: None,
        };
        let life = self
            .gateways
            .entry(facts.gateway.name.clone())
            .or_insert_with(|| Life::found(now, true, facts.clone()));
        if !life.opened(now, stream, facts) {
            return Vec::new();
        }
        follow_gateway(life);
        self.gateways_unless(&before)
    }

    /// A gateway says what it sees of its links.
    pub(crate) fn gateway_links(
        &mut self,
        stream: StreamId,
        name: &str,
        links: Links,
    ) -> Vec<Effect> {
        let Some(life) = self.gateways.get_mut(name) else {
            return Vec::new();
        };
        if let Some(claim) = life.claim(stream) {
            claim.said.links = Some(links);
        }
        if life.is_held_by(stream) {
            follow_gateway(life);
        }
        self.links_if_new()
    }

    /// A gateway is about to stop.
    pub(crate) fn gateway_draining(
        &mut self,
        now: Duration,
        stream: StreamId,
        name: &str,
    ) -> Vec<Effect> {
        let before = self.alive_gateways();
        let Some(life) = self.gateways.get_mut(name) else {
            return Vec::new();
        };
        if !life.draining(now, stream) {
            return Vec::new();
        }
        follow_gateway(life);
        self.gateways_and_links(&before)
    }

    /// A gateway's stream ended.
    pub(crate) fn gateway_closed(
        &mut self,
        now: Duration,
        stream: StreamId,
        name: &str,
    ) -> Vec<Effect> {
        let before = self.alive_gateways();
        let Some(life) = self.gateways.get_mut(name) else {
            return Vec::new();
        };
        if !life.closed(now, stream) {
            return Vec::new();
        }
        follow_gateway(life);
        self.gateways_and_links(&before)
    }

    /// Lets lapse what nobody confirmed in time.
    pub(crate) fn tick(&mut self, now: Duration) -> Vec<Effect> {
        let mut effects = Vec::new();
        for (workload, life) in &mut self.workloads {
            if life.lapses(now) {
                effects.push(liveness(workload, false));
            }
            if life.is_disputed(now) {
                effects.push(Effect::Disputed(format!("workload {workload}")));
            }
        }
        let over = self.workloads.iter().filter(|(_, life)| life.is_over(now));
        let over: Vec<WorkloadKey> = over.map(|(workload, _)| workload.clone()).collect();
        for workload in over {
            self.workloads.remove(&workload);
            effects.push(Effect::Expired(workload));
        }
        let before = self.alive_gateways();
        for (name, life) in &mut self.gateways {
            life.lapses(now);
            if life.is_disputed(now) {
                effects.push(Effect::Disputed(format!("gateway {name}")));
            }
        }
        self.gateways
            .retain(|_, life| life.alive || life.holder().is_some());
        effects.extend(self.gateways_and_links(&before));
        effects
    }

    /// When [`Ledger::tick`] next has something to do.
    pub(crate) fn next_tick(&self) -> Option<Duration> {
        let workloads = self.workloads.values().filter_map(Life::next);
        let gateways = self.gateways.values().filter_map(Life::next);
        workloads.chain(gateways).min()
    }

    fn alive_gateways(&self) -> Vec<Gateway> {
        let alive = self.gateways.values().filter(|life| life.alive);
        alive.map(|life| life.facts.gateway.clone()).collect()
    }

    fn gateways_and_links(&mut self, before: &[Gateway]) -> Vec<Effect> {
        let mut effects = self.gateways_unless(before);
        effects.extend(self.links_if_new());
        effects
    }

    fn gateways_unless(&self, before: &[Gateway]) -> Vec<Effect> {
        let after = self.alive_gateways();
        if after == before {
            return Vec::new();
        }
        vec![Effect::Gateways(after)]
    }

    fn links_if_new(&mut self) -> Vec<Effect> {
        let mut links = self.merged_links();
        for (peer, state) in &mut links {
            if let Some(told) = self.told.get(peer).filter(|told| alike(**told, *state)) {
                *state = *told;
            }
        }
        if links == self.told {
            return Vec::new();
        }
        self.told.clone_from(&links);
        vec![Effect::Links(links)]
    }

    /// Over all gateways: up with the best time if it is up at any, down if all who speak of it say so.
    fn merged_links(&self) -> Links {
        let mut merged = Links::new();
        let alive = self.gateways.values().filter(|life| life.alive);
        for (peer, state) in alive.filter_map(|life| life.facts.links.as_ref()).flatten() {
            merged
                .entry(peer.clone())
                .and_modify(|known| *known = better(*known, *state))
                .or_insert(*state);
        }
        merged
    }
}

/// Takes over what the stream says that counts. One that has said nothing yet changes nothing.
fn follow(workload: &WorkloadKey, life: &mut Life<Option<bool>>) -> Vec<Effect> {
    let Some(ready) = life.holder().and_then(|claim| claim.said) else {
        return Vec::new();
    };
    if !life.confirm(ready) {
        return Vec::new();
    }
    vec![liveness(workload, ready)]
}

/// Takes over what the stream says that counts. What was known of the links holds until it speaks of them.
fn follow_gateway(life: &mut Life<GatewayFacts>) {
    let Some(claim) = life.holder() else {
        return;
    };
    let (draining, said) = (claim.draining, claim.said.clone());
    if said.links.is_some() || said.gateway != life.facts.gateway {
        life.facts = said;
    }
    life.confirm(!draining);
}

fn liveness(workload: &WorkloadKey, ready: bool) -> Effect {
    Effect::Liveness {
        workload: workload.clone(),
        ready: Some(ready),
    }
}

fn better(a: LinkState, b: LinkState) -> LinkState {
    match (a, b) {
        (LinkState::Up { rtt_us: a }, LinkState::Up { rtt_us: b }) => {
            LinkState::Up { rtt_us: a.min(b) }
        }
        (up @ LinkState::Up { .. }, _) | (_, up @ LinkState::Up { .. }) => up,
        (LinkState::Unknown, _) | (_, LinkState::Unknown) => LinkState::Unknown,
        (LinkState::Down, LinkState::Down) => LinkState::Down,
    }
}

fn alike(told: LinkState, now: LinkState) -> bool {
    match (told, now) {
        (LinkState::Up { rtt_us: told }, LinkState::Up { rtt_us: now }) => {
            told.abs_diff(now) <= RTT_NOISE_US.max(told / 4)
        }
        (LinkState::Up { .. } | LinkState::Unknown | LinkState::Down, _) => told == now,
    }
}

#[cfg(test)]
mod tests;
