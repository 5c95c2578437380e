//! Virtual IPs: one for each key, stable for as long as the key is wanted.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use portolan_model::{ClusterName, ServiceKey};

use super::VipPools;

/// Virtual IPs that nobody wants any more are remembered, so that a service that returns gets its
/// own again; beyond this many the oldest is forgotten.
const IDLE_MAX: usize = 65_536;

/// Usable last octets of a /24: neither 0 nor 255.
const PER_BLOCK: u32 = 254;

/// A pool of this many addresses or more keeps a quarter for this cluster's own names: what peers offer may
/// take the rest, and must not leave a new service here without an address.
const RESERVED_FROM: u32 = 1_024;

/// How keys of this cluster's own names end.
const LOCAL_SUFFIX: &str = "@cluster.local";

/// The key of a service's virtual IP for the whole set.
pub(super) fn set_key(service: &ServiceKey) -> String {
    service.to_string()
}

/// The key of a service's virtual IP for this cluster alone. A cluster name has no dot, so no
/// pinned key can equal it.
pub(super) fn local_key(service: &ServiceKey) -> String {
    format!("{service}{LOCAL_SUFFIX}")
}

/// Whether a key is for names of the set, of which peers can cause any number.
fn is_wide(key: &str) -> bool {
    !key.ends_with(LOCAL_SUFFIX)
}

/// The key of a service's virtual IP for one cluster of the set.
pub(super) fn pinned_key(service: &ServiceKey, cluster: &ClusterName) -> String {
    format!("{service}@{cluster}")
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Assigned in an earlier life; whether it is still wanted is not known yet.
    Restored,
    Used,
    /// No longer wanted; the number orders by age.
    Idle(u64),
}

#[derive(Debug)]
pub(super) struct VipTable {
    pools: VipPools,
    eligible: Eligible,
    assigned: BTreeMap<String, (Ipv4Addr, State)>,
    taken: BTreeSet<Ipv4Addr>,
    /// How many used keys are for names of the set.
    wide: u32,
    idle: BTreeMap<u64, String>,
    retired: u64,
    /// Assignments and releases since the last [`VipTable::drain`].
    news: BTreeMap<String, Option<Vec<IpAddr>>>,
}

impl VipTable {
    pub(super) fn new(pools: VipPools) -> Self {
        Self {
            pools,
            eligible: Eligible::of(pools),
            assigned: BTreeMap::new(),
            taken: BTreeSet::new(),
            wide: 0,
            idle: BTreeMap::new(),
            retired: 0,
            news: BTreeMap::new(),
        }
    }

    /// Takes over an assignment of an earlier life, if the pools still allow it.
    pub(super) fn restore(&mut self, key: String, ips: &[IpAddr]) {
        let address = ips.iter().find_map(|ip| match ip {
            IpAddr::V4(ip) => Some(*ip),
            IpAddr::V6(_) => None,
        });
        let Some(address) = address.filter(|ip| self.eligible.contains(*ip)) else {
            return;
        };
        if self.assigned.contains_key(&key) || !self.taken.insert(address) {
            return;
        }
        let now = self.family(address);
        if now != ips {
            self.news.insert(key.clone(), Some(now));
        }
        self.assigned.insert(key, (address, State::Restored));
    }

    /// The virtual IPs of a key, assigned now if it has none. `None`: the pool is exhausted.
    pub(super) fn want(&mut self, key: &str) -> Option<Vec<IpAddr>> {
        if let Some((address, state)) = self.assigned.get_mut(key) {
            let address = *address;
            let before = std::mem::replace(state, State::Used);
            self.wide += u32::from(before != State::Used && is_wide(key));
            if let State::Idle(age) = before {
                self.idle.remove(&age);
                self.news.insert(key.to_owned(), Some(self.family(address)));
            }
            return Some(self.family(address));
        }
        if is_wide(key) && self.wide >= self.wide_max() {
            return None;
        }
        let address = self.allocate(key)?;
        self.wide += u32::from(is_wide(key));
        self.taken.insert(address);
        self.assigned.insert(key.to_owned(), (address, State::Used));
        let ips = self.family(address);
        self.news.insert(key.to_owned(), Some(ips.clone()));
        Some(ips)
    }

    /// Says which keys a service wants now; its others are free again. Returns whether any is.
    pub(super) fn settle(&mut self, service: &ServiceKey, wanted: &BTreeSet<String>) -> bool {
        let (set, prefix) = (set_key(service), format!("{service}@"));
        let unwanted: Vec<String> = self
            .assigned
            .get_key_value(&set)
            .into_iter()
            .chain(
                self.assigned
                    .range(prefix.clone()..)
                    .take_while(|(key, _)| key.starts_with(&prefix)),
            )
            .filter(|(key, (_, state))| *state == State::Used && !wanted.contains(*key))
            .map(|(key, _)| key.clone())
            .collect();
        for key in &unwanted {
            self.retire(key);
        }
        !unwanted.is_empty()
    }

