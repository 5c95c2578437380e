//! The answer to a question, from a snapshot alone.

use std::collections::BTreeSet;
use std::net::IpAddr;

use hickory_proto::rr::rdata::{A, AAAA, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use portolan_model::snapshot::{Mesh, Scope, Snapshot};
use portolan_model::{ClusterName, Namespace, Port, ServiceKey, ServiceName};

use crate::view::{Body, View, view};
use crate::zone::{Node, Part, Place, Zone, ZoneSettings, is_virtual, place};

/// Multicluster DNS specification, whose schema `clusterset.local` follows.
const CLUSTERSET_VERSION: &str = "1.0.0";
/// Kubernetes DNS specification, whose schema `cluster.local` follows.
const CLUSTER_VERSION: &str = "1.1.0";
const VERSION_TTL_S: u32 = 28_800;
/// How long clients may believe that a name does not exist, in seconds.
const NEGATIVE_TTL_S: u32 = 5;
/// The most records in one section.
const RECORDS_MAX: usize = 1024;

/// What to answer.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// These records, and others that the client will want next.
    Records {
        /// The answer section; never empty.
        answers: Vec<Record>,
        /// The additional section.
        additionals: Vec<Record>,
    },
    /// The name exists, but nothing of this type. With the zone's SOA record.
    NoData(Box<Record>),
    /// The name does not exist. With the zone's SOA record.
    NxDomain(Box<Record>),
    /// The name lies in none of our zones.
    NotOurs,
    /// No snapshot has arrived yet.
    NotReady,
}

/// Answers a question of class IN. A pure function; answers spell the name as the question did.
#[must_use]
pub fn answer(
    snapshot: &Snapshot,
    settings: &ZoneSettings,
    name: &Name,
    record_type: RecordType,
) -> Answer {
    let Some(place) = place(settings, name) else {
        return Answer::NotOurs;
    };
    if let Node::Address(address) = place.node
        && !snapshot.addresses.contains_key(&address)
        && !is_virtual(settings, address)
    {
        return Answer::NotOurs;
    }
    let Some(mesh) = &snapshot.mesh else {
        return Answer::NotReady;
    };
    let question = Question {
        snapshot,
        settings,
        mesh,
        name,
        record_type,
        place: &place,
    };
    question.answer()
}

/// What a name has.
enum Found {
    /// The name does not exist.
    Absent,
    /// The name exists, and has records of the type asked for, or none.
    Records(Vec<Record>, Vec<Record>),
}

impl Found {
    fn exists_if(exists: bool) -> Self {
        if exists {
            Self::Records(Vec::new(), Vec::new())
        } else {
            Self::Absent
        }
    }
}

struct Question<'a> {
    snapshot: &'a Snapshot,
    settings: &'a ZoneSettings,
    mesh: &'a Mesh,
    name: &'a Name,
    record_type: RecordType,
    place: &'a Place,
}

impl<'a> Question<'a> {
    fn answer(&self) -> Answer {
        match self.find() {
            Found::Absent => Answer::NxDomain(Box::new(self.soa())),
            Found::Records(answers, _) if answers.is_empty() => {
                Answer::NoData(Box::new(self.soa()))
            }
            Found::Records(mut answers, mut additionals) => {
                answers.truncate(RECORDS_MAX);
                additionals.truncate(RECORDS_MAX);
                Answer::Records {
                    answers,
                    additionals,
                }
            }
        }
    }

    fn find(&self) -> Found {
        match &self.place.node {
            Node::Nothing => Found::Absent,
            Node::Apex => self.apex(),
            Node::Version => self.version(),
            Node::Svc => Found::exists_if(true),
            Node::Branch(label) => Found::exists_if(self.is_branch(label)),
            Node::Service { key, scope, part } => self.service(key, scope, part),
            Node::HostBranch { key, cluster } => self.host_branch(key, cluster),
            Node::Host { key, cluster, host } => self.host(key, cluster.as_ref(), host),
            Node::Address(address) => self.reverse(*address),
        }
    }

    fn apex(&self) -> Found {
        let soa = (self.record_type == RecordType::SOA).then(|| self.soa());
        Found::Records(soa.into_iter().collect(), Vec::new())
    }

    fn version(&self) -> Found {
        let version = match self.place.zone {
            Zone::ClusterSet => CLUSTERSET_VERSION,
            Zone::Cluster => CLUSTER_VERSION,
            Zone::Global | Zone::Internal | Zone::Reverse => return Found::Absent,
        };
        let text = RData::TXT(TXT::new(vec![version.to_owned()]));
        let record = Record::from_rdata(self.name.clone(), VERSION_TTL_S, text);
        Found::Records(self.of_type(record), Vec::new())
    }

