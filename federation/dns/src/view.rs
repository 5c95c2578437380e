//! A service as one kind of name shows it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use portolan_model::snapshot::{Scope, Service, Snapshot};
use portolan_model::{ClusterName, Endpoint, Port, ServiceKey, ServiceKind};

/// The most hosts of a headless service that answers show: a subset is allowed, and this one is stable.
const HOSTS_MAX: usize = 256;

/// What there is to say about a service under one scope.
#[derive(Debug)]
pub(crate) struct View<'a> {
    pub(crate) ports: &'a [Port],
    pub(crate) body: Body<'a>,
}

#[derive(Debug)]
pub(crate) enum Body<'a> {
    /// Its virtual IPs.
    Virtual(&'a [IpAddr]),
    /// Its hosts by cluster and label; never empty. A remote host's addresses are not known here.
    Headless(BTreeMap<(&'a ClusterName, String), Vec<IpAddr>>),
}

impl View<'_> {
    /// The addresses that the service's own name has, each once.
    pub(crate) fn addresses(&self) -> Vec<IpAddr> {
        match &self.body {
            Body::Virtual(addresses) => addresses.to_vec(),
            Body::Headless(hosts) => {
                let mut seen = BTreeSet::new();
                let all = hosts.values().flatten().copied();
                all.filter(|address| seen.insert(*address)).collect()
            }
        }
    }
}

/// `None`: under this scope the service does not exist.
pub(crate) fn view<'a>(
    snapshot: &'a Snapshot,
    own: &'a ClusterName,
    key: &ServiceKey,
    scope: &Scope,
) -> Option<View<'a>> {
    let service = snapshot.services.get(key)?.as_ref();
    let view = match scope {
        Scope::Cluster => in_cluster(own, service)?,
        Scope::Set => in_set(own, service)?,
        Scope::Pinned(cluster) => pinned(own, service, cluster)?,
    };
    match &view.body {
        // MCS DNS specification §2.4.1: without a ready endpoint there is no such name.
        Body::Headless(hosts) if hosts.is_empty() => None,
        Body::Headless(_) | Body::Virtual(_) => Some(view),
    }
}

/// The cluster's own name follows its own declaration alone: `service.kind` is what all exports make
/// together, and nobody else's export may change what is here. Without a virtual IP it is headless here.
fn in_cluster<'a>(own: &'a ClusterName, service: &'a Service) -> Option<View<'a>> {
    let local = service.local.as_ref()?;
    let body = if service.vips.local.is_empty() {
        Body::Headless(hosts(own, &local.endpoints))
    } else {
        Body::Virtual(&service.vips.local)
    };
    Some(View {
        ports: &local.ports,
        body,
    })
}

fn in_set<'a>(own: &'a ClusterName, service: &'a Service) -> Option<View<'a>> {
    if !service.imported {
        return None;
    }
    let body = match service.kind {
        ServiceKind::Virtual => Body::Virtual(&service.vips.set),
        ServiceKind::Headless => {
            let mut all =
                exported(service).map_or_else(BTreeMap::new, |endpoints| hosts(own, endpoints));
            for remote in &service.remote {
                let names = remote.hosts.iter().map(|host| host.as_str().to_owned());
                let room = HOSTS_MAX.saturating_sub(all.len());
                all.extend(
                    names
                        .map(|name| ((&remote.cluster, name), Vec::new()))
                        .take(room),
                );
            }
            Body::Headless(all)
        }
    };
    Some(View {
        ports: &service.ports,
        body,
    })
}

fn pinned<'a>(
    own: &'a ClusterName,
    service: &'a Service,
    cluster: &ClusterName,
) -> Option<View<'a>> {
    if !service.imported {
        return None;
    }
    let remote = service
        .remote
        .iter()
        .find(|remote| &remote.cluster == cluster);
    let (ports, hosts) = match remote {
        Some(remote) => {
            let names = remote.hosts.iter().map(|host| host.as_str().to_owned());
            let hosts = names.map(|name| ((&remote.cluster, name), Vec::new()));
            (&remote.ports, hosts.take(HOSTS_MAX).collect())
        }
        None if cluster == own => {
            let endpoints = exported(service)?;
            (&service.local.as_ref()?.ports, hosts(own, endpoints))
        }
        None => return None,
    };
    let body = match service.kind {
        ServiceKind::Virtual => Body::Virtual(service.vips.pinned.get(cluster)?),
        ServiceKind::Headless => Body::Headless(hosts),
    };
    Some(View { ports, body })
}

/// The own endpoints, if the service is offered to the set from here (MCS: what is not exported
/// is not visible, even when another cluster exports the same name).
fn exported(service: &Service) -> Option<&[Endpoint]> {
    use portolan_model::declared::ExportTo;
    let local = service.local.as_ref()?;
    match &local.exported {
        ExportTo::Nobody => None,
        ExportTo::Everyone | ExportTo::Peers(_) => Some(&local.endpoints),
    }
}

fn hosts<'a>(
    own: &'a ClusterName,
    endpoints: &[Endpoint],
) -> BTreeMap<(&'a ClusterName, String), Vec<IpAddr>> {
    let mut hosts: BTreeMap<_, Vec<IpAddr>> = BTreeMap::new();
    for endpoint in endpoints.iter().filter(|endpoint| endpoint.ready) {
        let host = (own, endpoint.host_label());
        if hosts.len() >= HOSTS_MAX && !hosts.contains_key(&host) {
            continue;
        }
        let addresses = hosts.entry(host).or_default();
        if !addresses.contains(&endpoint.address) {
            addresses.push(endpoint.address);
        }
    }
    hosts
}
