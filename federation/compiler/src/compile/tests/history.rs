//! Random histories: whatever happened in whatever order, the result is what compiling from
//! scratch makes of the present, and the deltas add up to it.

use super::*;
use portolan_model::snapshot::{Inbound, Mesh};
use proptest::prelude::*;
use std::collections::BTreeMap;

const SERVICES: [&str; 4] = ["a", "b", "c", "d"];
const PEERS: [&str; 3] = ["west", "north", "south"];

/// What may happen; numbers choose among few of a kind, so that histories meet.
#[derive(Debug, Clone)]
enum Event {
    Service {
        name: usize,
        app: usize,
        shape: usize,
    },
    Export {
        name: usize,
        to: usize,
        at: u64,
    },
    Workload {
        name: usize,
        app: usize,
        shape: usize,
    },
    Peer {
        name: usize,
    },
    Delete {
        kind: usize,
        name: usize,
    },
    Liveness {
        name: usize,
        ready: Option<bool>,
    },
    Links {
        up: bool,
    },
    Offer {
        peer: usize,
        full: bool,
        entries: Vec<(usize, usize, u64)>,
    },
    Withdraw {
        peer: usize,
        name: usize,
    },
    Compile,
}

fn event() -> impl Strategy<Value = Event> {
    let name = 0..SERVICES.len();
    let peer = 0..PEERS.len();
    let entries = prop::collection::vec((name.clone(), 0..6_usize, 0..4_u64), 0..4);
    prop_oneof![
        3 => (name.clone(), 0..3_usize, 0..7_usize).prop_map(|(name, app, shape)| Event::Service { name, app, shape }),
        3 => (name.clone(), 0..4_usize, 0..4_u64).prop_map(|(name, to, at)| Event::Export { name, to, at }),
        3 => (0..6_usize, 0..3_usize, 0..3_usize).prop_map(|(name, app, shape)| Event::Workload { name, app, shape }),
        3 => peer.clone().prop_map(|name| Event::Peer { name }),
        2 => (0..4_usize, 0..6_usize).prop_map(|(kind, name)| Event::Delete { kind, name }),
        2 => (0..6_usize, any::<Option<bool>>()).prop_map(|(name, ready)| Event::Liveness { name, ready }),
        1 => any::<bool>().prop_map(|up| Event::Links { up }),
        4 => (peer.clone(), any::<bool>(), entries).prop_map(|(peer, full, entries)| Event::Offer { peer, full, entries }),
        1 => (peer, name).prop_map(|(peer, name)| Event::Withdraw { peer, name }),
        4 => Just(Event::Compile),
    ]
}

fn domain(peer: usize) -> String {
    format!("{}.acme", PEERS[peer])
}

fn declared_service(name: usize, app: usize, shape: usize) -> Declared {
    let ports = "ports: [{name: http, port: 80, targetPort: http}]";
    let spec = match shape {
        0 | 1 => format!("{{selector: {{app: x{app}}}, {ports}}}"),
        2 => format!("{{selector: {{app: x{app}}}, clusterIP: None, {ports}}}"),
        3 => "{type: ExternalName, externalName: a.b}".to_owned(),
        4 => format!("{{selector: {{app: x{app}}}, clusterIP: 10.9.9.{app}, {ports}}}"),
        5 => format!("{{selector: {{app: x{app}}}, sessionAffinity: ClientIP, {ports}}}"),
        _ => format!(
            "{{selector: {{app: x{app}}}, ports: [{{name: x, port: 80, targetPort: 1}}, {{name: y, port: 81, targetPort: http}}]}}"
        ),
    };
    service(SERVICES[name], &spec)
}

fn declared_workload(name: usize, app: usize, shape: usize) -> Declared {
    let more = [
        "",
        ", leased: true",
        ", hostname: h, locality: {region: us, zone: a}",
    ][shape];
    workload(&format!("w{name}"), &format!("x{app}"), more)
}