    /// Assignments to persist and keys to forget, since the last call.
    pub(super) fn drain(&mut self) -> (BTreeMap<String, Vec<IpAddr>>, Vec<String>) {
        let mut assigned = BTreeMap::new();
        let mut released = Vec::new();
        for (key, ips) in std::mem::take(&mut self.news) {
            match ips {
                Some(ips) => {
                    assigned.insert(key, ips);
                }
                None => released.push(key),
            }
        }
        (assigned, released)
    }

    fn wide_max(&self) -> u32 {
        let size = self.eligible.size();
        if size < RESERVED_FROM {
            return size;
        }
        size - size / 4
    }

    /// A used key is used no more.
    fn retire(&mut self, key: &str) {
        if let Some((_, state)) = self.assigned.get_mut(key) {
            *state = State::Idle(self.retired);
            self.wide -= u32::from(is_wide(key));
            self.idle.insert(self.retired, key.to_owned());
            self.retired += 1;
            self.news.insert(key.to_owned(), None);
        }
        if self.idle.len() > IDLE_MAX {
            self.forget_oldest_idle();
        }
    }

    fn forget_oldest_idle(&mut self) -> Option<Ipv4Addr> {
        let (_, key) = self.idle.pop_first()?;
        let (address, _) = self.assigned.remove(&key)?;
        self.taken.remove(&address);
        Some(address)
    }

    /// A free address near the key's hash; where none is free, that of the oldest idle key, and at
    /// last that of a key which an earlier life left behind and nobody has asked for.
    fn allocate(&mut self, key: &str) -> Option<Ipv4Addr> {
        let size = self.eligible.size();
        if size == 0 {
            return None;
        }
        if u32::try_from(self.taken.len()).is_ok_and(|taken| taken < size) {
            let start = u32::try_from(hash(key) % u64::from(size)).unwrap_or(0);
            return (0..size)
                .map(|step| {
                    let index = (u64::from(start) + u64::from(step)) % u64::from(size);
                    self.eligible.nth(u32::try_from(index).unwrap_or(0))
                })
                .find(|address| !self.taken.contains(address));
        }
        self.forget_oldest_idle().or_else(|| self.forget_restored())
    }

    fn forget_restored(&mut self) -> Option<Ipv4Addr> {
        let key = self
            .assigned
            .iter()
            .find(|(_, (_, state))| *state == State::Restored)
            .map(|(key, _)| key.clone())?;
        let (address, _) = self.assigned.remove(&key)?;
        self.taken.remove(&address);
        self.news.insert(key, None);
        Some(address)
    }

    fn family(&self, address: Ipv4Addr) -> Vec<IpAddr> {
        let twin = self.pools.v6.map(|pool| {
            let base = u128::from(pool.network());
            IpAddr::V6(Ipv6Addr::from(base | u128::from(u32::from(address))))
        });
        std::iter::once(IpAddr::V4(address)).chain(twin).collect()
    }
}

/// The addresses of the pool that may be given out: none that ends in .0 or .255, and neither
/// network nor broadcast address.
#[derive(Debug)]
enum Eligible {
    /// Whole /24 blocks from a base.
    Blocks { base: u32, count: u32 },
    /// A pool smaller than a /24.
    Few(Vec<Ipv4Addr>),
}

impl Eligible {
    fn of(pools: VipPools) -> Self {
        let pool = pools.v4.trunc();
        match 24_u8.checked_sub(pool.prefix_len()) {
            Some(bits) => Self::Blocks {
                base: pool.network().into(),
                count: 1 << bits,
            },
            None => Self::Few(
                pool.hosts()
                    .filter(|ip| !matches!(ip.octets()[3], 0 | 255))
                    .collect(),
            ),
        }
    }

    fn size(&self) -> u32 {
        match self {
            Self::Blocks { count, .. } => count.saturating_mul(PER_BLOCK),
            Self::Few(addresses) => u32::try_from(addresses.len()).unwrap_or(u32::MAX),
        }
    }

    fn nth(&self, index: u32) -> Ipv4Addr {
        match self {
            Self::Blocks { base, .. } => {
                Ipv4Addr::from(base + (index / PER_BLOCK) * 256 + 1 + index % PER_BLOCK)
            }
            Self::Few(addresses) => addresses[index as usize % addresses.len()],
        }
    }

    fn contains(&self, ip: Ipv4Addr) -> bool {
        match self {
            Self::Blocks { base, count } => {
                u32::from(ip)
                    .checked_sub(*base)
                    .is_some_and(|offset| offset / 256 < *count)
                    && !matches!(ip.octets()[3], 0 | 255)
            }
            Self::Few(addresses) => addresses.contains(&ip),
        }
    }
}

