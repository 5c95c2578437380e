//! All sites, the directions between them, and the packets under way.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::conditions::{Conditions, WordError};
use crate::link::{Counters, Link};

/// The most bytes under way at a time; what comes on top is dropped like from a full queue.
pub const UNDER_WAY_MAX: usize = 256 << 20;

/// A place with networks of its own.
#[derive(Debug, Clone)]
pub struct Site {
    pub name: String,
    /// Packets to these come here.
    pub networks: Vec<IpNet>,
}

/// One direction, as `show` prints it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    pub from: String,
    pub to: String,
    pub conditions: String,
    pub counters: Counters,
}

/// Why a link's conditions do not change.
#[derive(Debug, Error)]
pub enum ChangeError {
    #[error("there is no site `{name}`; there are {known}")]
    NoSite { name: String, known: String },
    #[error(transparent)]
    Word(#[from] WordError),
}

/// All sites, and everything between them. Moments are times since the emulator's start.
#[derive(Debug)]
pub struct Network {
    sites: Vec<Site>,
    /// From each site to each, row by row.
    links: Vec<Link>,
    under_way: BinaryHeap<Reverse<UnderWay>>,
    under_way_bytes: usize,
    next: u64,
    unroutable: u64,
    random: SmallRng,
}

/// A packet between two sites, ordered by arrival and then by age.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct UnderWay {
    arrival: Duration,
    number: u64,
    link: usize,
    packet: Box<[u8]>,
}

impl Network {
    /// Every direction begins without any fault; the same seed decides the same way again.
    pub fn new(sites: Vec<Site>, seed: u64) -> Self {
        let links = (0..sites.len() * sites.len())
            .map(|_| Link::default())
            .collect();
        Self {
            sites,
            links,
            under_way: BinaryHeap::new(),
            under_way_bytes: 0,
            next: 0,
            unroutable: 0,
            random: SmallRng::seed_from_u64(seed),
        }
    }

    pub fn sites(&self) -> &[Site] {
        &self.sites
    }

    /// Packets that no other site is the place for.
    pub fn unroutable(&self) -> u64 {
        self.unroutable
    }

    /// Takes an IP packet that the site number `from` sent at `now`.
    pub fn send(&mut self, from: usize, packet: &[u8], now: Duration) {
        let to = destination(packet).and_then(|address| self.site_of(address));
        let Some(to) = to.filter(|to| *to != from) else {
            self.unroutable += 1;
            return;
        };
        let link = from * self.sites.len() + to;
        if self.under_way_bytes + packet.len() > UNDER_WAY_MAX {
            self.links[link].counters.overflowed += 1;
            return;
        }
        if let Some(arrival) = self.links[link].send(packet.len(), now, &mut self.random) {
            self.under_way_bytes += packet.len();
            self.next += 1;
            self.under_way.push(Reverse(UnderWay {
                arrival,
                number: self.next,
                link,
                packet: packet.into(),
            }));
        }
    }

    /// When the next packet arrives.
    pub fn next_arrival(&self) -> Option<Duration> {
        self.under_way.peek().map(|Reverse(next)| next.arrival)
    }

    /// The next packet that has arrived at `now`, with the number of its site.
    pub fn arrived(&mut self, now: Duration) -> Option<(usize, Box<[u8]>)> {
        while self.next_arrival().is_some_and(|arrival| arrival <= now) {
            let Reverse(next) = self.under_way.pop()?;
            self.under_way_bytes -= next.packet.len();
            if self.links[next.link].arrive(next.packet.len()) {
                return Some((next.link % self.sites.len(), next.packet));
            }
        }
        None
    }

    /// Changes directions. `links` is `a->b`, `a<->b`, `a` (all to and from it) or `all`; each word one
    /// condition (`delay=30ms`). Nothing changes if a word is wrong.
    pub fn change<W: AsRef<str>>(&mut self, links: &str, words: &[W]) -> Result<(), ChangeError> {
        let chosen = self.choose(links)?;
        let changed = chosen
            .into_iter()
            .map(|link| {
                let mut conditions = self.links[link].conditions;
                for word in words {
                    conditions.change(word.as_ref())?;
                }
                Ok((link, conditions))
            })
            .collect::<Result<Vec<(usize, Conditions)>, WordError>>()?;
        for (link, conditions) in changed {
            self.links[link].conditions = conditions;
        }
        Ok(())
    }

    /// Every direction with its conditions and counters.
    pub fn report(&self) -> Vec<Report> {
        let count = self.sites.len();
        let directions = (0..count).flat_map(|from| (0..count).map(move |to| (from, to)));
        directions
            .filter(|(from, to)| from != to)
            .map(|(from, to)| {
                let link = &self.links[from * count + to];
                Report {
                    from: self.sites[from].name.clone(),
                    to: self.sites[to].name.clone(),
                    conditions: link.conditions.to_string(),
                    counters: link.counters,
                }
            })
            .collect()
    }

    fn choose(&self, links: &str) -> Result<Vec<usize>, ChangeError> {
        let count = self.sites.len();
        let link = |from: usize, to: usize| from * count + to;
        let both = |a: usize, b: usize| [link(a, b), link(b, a)];
        if links == "all" {
            return Ok((0..count * count).collect());
        }
        if let Some((a, b)) = links.split_once("<->") {
            return Ok(both(self.site(a)?, self.site(b)?).to_vec());
        }
        if let Some((from, to)) = links.split_once("->") {
            return Ok(vec![link(self.site(from)?, self.site(to)?)]);
        }
        let site = self.site(links)?;
        Ok((0..count)
            .filter(|other| *other != site)
            .flat_map(|other| both(site, other))
            .collect())
    }