fn offered(peer: usize, name: usize, shape: usize, at: u64) -> CatalogueEntry {
    let mut entry = entry(SERVICES[name], &domain(peer), at);
    match shape {
        0 | 1 => {}
        2 => entry.kind = ServiceKind::Headless,
        5 => entry.affinity = SessionAffinity::ClientIp { timeout_seconds: 9 },
        3 => {
            entry.ports = vec![
                port("http", 90, Protocol::Tcp),
                port("x", 80, Protocol::Tcp),
            ]
        }
        _ => entry.identities = vec![SpiffeId::parse("spiffe://east.acme/ns/shop/sa/a").unwrap()],
    }
    entry
}

/// The present, as somebody would know it who only ever kept the last word of each.
#[derive(Default)]
struct Present {
    declared: BTreeMap<ResourceKey, Declared>,
    liveness: BTreeMap<WorkloadKey, bool>,
    links: BTreeMap<ClusterName, LinkState>,
    said: BTreeMap<ClusterName, BTreeMap<ServiceKey, CatalogueEntry>>,
    vips: BTreeMap<String, Vec<IpAddr>>,
}

impl Present {
    /// Takes an event in and says which change it is.
    fn take(&mut self, event: &Event) -> Option<Change> {
        let declared = match event {
            Event::Service { name, app, shape } => declared_service(*name, *app, *shape),
            Event::Export { name, to, at } => export_to(
                SERVICES[*name],
                ["*", "west", "north", "west,south"][*to],
                *at,
            ),
            Event::Workload { name, app, shape } => declared_workload(*name, *app, *shape),
            Event::Peer { name } => peer(PEERS[*name], &domain(*name), 1),
            Event::Delete { kind, name } => return Some(self.delete(*kind, *name)),
            Event::Liveness { name, ready } => {
                let workload = workload_key(&format!("w{name}"));
                match ready {
                    Some(ready) => self.liveness.insert(workload.clone(), *ready),
                    None => self.liveness.remove(&workload),
                };
                return Some(Change::Liveness {
                    workload,
                    ready: *ready,
                });
            }
            Event::Links { up } => {
                let state = if *up {
                    LinkState::Up { rtt_us: 5 }
                } else {
                    LinkState::Down
                };
                self.links = [(cluster("west"), state)].into();
                return Some(Change::Links(self.links.clone()));
            }
            Event::Offer {
                peer,
                full,
                entries,
            } => return Some(self.offer(*peer, *full, entries)),
            Event::Withdraw { peer, name } => {
                let peer = cluster(PEERS[*peer]);
                if let Some(said) = self.said.get_mut(&peer) {
                    said.remove(&key(SERVICES[*name]));
                }
                return Some(Change::Catalogue {
                    peer,
                    full: false,
                    upserts: vec![],
                    removals: vec![key(SERVICES[*name])],
                });
            }
            Event::Compile => return None,
        };
        self.declared.insert(declared.key.clone(), declared.clone());
        Some(Change::Declared(declared))
    }

    fn delete(&mut self, kind: usize, name: usize) -> Change {
        let resource = match kind {
            0 => facts::service_resource(&key(SERVICES[name % SERVICES.len()])),
            1 => export_key(SERVICES[name % SERVICES.len()]),
            2 => workload_resource(&workload_key(&format!("w{name}"))),
            _ => {
                let peer = cluster(PEERS[name % PEERS.len()]);
                self.said.remove(&peer);
                peer_resource(&peer)
            }
        };
        self.declared.remove(&resource);
        Change::Deleted(resource)
    }

    fn offer(&mut self, peer: usize, full: bool, entries: &[(usize, usize, u64)]) -> Change {
        let name = cluster(PEERS[peer]);
        let upserts: Vec<_> = entries
            .iter()
            .map(|(name, shape, at)| offered(peer, *name, *shape, *at))
            .collect();
        if self.declared.contains_key(&peer_resource(&name)) {
            let said = self.said.entry(name.clone()).or_default();
            if full {
                said.clear();
            }
            said.extend(
                upserts
                    .iter()
                    .map(|entry| (entry.key.clone(), entry.clone())),
            );
        }
        Change::Catalogue {
            peer: name,
            full,
            upserts,
            removals: vec![],
        }
    }