/// FNV-1a: the same in every build and on every machine, which the standard hasher does not promise.
fn hash(key: &str) -> u64 {
    key.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(v4: &str) -> VipTable {
        VipTable::new(VipPools {
            v4: v4.parse().unwrap(),
            v6: Some("fd24::/96".parse().unwrap()),
        })
    }

    fn service(name: &str) -> ServiceKey {
        format!("shop/{name}").parse().unwrap()
    }

    #[test]
    fn an_assignment_is_stable_deterministic_and_dual() {
        let (mut one, mut two) = (table("240.241.0.0/16"), table("240.241.0.0/16"));
        let ips = one.want("shop/orders").unwrap();
        assert_eq!(one.want("shop/orders"), Some(ips.clone()));
        assert_eq!(two.want("shop/orders"), Some(ips.clone()));
        let [IpAddr::V4(v4), IpAddr::V6(v6)] = ips[..] else {
            panic!("{ips:?}")
        };
        assert_eq!(u128::from(v6) & 0xffff_ffff, u128::from(u32::from(v4)));
        assert_eq!(one.drain().0.len(), 1);
        assert_eq!(one.drain().0.len(), 0);
    }

    #[test]
    fn a_pool_is_used_to_its_end_without_duplicates_and_then_says_so() {
        for (pool, size) in [
            ("10.0.0.0/29", 6),
            ("10.0.0.0/24", 254),
            ("10.0.0.0/23", 508),
        ] {
            let mut table = table(pool);
            let mut seen = BTreeSet::new();
            for n in 0..size {
                let ips = table.want(&format!("k/{n}")).unwrap();
                let IpAddr::V4(v4) = ips[0] else { panic!() };
                assert!(
                    !matches!(v4.octets()[3], 0 | 255) && seen.insert(v4),
                    "{v4}"
                );
            }
            assert_eq!(table.want("k/more"), None);
        }
    }

    #[test]
    fn names_of_the_set_leave_room_for_the_cluster_s_own() {
        let mut table = table("10.0.0.0/21");
        let wide = (0..).take_while(|n| table.want(&format!("far/s{n}")).is_some());
        assert_eq!(wide.count(), 8 * 254 * 3 / 4);
        assert!(table.want(&local_key(&service("a"))).is_some());
        assert_eq!(table.want("shop/a"), None);
        assert!(table.settle(&"far/s0".parse().unwrap(), &BTreeSet::new()));
        assert!(table.want("shop/a").is_some());
        assert_eq!(table.want("far/s0"), table.want("far/s0"));
    }

    #[test]
    fn what_is_released_is_reused_only_when_nothing_else_is_left() {
        let mut table = table("10.0.0.0/30");
        let gone = table.want("shop/a").unwrap();
        assert!(table.settle(&service("a"), &BTreeSet::new()));
        assert_eq!(table.drain().1, Vec::<String>::from(["shop/a".into()]));
        let other = table.want("shop/b").unwrap();
        assert_ne!(other, gone);
        assert_eq!(table.want("shop/c"), Some(gone.clone()));
        assert_eq!(table.want("shop/a"), None);
        table.settle(&service("c"), &BTreeSet::new());
        assert_eq!(table.want("shop/c"), Some(gone));
    }

    #[test]
    fn restored_assignments_are_kept_for_their_owners_and_checked() {
        let mut table = table("10.0.0.0/24");
        let ip = |text: &str| -> IpAddr { text.parse().unwrap() };
        table.restore("shop/a".into(), &[ip("10.0.0.77")]);
        table.restore("shop/b".into(), &[ip("10.0.0.77")]);
        table.restore("shop/c".into(), &[ip("192.168.0.1")]);
        table.restore("shop/d".into(), &[ip("10.0.0.0")]);
        assert_eq!(table.want("shop/a").unwrap()[0], ip("10.0.0.77"));
        for key in ["shop/b", "shop/c", "shop/d"] {
            let ips = table.want(key).unwrap();
            assert!(ips[0] != ip("10.0.0.77") && ips[0] != ip("10.0.0.0"));
        }
        assert_eq!(table.drain().0.len(), 4);
    }

    #[test]
    fn only_the_named_service_is_settled() {
        let mut table = table("10.0.0.0/24");
        for key in [
            "shop/a",
            "shop/a@cluster.local",
            "shop/a@west",
            "shop/ab",
            "shop/a-b",
        ] {
            table.want(key);
        }
        table.settle(&service("a"), &BTreeSet::from(["shop/a@west".to_owned()]));
        let (_, released) = table.drain();
        assert_eq!(released, ["shop/a", "shop/a@cluster.local"]);
    }
}
