//! Which endpoint of the own cluster takes a call, by the algorithm that the policy names.

use std::cell::RefCell;
use std::sync::Arc;

use foldhash::HashMap;
use portolan_model::snapshot::Service;
use portolan_model::traffic::Algorithm;
use portolan_model::{Endpoint, WorkloadKey};
use portolan_policy::balance::{HashTable, RoundRobin, pick_any, pick_two, slow_started};
use portolan_policy::failover::serving;
use portolan_policy::route::Route;

use super::{Seen, ServiceState};

/// Whose turn it is, and where keys lead, for each port of a service.
#[derive(Debug, Default)]
pub(super) struct Turns(RefCell<HashMap<u16, PortTurns>>);

#[derive(Debug, Default)]
struct PortTurns {
    robin: RoundRobin<WorkloadKey>,
    table: Option<Table>,
}

/// A hash table, and what it was made from.
#[derive(Debug)]
struct Table {
    ring: bool,
    service: Arc<Service>,
    members: Vec<(WorkloadKey, u32)>,
    table: HashTable,
}

impl Seen<'_> {
    /// One of `endpoints`, for a request with this hash key.
    pub(crate) fn pick<'a>(
        &self,
        service: &ServiceState,
        route: &Route,
        endpoints: &[&'a Endpoint],
        key: Option<u64>,
    ) -> Option<&'a Endpoint> {
        let Seen { balancer, now } = *self;
        let balancing = &route.policy().balancing;
        let weight = |endpoint: &&Endpoint| {
            let Some(rule) = balancing.slow_start else {
                return endpoint.weight;
            };
            let since = balancer.endpoint(&endpoint.workload).ready_since.get();
            let age = since.map(|since| now.saturating_sub(since));
            slow_started(endpoint.weight, age, Some(rule))
        };
        let any = || pick_any(endpoints, weight, rand::random()).copied();
        let two = |cost: &dyn Fn(&&Endpoint) -> f64| {
            let random = (rand::random(), rand::random());
            pick_two(endpoints, cost, weight, random).copied()
        };
        match &balancing.algorithm {
            Algorithm::PeakEwma => two(&|it| balancer.endpoint(&it.workload).cost(now)),
            Algorithm::LeastRequest => {
                two(&|it| balancer.endpoint(&it.workload).outstanding().into())
            }
            Algorithm::Random => any(),
            Algorithm::RoundRobin => {
                let mut ports = service.turns.0.borrow_mut();
                let turns = ports.entry(route.destination.port).or_default();
                let each = endpoints.iter().map(|it| (&it.workload, weight(it)));
                let at = turns.robin.next(each, rand::random())?;
                endpoints.get(at).copied()
            }
            Algorithm::RingHash(_) | Algorithm::Maglev(_) => match key {
                None => any(),
                Some(key) => {
                    let mut ports = service.turns.0.borrow_mut();
                    let turns = ports.entry(route.destination.port).or_default();
                    let ring = matches!(balancing.algorithm, Algorithm::RingHash(_));
                    turns.table(route, ring).choose(key, endpoints)
                }
            },
        }
    }
}

impl PortTurns {
    /// The table for the service's endpoints as they are now. It is made again only when an endpoint came,
    /// went, or got another weight: whether they are ready does not matter.
    fn table(&mut self, route: &Route, ring: bool) -> &Table {
        let fresh = self
            .table
            .take()
            .filter(|table| table.ring == ring)
            .map(|table| table.follow(route))
            .unwrap_or_else(|| Table::new(route, members(route), ring));
        self.table.insert(fresh)
    }
}

impl Table {
    fn new(route: &Route, members: Vec<(WorkloadKey, u32)>, ring: bool) -> Self {
        let named = members
            .iter()
            .map(|(key, weight)| (key.to_string(), *weight));
        let named: Vec<_> = named.collect();
        Self {
            ring,
            service: Arc::clone(&route.service),
            table: if ring {
                HashTable::ring(&named)
            } else {
                HashTable::maglev(&named)
            },
            members,
        }
    }

    fn follow(self, route: &Route) -> Self {
        if Arc::ptr_eq(&self.service, &route.service) {
            return self;
        }
        let members = members(route);
        if members == self.members {
            let service = Arc::clone(&route.service);
            return Self { service, ..self };
        }
        Self::new(route, members, self.ring)
    }

    fn choose<'a>(&self, key: u64, endpoints: &[&'a Endpoint]) -> Option<&'a Endpoint> {
        let find = |at: usize| {
            let (workload, _) = self.members.get(at)?;
            endpoints
                .iter()
                .find(|it| &it.workload == workload)
                .copied()
        };
        find(self.table.choose(key, |at| find(at).is_some())?)
    }
}

/// In an order that every proxy knows, so that keys lead to the same endpoints from all of them.
fn members(route: &Route) -> Vec<(WorkloadKey, u32)> {
    let mut members: Vec<_> = serving(route)
        .map(|endpoint| (endpoint.workload.clone(), endpoint.weight))
        .collect();
    members.sort();
    members
}