    fn compiled_afresh(&self) -> Compiler {
        let mut compiler = compiler();
        compiler.apply(Change::VipAssigned(self.vips.clone()));
        compiler.apply(Change::Links(self.links.clone()));
        for (workload, ready) in &self.liveness {
            compiler.apply(Change::Liveness {
                workload: workload.clone(),
                ready: Some(*ready),
            });
        }
        for declared in self.declared.values().rev() {
            compiler.apply(Change::Declared(declared.clone()));
        }
        for (peer, said) in &self.said {
            compiler.apply(Change::Catalogue {
                peer: peer.clone(),
                full: true,
                upserts: said.values().cloned().collect(),
                removals: vec![],
            });
        }
        compiler.compile();
        compiler
    }
}

/// What a receiver makes of the deltas alone.
#[derive(Default, PartialEq, Debug)]
struct Replica {
    mesh: Option<Arc<Mesh>>,
    services: BTreeMap<ServiceKey, Arc<Service>>,
    inbound: BTreeMap<WorkloadKey, Arc<Inbound>>,
    imports: BTreeMap<ServiceKey, Value>,
    statuses: BTreeMap<ResourceKey, Value>,
    problems: BTreeMap<ResourceKey, Vec<Problem>>,
    catalogues: BTreeMap<ClusterName, BTreeMap<ServiceKey, Arc<CatalogueEntry>>>,
}

fn fold<K: Ord + Clone, V: Clone>(map: &mut BTreeMap<K, V>, changes: &BTreeMap<K, Option<V>>) {
    for (key, change) in changes {
        match change {
            Some(value) => map.insert(key.clone(), value.clone()),
            None => map.remove(key),
        };
    }
}

impl Replica {
    fn take(&mut self, output: &Output) {
        if let Some(mesh) = &output.delta.mesh {
            self.mesh = Some(mesh.clone());
        }
        fold(&mut self.services, &output.delta.services);
        fold(&mut self.inbound, &output.delta.inbound);
        fold(&mut self.imports, &output.imports);
        fold(&mut self.statuses, &output.statuses);
        for (key, problems) in &output.problems {
            self.problems.insert(key.clone(), problems.clone());
        }
        self.problems.retain(|_, problems| !problems.is_empty());
        for peer in PEERS.map(cluster) {
            let delta = output.catalogue_delta(&peer);
            let catalogue = self.catalogues.entry(peer).or_default();
            for key in &delta.removals {
                assert!(catalogue.remove(key).is_some(), "{key} was never offered");
            }
            let upserts = delta.upserts.into_iter();
            catalogue.extend(upserts.map(|entry| (entry.key.clone(), entry)));
        }
    }

    fn of(compiler: &Compiler) -> Self {
        let snapshot = compiler.snapshot();
        let catalogue = |peer: &ClusterName| {
            let entries = compiler.catalogue_for(peer).into_iter();
            entries.map(|entry| (entry.key.clone(), entry)).collect()
        };
        Self {
            mesh: snapshot.mesh.clone(),
            services: snapshot.services.clone(),
            inbound: snapshot.inbound.clone(),
            imports: compiler.imports().clone(),
            statuses: compiler.made.statuses.clone(),
            problems: compiler.problems().clone(),
            catalogues: PEERS
                .map(cluster)
                .into_iter()
                .map(|peer| (peer.clone(), catalogue(&peer)))
                .collect(),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_history_ends_where_its_present_begins(events in prop::collection::vec(event(), 1..60)) {
        let mut compiler = compiler();
        let mut present = Present::default();
        let mut replica = Replica::default();
        for event in events.iter().chain([&Event::Compile]) {
            if let Some(change) = present.take(event) {
                compiler.apply(change);
                continue;
            }
            let output = compiler.compile();
            present.vips.extend(output.vips_assigned.clone());
            for key in &output.vips_released {
                present.vips.remove(key);
            }
            prop_assert_eq!(audit(compiler.snapshot()), Vec::<String>::new());
            replica.take(&output);
            let now = Replica::of(&compiler);
            prop_assert_eq!(&replica, &now);
            prop_assert_eq!(&now, &Replica::of(&present.compiled_afresh()));
            prop_assert!(compiler.compile().is_empty());
        }
    }
}
