//! Our zones, and what a name in them means before anybody looks into a snapshot.

use std::net::IpAddr;

use hickory_proto::rr::Name;
use ipnet::IpNet;
use portolan_model::snapshot::Scope;
use portolan_model::{ClusterName, Namespace, PortName, ServiceKey, ServiceName};

use crate::error::DnsError;

/// The short zone: `<service>.<namespace>.global`, `<service>.<namespace>.<cluster>.global`.
const GLOBAL: [&str; 1] = ["global"];
/// The zone of this cluster alone.
const CLUSTER: [&str; 2] = ["cluster", "local"];
/// The zone of SNI names, which resolve to nothing.
const INTERNAL: [&str; 2] = ["portolan", "internal"];

/// How our zones are called, and how long their answers live.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ZoneSettings {
    clusterset: Vec<String>,
    virtual_ips: Vec<IpNet>,
    /// How long clients may keep an answer, in seconds.
    pub ttl_s: u32,
}

impl ZoneSettings {
    /// `clusterset` is the cluster set's zone, `virtual_ips` the ranges whose reverse names are ours.
    ///
    /// # Errors
    /// When the zone is not a domain name of two labels or more, or is one of our other zones.
    pub fn new(clusterset: &str, virtual_ips: &[IpNet], ttl_s: u32) -> Result<Self, DnsError> {
        let text = clusterset.trim_end_matches('.').to_ascii_lowercase();
        let labels: Vec<String> = text.split('.').map(str::to_owned).collect();
        let is_label = |label: &String| Namespace::parse(label).is_ok();
        let is_taken = [&CLUSTER[..], &INTERNAL, &GLOBAL]
            .iter()
            .any(|zone| below(&labels, zone).is_some());
        if labels.len() < 2 || text.len() > 100 || !labels.iter().all(is_label) || is_taken {
            return Err(DnsError::Zone {
                zone: clusterset.to_owned(),
            });
        }
        Ok(Self {
            clusterset: labels,
            virtual_ips: virtual_ips.to_vec(),
            ttl_s,
        })
    }

    /// The cluster set's zone in lower case, without a trailing dot.
    #[must_use]
    pub fn clusterset(&self) -> String {
        self.clusterset.join(".")
    }
}

/// One of our zones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Zone {
    /// `clusterset.local`, or as configured.
    ClusterSet,
    /// `global`.
    Global,
    /// `cluster.local`.
    Cluster,
    /// `portolan.internal`: names for TLS that resolve to nothing.
    Internal,
    /// The reverse names of virtual IPs.
    Reverse,
}

impl Zone {
    /// How many labels at the end of a name are the zone's own.
    #[must_use]
    pub fn labels(self, settings: &ZoneSettings) -> usize {
        match self {
            Self::ClusterSet => settings.clusterset.len(),
            Self::Global => GLOBAL.len(),
            Self::Cluster => CLUSTER.len(),
            Self::Internal => INTERNAL.len(),
            // `in-addr.arpa`, `ip6.arpa`.
            Self::Reverse => 2,
        }
    }
}

/// A name in one of our zones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The zone.
    pub zone: Zone,
    /// What it names there.
    pub node: Node,
}

/// What a name can mean.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    /// The zone itself.
    Apex,
    /// `dns-version`.
    Version,
    /// `svc`, above all services.
    Svc,
    /// Above a namespace's services; in `global` the same label may be a cluster.
    Branch(Namespace),
    /// A service, or something of its ports.
    Service {
        /// The service.
        key: ServiceKey,
        /// How far the name reaches.
        scope: Scope,
        /// Which part.
        part: Part,
    },
    /// Above a headless service's hosts in one cluster of the set.
    HostBranch {
        /// The service.
        key: ServiceKey,
        /// The cluster.
        cluster: ClusterName,
    },
    /// One host of a headless service.
    Host {
        /// The service.
        key: ServiceKey,
        /// The cluster; `None`: this one, in its own zone.
        cluster: Option<ClusterName>,
        /// The host's label in lower case.
        host: String,
    },
    /// The reverse name of an address.
    Address(IpAddr),
    /// Nothing that could ever exist.
    Nothing,
}

/// A part of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// The service itself.
    Whole,
    /// `_tcp`, `_udp` or `_sctp`, above its ports.
    Transport(Transport),
    /// `_<port>._tcp`, and the same of the others.
    Port(PortName, Transport),
}

/// A transport protocol as SRV names spell it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// `_tcp`
    Tcp,
    /// `_udp`
    Udp,
    /// `_sctp`
    Sctp,
}