    /// Whether anything exists below a namespace's label. In `global` the label may be a cluster's,
    /// and those that we know exist always.
    fn is_branch(&self, label: &Namespace) -> bool {
        let scope = match self.place.zone {
            Zone::Cluster => Scope::Cluster,
            Zone::ClusterSet | Zone::Global | Zone::Internal | Zone::Reverse => Scope::Set,
        };
        self.has_services(label, &scope)
            || (self.place.zone == Zone::Global && self.known_cluster(label.as_str()).is_some())
    }

    fn has_services(&self, namespace: &Namespace, scope: &Scope) -> bool {
        self.in_namespace(namespace)
            .any(|key| self.view(key, scope).is_some())
    }

    fn known_cluster(&self, label: &str) -> Option<ClusterName> {
        let cluster = ClusterName::parse(label).ok()?;
        let is_known = cluster == self.mesh.cluster.name || self.mesh.peer(&cluster).is_some();
        is_known.then_some(cluster)
    }

    /// Whether `<namespace>.<cluster>.global`, which reads like a service's name, stands above names
    /// that are pinned to that cluster.
    fn is_pinned_branch(&self, key: &ServiceKey) -> bool {
        let (Ok(namespace), Some(cluster)) = (
            Namespace::parse(key.name.as_str()),
            self.known_cluster(key.namespace.as_str()),
        ) else {
            return false;
        };
        self.has_services(&namespace, &Scope::Pinned(cluster))
    }

