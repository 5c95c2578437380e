//! Addresses that Services declare as their own. Each belongs to one Service at most.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use portolan_model::declared::{DeclaredServiceKind, ServiceSpec};
use portolan_model::{Problem, ServiceKey, ServiceKind, Severity};

use super::VipPools;
use super::service::problem;

#[derive(Debug)]
pub(super) struct ClusterIps {
    pools: VipPools,
    /// Who claims an address; the oldest claim holds.
    claims: BTreeMap<IpAddr, BTreeSet<(u64, ServiceKey)>>,
}

impl ClusterIps {
    pub(super) fn new(pools: VipPools) -> Self {
        Self {
            pools,
            claims: BTreeMap::new(),
        }
    }

    /// Notes a Service's claims. Returns everyone who claims one of the same addresses.
    pub(super) fn claim(
        &mut self,
        key: &ServiceKey,
        created_ms: u64,
        spec: &ServiceSpec,
    ) -> BTreeSet<ServiceKey> {
        let mut rivals = BTreeSet::new();
        for ip in claimed(spec) {
            let claims = self.claims.entry(*ip).or_default();
            rivals.extend(claims.iter().map(|(_, rival)| rival.clone()));
            claims.insert((created_ms, key.clone()));
        }
        rivals
    }

    /// Takes a Service's claims back. Returns everyone who claims one of the same addresses.
    pub(super) fn unclaim(
        &mut self,
        key: &ServiceKey,
        created_ms: u64,
        spec: &ServiceSpec,
    ) -> BTreeSet<ServiceKey> {
        let mut rivals = BTreeSet::new();
        for ip in claimed(spec) {
            if let Some(claims) = self.claims.get_mut(ip) {
                claims.remove(&(created_ms, key.clone()));
                rivals.extend(claims.iter().map(|(_, rival)| rival.clone()));
                if claims.is_empty() {
                    self.claims.remove(ip);
                }
            }
        }
        rivals
    }

    /// The declared addresses that a Service may have: all of them or none.
    pub(super) fn granted(&self, key: &ServiceKey, spec: &ServiceSpec) -> Vec<IpAddr> {
        let free = claimed(spec).all(|ip| self.objection(key, *ip).is_none());
        if free {
            claimed(spec).copied().collect()
        } else {
            Vec::new()
        }
    }

    /// Why a Service does not have the addresses that it declares.
    pub(super) fn problems(&self, key: &ServiceKey, spec: &ServiceSpec) -> Vec<Problem> {
        claimed(spec)
            .filter_map(|ip| self.objection(key, *ip))
            .map(|message| {
                problem(
                    Severity::Error,
                    "spec.clusterIPs",
                    message,
                    "leave the address out: the service gets a virtual IP of its own",
                )
            })
            .collect()
    }

    fn objection(&self, key: &ServiceKey, ip: IpAddr) -> Option<String> {
        if self.pools.own(ip) {
            return Some(format!(
                "{ip} lies in the pool of virtual IPs, which Portolan alone assigns"
            ));
        }
        let (_, owner) = self.claims.get(&ip)?.first()?;
        (owner != key).then(|| format!("{ip} already belongs to the older Service {owner}"))
    }
}

fn claimed(spec: &ServiceSpec) -> impl Iterator<Item = &IpAddr> {
    let claims = matches!(spec.kind, DeclaredServiceKind::Of(ServiceKind::Virtual));
    spec.cluster_ips.iter().filter(move |_| claims)
}