impl Transport {
    /// The word without the underscore, as [`portolan_model::Protocol::transport`] has it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

/// Reads a name. `None`: it lies in none of our zones. Upper and lower case are the same.
#[must_use]
pub fn place(settings: &ZoneSettings, name: &Name) -> Option<Place> {
    let labels: Vec<String> = name
        .iter()
        .map(|label| String::from_utf8_lossy(label).to_ascii_lowercase())
        .collect();
    let set: Vec<&str> = settings.clusterset.iter().map(String::as_str).collect();
    let found = |zone, node: fn(&[String]) -> Option<Node>, rest| Place {
        zone,
        node: node(rest).unwrap_or(Node::Nothing),
    };
    if let Some(rest) = below(&labels, &set) {
        Some(found(Zone::ClusterSet, in_clusterset, rest))
    } else if let Some(rest) = below(&labels, &CLUSTER) {
        Some(found(Zone::Cluster, in_cluster, rest))
    } else if let Some(rest) = below(&labels, &GLOBAL) {
        Some(found(Zone::Global, in_global, rest))
    } else if below(&labels, &INTERNAL).is_some() {
        let node = Node::Nothing;
        Some(Place {
            zone: Zone::Internal,
            node,
        })
    } else {
        let address = reverse(name)?;
        Some(Place {
            zone: Zone::Reverse,
            node: Node::Address(address),
        })
    }
}

/// Whether the reverse name of `address` is ours although no service has it now.
#[must_use]
pub fn is_virtual(settings: &ZoneSettings, address: IpAddr) -> bool {
    settings
        .virtual_ips
        .iter()
        .any(|range| range.contains(&address))
}

/// The labels in front of `zone`.
fn below<'a>(labels: &'a [String], zone: &[&str]) -> Option<&'a [String]> {
    let cut = labels.len().checked_sub(zone.len())?;
    let (rest, end) = labels.split_at(cut);
    end.iter().eq(zone.iter()).then_some(rest)
}

fn in_clusterset(labels: &[String]) -> Option<Node> {
    let (part, labels) = part(labels)?;
    match (texts(labels).as_slice(), &part) {
        ([host, cluster, service, namespace, "svc"], Part::Whole) => Some(Node::Host {
            key: key(service, namespace)?,
            cluster: Some(ClusterName::parse(cluster).ok()?),
            host: (*host).to_owned(),
        }),
        ([cluster, service, namespace, "svc"], Part::Whole) => Some(Node::HostBranch {
            key: key(service, namespace)?,
            cluster: ClusterName::parse(cluster).ok()?,
        }),
        (rest, _) => below_svc(rest, part, Scope::Set),
    }
}

fn in_cluster(labels: &[String]) -> Option<Node> {
    let (part, labels) = part(labels)?;
    match (texts(labels).as_slice(), &part) {
        ([host, service, namespace, "svc"], Part::Whole) => Some(Node::Host {
            key: key(service, namespace)?,
            cluster: None,
            host: (*host).to_owned(),
        }),
        (rest, _) => below_svc(rest, part, Scope::Cluster),
    }
}

/// What both Kubernetes-shaped zones have in common.
fn below_svc(labels: &[&str], part: Part, scope: Scope) -> Option<Node> {
    match (labels, &part) {
        ([], Part::Whole) => Some(Node::Apex),
        (["dns-version"], Part::Whole) => Some(Node::Version),
        (["svc"], Part::Whole) => Some(Node::Svc),
        ([namespace, "svc"], Part::Whole) => Some(Node::Branch(Namespace::parse(namespace).ok()?)),
        ([service, namespace, "svc"], _) => Some(Node::Service {
            key: key(service, namespace)?,
            scope,
            part,
        }),
        _ => None,
    }
}

fn in_global(labels: &[String]) -> Option<Node> {
    let (part, labels) = part(labels)?;
    match (texts(labels).as_slice(), &part) {
        ([], Part::Whole) => Some(Node::Apex),
        ([branch], Part::Whole) => Some(Node::Branch(Namespace::parse(branch).ok()?)),
        ([service, namespace], _) => Some(Node::Service {
            key: key(service, namespace)?,
            scope: Scope::Set,
            part,
        }),
        ([service, namespace, cluster], _) => Some(Node::Service {
            key: key(service, namespace)?,
            scope: Scope::Pinned(ClusterName::parse(cluster).ok()?),
            part,
        }),
        _ => None,
    }
}

/// Takes `_<port>._<transport>` or `_<transport>` off the front.
fn part(labels: &[String]) -> Option<(Part, &[String])> {
    let underscored = |label: &String| label.strip_prefix('_').map(str::to_owned);
    let Some(first) = labels.first().and_then(underscored) else {
        return Some((Part::Whole, labels));
    };
    let Some(second) = labels.get(1).and_then(underscored) else {
        return Some((Part::Transport(transport(&first)?), &labels[1..]));
    };
    let port = PortName::parse(&first).ok()?;
    Some((Part::Port(port, transport(&second)?), &labels[2..]))
}

fn transport(word: &str) -> Option<Transport> {
    match word {
        "tcp" => Some(Transport::Tcp),
        "udp" => Some(Transport::Udp),
        "sctp" => Some(Transport::Sctp),
        _ => None,
    }
}