    fn in_namespace(&self, namespace: &Namespace) -> impl Iterator<Item = &'a ServiceKey> {
        // `0` sorts before every other service name.
        let first = ServiceName::parse("0").map(|name| ServiceKey::new(namespace.clone(), name));
        let from = first
            .ok()
            .map(|first| self.snapshot.services.range(first..));
        let namespace = namespace.clone();
        from.into_iter()
            .flatten()
            .map(|(key, _)| key)
            .take_while(move |key| key.namespace == namespace)
    }

    fn service(&self, key: &ServiceKey, scope: &Scope, part: &Part) -> Found {
        let Some(view) = self.view(key, scope) else {
            let is_branch = self.place.zone == Zone::Global
                && *part == Part::Whole
                && *scope == Scope::Set
                && self.is_pinned_branch(key);
            return Found::exists_if(is_branch);
        };
        match part {
            Part::Whole if self.record_type == RecordType::SRV => {
                let ports: Vec<&Port> = view.ports.iter().collect();
                self.srv(key, scope, &view, &ports, self.name)
            }
            Part::Whole => Found::Records(self.addresses(self.name, &view.addresses()), Vec::new()),
            Part::Transport(transport) => {
                let named = |port: &Port| {
                    port.name.is_some() && port.protocol.transport() == transport.as_str()
                };
                Found::exists_if(view.ports.iter().any(named))
            }
            Part::Port(name, transport) => {
                let ports: Vec<&Port> = view
                    .ports
                    .iter()
                    .filter(|port| port.name.as_ref() == Some(name))
                    .filter(|port| port.protocol.transport() == transport.as_str())
                    .collect();
                if ports.is_empty() {
                    return Found::Absent;
                }
                // The target is the name without `_<port>._<transport>`, as it was spelt.
                let target = self.name.base_name().base_name();
                self.srv(key, scope, &view, &ports, &target)
            }
        }
    }

    fn host_branch(&self, key: &ServiceKey, cluster: &ClusterName) -> Found {
        let Some(view) = self.view(key, &Scope::Set) else {
            return Found::Absent;
        };
        match &view.body {
            Body::Virtual(_) => Found::Absent,
            Body::Headless(hosts) => Found::exists_if(hosts.keys().any(|(of, _)| *of == cluster)),
        }
    }

    fn host(&self, key: &ServiceKey, cluster: Option<&ClusterName>, host: &str) -> Found {
        let scope = if cluster.is_some() {
            Scope::Set
        } else {
            Scope::Cluster
        };
        let cluster = cluster.unwrap_or(&self.mesh.cluster.name);
        let Some(view) = self.view(key, &scope) else {
            return Found::Absent;
        };
        match &view.body {
            Body::Virtual(_) => Found::Absent,
            Body::Headless(hosts) => match hosts.get(&(cluster, host.to_owned())) {
                Some(addresses) => Found::Records(self.addresses(self.name, addresses), Vec::new()),
                None => Found::Absent,
            },
        }
    }

    fn reverse(&self, address: IpAddr) -> Found {
        let Some((key, scope)) = self.snapshot.addresses.get(&address) else {
            return Found::Absent;
        };
        let Ok(target) = Name::from_ascii(service_name(self.settings, key, scope)) else {
            return Found::Absent;
        };
        let record = self.record(self.name, RData::PTR(PTR(target)));
        Found::Records(self.of_type(record), Vec::new())
    }

    /// SRV records: one per port, or per host and port of a headless service, none twice.
    fn srv(
        &self,
        key: &ServiceKey,
        scope: &Scope,
        view: &View<'_>,
        ports: &[&Port],
        service: &Name,
    ) -> Found {
        if self.record_type != RecordType::SRV {
            return Found::exists_if(true);
        }
        let numbers: BTreeSet<u16> = ports.iter().map(|port| port.number).collect();
        let targets: Vec<(Name, Vec<IpAddr>)> = match &view.body {
            Body::Virtual(addresses) => vec![(service.clone(), addresses.to_vec())],
            Body::Headless(hosts) => hosts
                .iter()
                .filter_map(|((cluster, host), addresses)| {
                    let name = self.host_name(key, scope, cluster, host, service)?;
                    Some((name, addresses.clone()))
                })
                .collect(),
        };
        let weight = weight_of_one_in(targets.len() * numbers.len());
        let answers = targets
            .iter()
            .flat_map(|(target, _)| numbers.iter().map(move |port| (target, *port)))
            .map(|(target, port)| {
                let srv = RData::SRV(SRV::new(0, weight, port, target.clone()));
                self.record(self.name, srv)
            })
            .collect();
        let additionals = targets
            .iter()
            .flat_map(|(name, addresses)| {
                addresses
                    .iter()
                    .map(|address| self.record(name, address_data(*address)))
            })
            .collect();
        Found::Records(answers, additionals)
    }

    /// The name of a headless service's host: below the service's name where hosts have names there,
    /// else in the cluster set's zone.
    fn host_name(
        &self,
        key: &ServiceKey,
        scope: &Scope,
        cluster: &ClusterName,
        host: &str,
        service: &Name,
    ) -> Option<Name> {
        let text = match (self.place.zone, scope) {
            (Zone::Cluster, _) => return service.prepend_label(host).ok(),
            (Zone::ClusterSet, Scope::Set) => {
                let below = service.prepend_label(cluster.as_str()).ok()?;
                return below.prepend_label(host).ok();
            }
            (
                Zone::ClusterSet | Zone::Global | Zone::Internal | Zone::Reverse,
                Scope::Cluster | Scope::Set | Scope::Pinned(_),
            ) => service_name(self.settings, key, &Scope::Set),
        };
        Name::from_ascii(format!("{host}.{cluster}.{text}")).ok()
    }

    fn addresses(&self, name: &Name, addresses: &[IpAddr]) -> Vec<Record> {
        addresses
            .iter()
            .flat_map(|address| self.of_type(self.record(name, address_data(*address))))
            .collect()
    }

    /// The record, if its type was asked for.
    fn of_type(&self, record: Record) -> Vec<Record> {
        let wanted =
            self.record_type == RecordType::ANY || self.record_type == record.record_type();
        if wanted { vec![record] } else { Vec::new() }
    }

    fn record(&self, name: &Name, data: RData) -> Record {
        Record::from_rdata(name.clone(), self.settings.ttl_s, data)
    }

    fn view(&self, key: &ServiceKey, scope: &Scope) -> Option<View<'a>> {
        view(self.snapshot, &self.mesh.cluster.name, key, scope)
    }

    fn soa(&self) -> Record {
        let zone = self.name.trim_to(self.place.zone.labels(self.settings));
        let below = |label: &str| {
            zone.prepend_label(label)
                .unwrap_or_else(|_too_long| zone.clone())
        };
        // A serial number is 32 bits wide and may wrap (RFC 1982).
        let serial = (self.snapshot.generation & u64::from(u32::MAX)) as u32;
        let soa = SOA::new(
            below("ns"),
            below("hostmaster"),
            serial,
            7200,
            1800,
            86_400,
            NEGATIVE_TTL_S,
        );
        Record::from_rdata(zone, NEGATIVE_TTL_S, RData::SOA(soa))
    }
}

/// The absolute name by which a service is called with this reach.
fn service_name(settings: &ZoneSettings, key: &ServiceKey, scope: &Scope) -> String {
    let ServiceKey { namespace, name } = key;
    match scope {
        Scope::Cluster => format!("{name}.{namespace}.svc.cluster.local."),
        Scope::Set => format!("{name}.{namespace}.svc.{}.", settings.clusterset()),
        Scope::Pinned(cluster) => format!("{name}.{namespace}.{cluster}.global."),
    }
}

/// CoreDNS's weights, which interoperability tests expect: a hundred shared out, but 1 at least.
fn weight_of_one_in(records: usize) -> u16 {
    let share = 100_usize.checked_div(records).unwrap_or(100);
    u16::try_from(share.max(1)).unwrap_or(1)
}

fn address_data(address: IpAddr) -> RData {
    match address {
        IpAddr::V4(v4) => RData::A(A(v4)),
        IpAddr::V6(v6) => RData::AAAA(AAAA(v6)),
    }
}

#[cfg(test)]
mod tests;