    fn site(&self, name: &str) -> Result<usize, ChangeError> {
        let found = self.sites.iter().position(|site| site.name == name.trim());
        found.ok_or_else(|| ChangeError::NoSite {
            name: name.trim().to_owned(),
            known: self
                .sites
                .iter()
                .map(|site| site.name.as_str())
                .collect::<Vec<_>>()
                .join(", "),
        })
    }

    fn site_of(&self, address: IpAddr) -> Option<usize> {
        self.sites.iter().position(|site| {
            site.networks
                .iter()
                .any(|network| network.contains(&address))
        })
    }
}

/// Where an IP packet goes; `None` for what is none.
fn destination(packet: &[u8]) -> Option<IpAddr> {
    match packet.first()? >> 4 {
        4 => {
            let bytes: [u8; 4] = packet.get(16..20)?.try_into().ok()?;
            Some(IpAddr::from(bytes))
        }
        6 => {
            let bytes: [u8; 16] = packet.get(24..40)?.try_into().ok()?;
            Some(IpAddr::from(bytes))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn network() -> Network {
        let site = |name: &str, networks: &[&str]| Site {
            name: name.to_owned(),
            networks: networks
                .iter()
                .map(|network| network.parse().unwrap())
                .collect(),
        };
        Network::new(
            vec![
                site("a", &["10.1.0.0/16", "fd00:1::/32"]),
                site("b", &["10.2.0.0/16"]),
                site("c", &["10.3.0.0/16"]),
            ],
            1,
        )
    }

    fn to(address: &str, length: usize) -> Vec<u8> {
        let mut packet = vec![0; length];
        match address.parse().unwrap() {
            IpAddr::V4(v4) => {
                packet[0] = 0x45;
                packet[16..20].copy_from_slice(&v4.octets());
            }
            IpAddr::V6(v6) => {
                packet[0] = 0x60;
                packet[24..40].copy_from_slice(&v6.octets());
            }
        }
        packet
    }

    #[test]
    fn packets_go_to_their_site_and_to_no_other() {
        let mut network = network();
        network.send(0, &to("10.2.3.4", 40), MS);
        network.send(1, &to("fd00:1::9", 60), MS);
        assert_eq!(network.arrived(MS).unwrap().0, 1);
        assert_eq!(network.arrived(MS).unwrap().0, 0);
        assert!(network.arrived(MS).is_none());
    }

    #[test]
    fn what_is_for_nobody_is_counted() {
        let mut network = network();
        for packet in [
            to("10.9.0.1", 40),
            to("10.1.0.1", 40),
            vec![],
            vec![0x45; 8],
            vec![0x90; 60],
        ] {
            network.send(0, &packet, MS);
        }
        assert_eq!(network.unroutable(), 5);
        assert_eq!(network.next_arrival(), None);
    }

    #[test]
    fn directions_differ_and_change_while_packets_are_under_way() {
        let mut network = network();
        network.change("a->b", &["delay=30ms"]).unwrap();
        network.send(0, &to("10.2.0.1", 40), MS);
        network.change("a->b", &["delay=1ms"]).unwrap();
        network.send(0, &to("10.2.0.1", 41), 2 * MS);
        network.send(1, &to("10.1.0.1", 42), 2 * MS);
        assert_eq!(network.arrived(2 * MS).unwrap().1.len(), 42);
        assert!(network.arrived(30 * MS).is_none());
        assert_eq!(network.next_arrival(), Some(31 * MS));
        assert_eq!(
            network.arrived(31 * MS).unwrap().1.len(),
            40,
            "still in order"
        );
        assert_eq!(network.arrived(31 * MS).unwrap().1.len(), 41);
    }

    #[test]
    fn a_cut_site_is_alone_until_it_is_restored() {
        let mut network = network();
        network.change("b", &["cut=yes"]).unwrap();
        network.send(0, &to("10.2.0.1", 40), MS);
        network.send(1, &to("10.3.0.1", 40), MS);
        network.send(0, &to("10.3.0.1", 40), MS);
        assert_eq!(network.arrived(MS).unwrap().0, 2);
        assert!(network.arrived(MS).is_none());
        network.change("b", &["cut=no"]).unwrap();
        network.send(0, &to("10.2.0.1", 40), MS);
        assert_eq!(network.arrived(MS).unwrap().0, 1);
        let report = network.report();
        let of = |from: &str, to: &str| {
            report
                .iter()
                .find(|each| each.from == from && each.to == to)
                .unwrap()
                .counters
        };
        assert_eq!((of("a", "b").cut, of("a", "b").delivered), (1, 1));
        assert_eq!((of("b", "c").cut, of("a", "c").delivered), (1, 1));
    }

    #[test]
    fn a_wrong_change_changes_nothing() {
        let mut network = network();
        let before = network.report();
        assert!(
            network
                .change("a<->b", &["delay=1ms", "loss=much"])
                .is_err()
        );
        let error = network
            .change("a->x", &["delay=1ms"])
            .unwrap_err()
            .to_string();
        assert_eq!(error, "there is no site `x`; there are a, b, c");
        assert_eq!(network.report(), before);
    }

    #[test]
    fn the_same_seed_decides_the_same_way() {
        let run = || {
            let mut network = network();
            network
                .change(
                    "all",
                    &["delay=5ms", "jitter=3ms", "loss=20%/3", "reorder=5%"],
                )
                .unwrap();
            for n in 0..500 {
                network.send(0, &to("10.2.0.1", 40 + n), MS);
            }
            let mut sizes = Vec::new();
            while let Some((_, packet)) = network.arrived(100 * MS) {
                sizes.push(packet.len());
            }
            sizes
        };
        assert_eq!(run(), run());
    }
}