fn texts(labels: &[String]) -> Vec<&str> {
    labels.iter().map(String::as_str).collect()
}

fn key(service: &str, namespace: &str) -> Option<ServiceKey> {
    let namespace = Namespace::parse(namespace).ok()?;
    Some(ServiceKey::new(
        namespace,
        ServiceName::parse(service).ok()?,
    ))
}

/// The address of a whole reverse name.
fn reverse(name: &Name) -> Option<IpAddr> {
    let net = name.parse_arpa_name().ok()?;
    (net.prefix_len() == net.max_prefix_len()).then(|| net.addr())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str) -> Option<(Zone, Node)> {
        let settings = ZoneSettings::new("clusterset.local", &[], 5).unwrap();
        let name = Name::from_ascii(format!("{name}.")).unwrap();
        place(&settings, &name).map(|place| (place.zone, place.node))
    }

    fn orders() -> ServiceKey {
        "shop/orders".parse().unwrap()
    }

    fn service(scope: Scope, part: Part) -> Node {
        let key = orders();
        Node::Service { key, scope, part }
    }

    fn host(cluster: Option<ClusterName>) -> Node {
        Node::Host {
            key: orders(),
            cluster,
            host: "db-0".to_owned(),
        }
    }

    #[test]
    fn names_of_the_set_are_read() {
        let port = Part::Port("http".parse().unwrap(), Transport::Tcp);
        let eu: ClusterName = "eu".parse().unwrap();
        let table = [
            ("", Node::Apex),
            ("dns-version.", Node::Version),
            ("svc.", Node::Svc),
            ("shop.svc.", Node::Branch("shop".parse().unwrap())),
            ("Orders.SHOP.svc.", service(Scope::Set, Part::Whole)),
            ("_http._tcp.orders.shop.svc.", service(Scope::Set, port)),
            (
                "_udp.orders.shop.svc.",
                service(Scope::Set, Part::Transport(Transport::Udp)),
            ),
            (
                "_sctp.orders.shop.svc.",
                service(Scope::Set, Part::Transport(Transport::Sctp)),
            ),
            (
                "eu.orders.shop.svc.",
                Node::HostBranch {
                    key: orders(),
                    cluster: eu.clone(),
                },
            ),
            ("db-0.eu.orders.shop.svc.", host(Some(eu))),
        ];
        for (name, expected) in table {
            let found = node(&format!("{name}ClusterSet.local"));
            assert_eq!(found, Some((Zone::ClusterSet, expected)), "{name}");
        }
    }

    #[test]
    fn names_are_read_in_their_zone() {
        let eu: ClusterName = "eu".parse().unwrap();
        let address = Node::Address("240.241.0.9".parse().unwrap());
        let table = [
            (
                "orders.shop.svc.cluster.local",
                Zone::Cluster,
                service(Scope::Cluster, Part::Whole),
            ),
            (
                "db-0.orders.shop.svc.cluster.local",
                Zone::Cluster,
                host(None),
            ),
            (
                "orders.shop.global",
                Zone::Global,
                service(Scope::Set, Part::Whole),
            ),
            (
                "orders.shop.eu.global",
                Zone::Global,
                service(Scope::Pinned(eu), Part::Whole),
            ),
            ("global", Zone::Global, Node::Apex),
            (
                "p80.orders.shop.eu.portolan.internal",
                Zone::Internal,
                Node::Nothing,
            ),
            ("9.0.241.240.in-addr.arpa", Zone::Reverse, address),
        ];
        for (name, zone, expected) in table {
            assert_eq!(node(name), Some((zone, expected)), "{name}");
        }
    }

    #[test]
    fn what_cannot_exist_is_nothing_and_what_is_not_ours_is_none() {
        for name in [
            "x.clusterset.local",
            "a.b.c.d.e.svc.clusterset.local",
            "_x._quic.orders.shop.svc.clusterset.local",
            "_http._tcp.svc.clusterset.local",
            "_80._tcp.orders.shop.global",
            "or_ders.shop.global",
            "a.b.c.d.global",
            "a-.shop.svc.cluster.local",
        ] {
            assert_eq!(
                node(name).map(|(_, node)| node),
                Some(Node::Nothing),
                "{name}"
            );
        }
        for name in [
            "example.com",
            "local",
            "myglobal",
            "xcluster.local",
            "1.0.10.in-addr.arpa",
            "arpa",
        ] {
            assert_eq!(node(name), None, "{name}");
        }
    }

    #[test]
    fn the_sets_zone_must_be_a_name_of_its_own() {
        let check = |zone: &str| ZoneSettings::new(zone, &[], 5);
        assert_eq!(check("Mesh.Example.").unwrap().clusterset(), "mesh.example");
        for bad in [
            "",
            "local",
            "a..b",
            "cluster.local",
            "x.global",
            "a_b.c",
            &"x".repeat(101),
        ] {
            assert!(check(bad).is_err(), "{bad}");
        }
    }
}
