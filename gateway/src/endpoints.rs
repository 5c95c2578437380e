//! Which endpoint gets the next tunnel. Pure: time and randomness come in as arguments.
//!
//! The least loaded for its weight takes it, counted by the tunnels that this worker has open. An
//! endpoint that did not accept a connection is left alone for a while: the control plane takes it
//! out of the snapshot within moments; until then each failure doubles its rest.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use portolan_model::Endpoint;
use portolan_policy::balance::least_loaded;

/// How long an endpoint is left alone after its first failure.
const REST_FIRST: Duration = Duration::from_millis(500);
/// How long it is left alone at most.
const REST_MAX: Duration = Duration::from_secs(10);
/// How many failed endpoints are remembered; beyond it the one that returns first is forgotten.
const FAILED_MAX: usize = 4_096;

/// Holds what one worker knows of the endpoints it sends tunnels to, by the address of their sidecar.
#[derive(Debug, Default)]
pub(crate) struct Endpoints {
    open: BTreeMap<SocketAddr, u32>,
    failed: BTreeMap<SocketAddr, Failed>,
}

#[derive(Debug, Clone, Copy)]
struct Failed {
    times: u32,
    until: Duration,
}

impl Endpoints {
    /// The endpoint for the next tunnel among `ready`, leaving out those that were `tried` for it.
    /// Endpoints at rest are taken only when there is no other.
    pub(crate) fn choose<'a>(
        &self,
        ready: &[&'a Endpoint],
        tried: &[SocketAddr],
        now: Duration,
        random: u64,
    ) -> Option<&'a Endpoint> {
        let untried = || {
            ready
                .iter()
                .copied()
                .filter(|it| !tried.contains(&it.inbound))
        };
        let rested: Vec<&Endpoint> = untried()
            .filter(|it| !self.rests(it.inbound, now))
            .collect();
        let takers = if rested.is_empty() {
            untried().collect()
        } else {
            rested
        };
        least_loaded(&takers, |it| self.open(it.inbound), |it| it.weight, random).copied()
    }

    /// A tunnel to the endpoint begins.
    pub(crate) fn begin(&mut self, endpoint: SocketAddr) {
        let open = self.open.entry(endpoint).or_default();
        *open = open.saturating_add(1);
    }

    /// A tunnel that began is over.
    pub(crate) fn end(&mut self, endpoint: SocketAddr) {
        if let Some(open) = self.open.get_mut(&endpoint) {
            *open = open.saturating_sub(1);
            if *open == 0 {
                self.open.remove(&endpoint);
            }
        }
    }

    /// The endpoint did not accept a connection.
    pub(crate) fn failed(&mut self, endpoint: SocketAddr, now: Duration) {
        let before = self.failed.get(&endpoint).map_or(0, |failed| failed.times);
        let rest = REST_FIRST
            .saturating_mul(2_u32.saturating_pow(before))
            .min(REST_MAX);
        let failed = Failed {
            times: before.saturating_add(1),
            until: now.saturating_add(rest),
        };
        self.failed.insert(endpoint, failed);
        if self.failed.len() > FAILED_MAX {
            self.forget_one();
        }
    }

    /// The endpoint accepted a connection: it is as good as any.
    pub(crate) fn recovered(&mut self, endpoint: SocketAddr) {
        self.failed.remove(&endpoint);
    }

    fn open(&self, endpoint: SocketAddr) -> u32 {
        self.open.get(&endpoint).copied().unwrap_or_default()
    }

    fn rests(&self, endpoint: SocketAddr, now: Duration) -> bool {
        self.failed
            .get(&endpoint)
            .is_some_and(|failed| now < failed.until)
    }

    fn forget_one(&mut self) {
        let first = self.failed.iter().min_by_key(|(_, failed)| failed.until);
        if let Some(endpoint) = first.map(|(endpoint, _)| *endpoint) {
            self.failed.remove(&endpoint);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn address(host: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, host], 15_008))
    }

    fn endpoint(host: u8, weight: u32) -> Endpoint {
        Endpoint {
            workload: format!("shop/orders-{host}").parse().unwrap(),
            address: address(host).ip(),
            inbound: address(host),
            identity: "spiffe://a.set/ns/shop/sa/orders".parse().unwrap(),
            locality: portolan_model::Locality {
                region: "us".parse().unwrap(),
                zone: None,
            },
            weight,
            ready: true,
            hostname: None,
            ports: [(80, 8080)].into(),
        }
    }

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn load_follows_weight() {
        let (light, heavy) = (endpoint(1, 100), endpoint(2, 300));
        let ready = [&light, &heavy];
        let mut endpoints = Endpoints::default();
        for n in 0..400_u64 {
            let random = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let chosen = endpoints
                .choose(&ready, &[], ms(0), random)
                .unwrap()
                .inbound;
            endpoints.begin(chosen);
        }
        assert_eq!(endpoints.open(address(1)), 100);
        assert_eq!(endpoints.open(address(2)), 300);
        for _ in 0..400 {
            endpoints.end(address(2));
        }
        assert_eq!(endpoints.open(address(2)), 0);
        let next = endpoints.choose(&ready, &[], ms(0), 0).unwrap();
        assert_eq!(next.inbound, address(2));
    }

    #[test]
    fn a_failed_endpoint_rests_longer_each_time_and_recovers_at_once() {
        let mut endpoints = Endpoints::default();
        assert!(!endpoints.rests(address(1), ms(0)));
        endpoints.failed(address(1), ms(0));
        assert!(endpoints.rests(address(1), ms(499)));
        assert!(!endpoints.rests(address(1), ms(500)));
        assert!(!endpoints.rests(address(2), ms(0)));
        endpoints.failed(address(1), ms(500));
        assert!(endpoints.rests(address(1), ms(1_499)));
        for _ in 0..40 {
            endpoints.failed(address(1), ms(2_000));
        }
        assert!(endpoints.rests(address(1), ms(11_999)));
        assert!(!endpoints.rests(address(1), ms(12_000)));
        endpoints.recovered(address(1));
        endpoints.failed(address(1), ms(20_000));
        assert!(!endpoints.rests(address(1), ms(20_500)));
    }

    #[test]
    fn who_rests_is_the_last_resort_and_who_was_tried_is_none() {
        let (one, two) = (endpoint(1, 100), endpoint(2, 100));
        let mut endpoints = Endpoints::default();
        endpoints.failed(address(1), ms(0));
        let chosen = |tried: &[SocketAddr]| {
            endpoints
                .choose(&[&one, &two], tried, ms(1), 7)
                .map(|endpoint| endpoint.inbound)
        };
        assert_eq!(chosen(&[]), Some(address(2)));
        assert_eq!(chosen(&[address(2)]), Some(address(1)));
        assert_eq!(chosen(&[address(1), address(2)]), None);
    }

    #[test]
    fn memory_is_bounded() {
        let mut endpoints = Endpoints::default();
        for port in 1..=u16::try_from(FAILED_MAX + 10).unwrap() {
            endpoints.failed(SocketAddr::from(([10, 0, 0, 1], port)), ms(0));
        }
        assert_eq!(endpoints.failed.len(), FAILED_MAX);
    }

    proptest! {
        #[test]
        fn somebody_untried_is_found_whenever_there_is_somebody(
            hosts in proptest::collection::btree_set(1..20_u8, 0..8),
            tried in proptest::collection::vec(1..20_u8, 0..8),
            failed in proptest::collection::vec(1..20_u8, 0..8),
            random in any::<u64>(),
        ) {
            let all: Vec<Endpoint> = hosts.iter().map(|host| endpoint(*host, 100)).collect();
            let ready: Vec<&Endpoint> = all.iter().collect();
            let tried: Vec<SocketAddr> = tried.into_iter().map(address).collect();
            let mut endpoints = Endpoints::default();
            for host in failed {
                endpoints.failed(address(host), ms(0));
            }
            let chosen = endpoints.choose(&ready, &tried, ms(1), random);
            let untried = ready.iter().any(|it| !tried.contains(&it.inbound));
            prop_assert_eq!(chosen.is_some(), untried);
            prop_assert!(chosen.is_none_or(|it| !tried.contains(&it.inbound)));
        }
    }
}
