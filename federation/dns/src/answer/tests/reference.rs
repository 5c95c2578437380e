//! Random snapshots against a slow reference: write down every record of every zone, then look.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

/// Name in lower case → its records as `TYPE data`; a name may exist without any.
type Contents = BTreeMap<String, BTreeSet<String>>;
/// What stands before a headless service's name → addresses.
type Hosts = BTreeMap<String, Vec<IpAddr>>;

fn contents(snapshot: &Snapshot) -> Contents {
    let mut names = Contents::new();
    for zone in [
        "clusterset.local",
        "cluster.local",
        "global",
        "eu.global",
        "us.global",
        "ap.global",
    ] {
        names.entry(zone.to_owned()).or_default();
    }
    for zone in ["clusterset.local", "cluster.local"] {
        names.entry(format!("svc.{zone}")).or_default();
        names.entry(format!("dns-version.{zone}")).or_default();
    }
    for service in snapshot.services.values() {
        let label = format!("{}.{}", service.key.name, service.key.namespace);
        if let Some(local) = &service.local {
            let own = format!("{label}.svc.cluster.local");
            let hosts = local_hosts(&local.endpoints, "");
            let (ports, vips) = (&local.ports, &service.vips.local);
            let kind = if vips.is_empty() {
                ServiceKind::Headless
            } else {
                ServiceKind::Virtual
            };
            write_down(&mut names, kind, &own, &own, ports, vips, &hosts);
        }
        if service.imported {
            write_down_set(&mut names, service, &label);
        }
    }
    names
}

fn write_down_set(names: &mut Contents, service: &Service, label: &str) {
    let set = format!("{label}.svc.clusterset.local");
    let mut every_host = Hosts::new();
    for cluster in ["eu", "us", "ap"] {
        let Some((ports, hosts)) = in_one_cluster(service, cluster) else {
            continue;
        };
        every_host.extend(hosts.clone());
        let vips = service.vips.pinned.get(cluster);
        if service.kind == ServiceKind::Headless || vips.is_some() {
            let pinned = format!("{label}.{cluster}.global");
            let vips = vips.cloned().unwrap_or_default();
            write_down(names, service.kind, &pinned, &set, ports, &vips, &hosts);
        }
    }
    for name in [set.clone(), format!("{label}.global")] {
        let (ports, vips) = (&service.ports, &service.vips.set);
        write_down(names, service.kind, &name, &set, ports, vips, &every_host);
    }
}

fn in_one_cluster<'a>(service: &'a Service, cluster: &str) -> Option<(&'a [Port], Hosts)> {
    let remote = service
        .remote
        .iter()
        .find(|remote| remote.cluster.as_str() == cluster);
    if let Some(remote) = remote {
        let hosts = remote
            .hosts
            .iter()
            .map(|host| (format!("{host}.{cluster}."), vec![]));
        return Some((&remote.ports, hosts.collect()));
    }
    let local = service.local.as_ref()?;
    let is_offered = cluster == "eu" && local.exported != ExportTo::Nobody;
    is_offered.then(|| (local.ports.as_slice(), local_hosts(&local.endpoints, "eu.")))
}

fn local_hosts(endpoints: &[Endpoint], suffix: &str) -> Hosts {
    let mut hosts = Hosts::new();
    for endpoint in endpoints.iter().filter(|endpoint| endpoint.ready) {
        let dashed = endpoint.address.to_string().replace(['.', ':'], "-");
        let label = endpoint
            .hostname
            .as_ref()
            .map_or(dashed, ToString::to_string);
        hosts
            .entry(format!("{label}.{suffix}"))
            .or_default()
            .push(endpoint.address);
    }
    hosts
}

fn write_down(
    names: &mut Contents,
    kind: ServiceKind,
    name: &str,
    hosts_below: &str,
    ports: &[Port],
    vips: &[IpAddr],
    hosts: &Hosts,
) {
    let targets: Hosts = match kind {
        ServiceKind::Virtual => [(name.to_owned(), vips.to_vec())].into(),
        ServiceKind::Headless => {
            let below = |(host, ips): (&String, &Vec<IpAddr>)| {
                (format!("{host}{hosts_below}"), ips.clone())
            };
            hosts.iter().map(below).collect()
        }
    };
    if targets.is_empty() {
        return;
    }
    names.entry(name.to_owned()).or_default();
    for (target, addresses) in &targets {
        for address in addresses {
            let kind = if address.is_ipv4() { "A" } else { "AAAA" };
            for owner in [name, target.as_str()] {
                names
                    .entry(owner.to_owned())
                    .or_default()
                    .insert(format!("{kind} {address}"));
            }
        }
        names.entry(target.clone()).or_default();
    }
    for port in ports {
        let mut owners = vec![name.to_owned()];
        if let Some(port_name) = &port.name {
            owners.push(format!(
                "_{port_name}._{}.{name}",
                port.protocol.transport()
            ));
        }
        for owner in owners {
            let at = names.entry(owner).or_default();
            at.extend(
                targets
                    .keys()
                    .map(|target| format!("SRV {} {target}.", port.number)),
            );
        }
    }
}

fn by_reference(contents: &Contents, name: &str, kind: RecordType) -> Vec<String> {
    let name = name.to_ascii_lowercase();
    let below = format!(".{name}");
    match contents.get(&name) {
        Some(records) => {
            let prefix = format!("{kind} ");
            let found: Vec<String> = records
                .iter()
                .filter(|record| record.starts_with(&prefix))
                .cloned()
                .collect();
            if found.is_empty() {
                vec!["NODATA".to_owned()]
            } else {
                found
            }
        }
        None if contents.keys().any(|key| key.ends_with(&below)) => vec!["NODATA".to_owned()],
        None => vec!["NXDOMAIN".to_owned()],
    }
}

/// What [`answer`] says, in the reference's words: without order and weights.
fn by_answer(snapshot: &Snapshot, name: &str, kind: RecordType) -> Vec<String> {
    let Answer::Records { answers, .. } = ask(snapshot, name, kind) else {
        return told(snapshot, name, kind);
    };
    let mut words: Vec<String> = answers
        .iter()
        .map(|record| {
            if let RData::SRV(srv) = &record.data {
                format!("SRV {} {}", srv.port, srv.target.to_lowercase())
            } else {
                format!("{kind} {}", record.data)
            }
        })
        .collect();
    words.sort();
    words
}

fn a_port() -> impl Strategy<Value = Port> {
    let name = prop::sample::select(vec!["", "http", "tcp"]);
    let protocol = prop::sample::select(vec![Protocol::Http, Protocol::Tcp, Protocol::Udp]);
    (name, 1_u16..4, protocol).prop_map(|(name, number, protocol)| port(name, number, protocol))
}

fn an_endpoint() -> impl Strategy<Value = Endpoint> {
    let address = prop::sample::select(vec!["10.0.0.1", "10.0.0.2", "fd00::1"]);
    let hostname = prop::sample::select(vec![None, Some("h"), Some("us")]);
    (address, hostname, any::<bool>())
        .prop_map(|(address, hostname, ready)| endpoint("w", address, hostname, ready))
}

prop_compose! {
    fn a_service()(
        key in prop::sample::select(vec!["a/a", "a/us", "us/a", "us/eu", "eu/b", "b/a"]),
        headless in any::<bool>(),
        imported in any::<bool>(),
        ports in prop::collection::vec(a_port(), 0..3),
        local in prop::option::of((prop::collection::vec(an_endpoint(), 0..4), any::<bool>())),
        remotes in prop::sample::subsequence(vec!["us", "ap"], 0..=2),
        hosts in prop::sample::subsequence(vec!["h", "us", "x"], 0..=3),
        vips in (any::<bool>(), any::<bool>(), prop::sample::subsequence(vec!["eu", "us", "ap"], 0..=3)),
    ) -> Service {
        let ip = |yes: bool, text: &str| yes.then(|| parsed(text)).into_iter().collect::<Vec<IpAddr>>();
        Service {
            key: parsed(key),
            kind: if headless { ServiceKind::Headless } else { ServiceKind::Virtual },
            ports: ports.clone(),
            vips: Vips {
                local: ip(vips.0, "240.241.0.1"),
                set: ip(vips.1, "fd24::1"),
                pinned: vips.2.iter().map(|name| (parsed(name), ip(true, "240.241.0.3"))).collect(),
            },
            imported,
            local: local.map(|(endpoints, exported)| LocalBackend {
                ports: ports.iter().take(1).cloned().collect(),
                endpoints,
                exported: if exported { ExportTo::Everyone } else { ExportTo::Nobody },
            }),
            remote: remotes.iter().map(|name| remote(name, ports.clone(), &hosts)).collect(),
traffic: portolan_model::traffic::Traffic::default(),
        }
    }
}

fn a_name() -> impl Strategy<Value = String> {
    let label = prop::sample::select(vec![
        "a", "b", "us", "EU", "ap", "h", "_http", "_tcp", "_udp", "10-0-0-1", "svc",
    ]);
    let zone = prop::sample::select(vec![
        "global",
        "svc.clusterset.local",
        "svc.cluster.local",
        "Clusterset.local",
    ]);
    (prop::collection::vec(label, 0..6), zone).prop_map(|(labels, zone)| {
        labels
            .into_iter()
            .chain([zone])
            .collect::<Vec<_>>()
            .join(".")
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn answers_are_those_of_the_reference(
        services in prop::collection::vec(a_service(), 0..4),
        names in prop::collection::vec(a_name(), 60),
    ) {
        let snapshot = assemble(services);
        let contents = contents(&snapshot);
        let existing = contents.keys().cloned().collect::<Vec<_>>();
        for name in names.iter().chain(&existing) {
            for kind in [Ip4, Ip6, Srv] {
                let expected = by_reference(&contents, name, kind);
                prop_assert_eq!(by_answer(&snapshot, name, kind), expected, "{} {}", name, kind);
            }
        }
    }

    #[test]
    fn no_name_makes_it_panic(
        labels in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..64), 0..5),
        kind in any::<u16>(),
    ) {
        let zone = ["svc", "clusterset", "local"].map(|label| label.as_bytes().to_vec());
        if let Ok(name) = Name::from_labels(labels.iter().chain(&zone).map(Vec::as_slice)) {
            let found = answer(&example(), &settings(), &name, RecordType::from(kind));
            prop_assert!(!matches!(found, Answer::NotOurs | Answer::NotReady));
        }
    }
}
