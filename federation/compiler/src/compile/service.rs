//! One service, compiled from everything that is known of it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use portolan_model::declared::{DeclaredServiceKind, ExportTo, ResourceKey, ServiceSpec};
use portolan_model::sharing::CatalogueEntry;
use portolan_model::snapshot::{LocalBackend, RemoteBackend, Service, Vips};
use portolan_model::traffic::Traffic;
use portolan_model::{
    ClusterIdentity, ClusterName, Problem, Region, ServiceKey, ServiceKind, SessionAffinity,
    Severity,
};
use serde_json::Value;

use super::catalogue::Catalogues;
use super::facts::{Facts, export_resource, import_resource, service_resource};
use super::merge::{Exporter, Merged, merge};
use super::peers::Peers;
use super::status::{self, ExportState};
use super::vips::{VipTable, local_key, pinned_key, set_key};
use super::{cluster_ips::ClusterIps, local, traffic};

/// Everything that a service is compiled from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sources<'a> {
    pub(super) identity: &'a ClusterIdentity,
    pub(super) facts: &'a Facts,
    pub(super) peers: &'a Peers,
    pub(super) catalogues: &'a Catalogues,
    pub(super) cluster_ips: &'a ClusterIps,
}

/// What became of one service.
#[derive(Debug)]
pub(super) struct Compiled {
    pub(super) service: Option<Service>,
    pub(super) import: Option<Value>,
    pub(super) export: Option<(ExportTo, CatalogueEntry)>,
    pub(super) statuses: [(ResourceKey, Option<Value>); 2],
    pub(super) problems: [(ResourceKey, Vec<Problem>); 3],
    /// Whether a virtual IP is missing because the pool is exhausted.
    pub(super) starved: bool,
    /// Whether virtual IPs of it became free.
    pub(super) freed: bool,
}

/// The session affinity of each face of a service.
#[derive(Debug, Clone, Copy)]
pub(super) struct SessionAffinities {
    /// As declared here.
    pub(super) cluster: SessionAffinity,
    /// As the exports have it together.
    pub(super) set: SessionAffinity,
}

impl SessionAffinities {
    fn new(declared: Option<(&ServiceSpec, ServiceKind)>, merged: Option<&Merged>) -> Self {
        let cluster = declared.map_or(SessionAffinity::None, |(spec, _)| spec.affinity);
        Self {
            cluster,
            set: merged.map_or(cluster, |merged| merged.affinity),
        }
    }
}

/// This cluster's own export of a service.
struct Own {
    to: ExportTo,
    entry: CatalogueEntry,
    left_out: Vec<String>,
}

type Offer<'a> = (&'a ClusterName, &'a Region, &'a CatalogueEntry);

pub(super) fn compile(sources: Sources<'_>, vips: &mut VipTable, key: &ServiceKey) -> Compiled {
    let spec = sources.facts.service(key);
    let export = sources.facts.export(key);
    let virtual_or_headless = spec.and_then(|spec| match spec.kind {
        DeclaredServiceKind::Of(kind) => Some((spec, kind)),
        DeclaredServiceKind::ExternalName(_) => None,
    });
    let local = virtual_or_headless.map(|(spec, kind)| {
        let exported = export.map_or(ExportTo::Nobody, |(export, _)| export.to.clone());
        local::backend(sources.identity, sources.facts, key, (spec, kind), exported)
    });
    let own = own_export(
        key,
        virtual_or_headless,
        local.as_ref(),
        export.map(|(_, at)| at),
    );
    let offers = offers(sources, key);
    let exporters = exporters(sources.identity, own.as_ref(), &offers);
    let clusters: BTreeSet<&ClusterName> = exporters.iter().map(|one| one.cluster).collect();
    let clusters: Vec<&ClusterName> = clusters.into_iter().collect();
    let merged = merge(exporters);
    let affinity = SessionAffinities::new(virtual_or_headless, merged.as_ref());

    let mut allocation = Allocation::new(vips);
    let service =
        assemble(key, virtual_or_headless, local, &offers, merged.as_ref()).map(|mut service| {
            let claimed = virtual_or_headless.map(|(spec, kind)| (spec, kind, sources.cluster_ips));
            service.vips = allocation.vips(key, service.kind, claimed, &clusters);
            service.traffic = traffic::compile(sources.facts, &service, affinity);
            service
        });
    let (starved, freed) = allocation.settle(key);

    let import = service
        .as_ref()
        .filter(|service| service.imported)
        .map(|service| status::import(service, affinity.set, &clusters));
    let state = match (spec, virtual_or_headless) {
        (None, _) => ExportState::NoService,
        (Some(_), None) => ExportState::InvalidServiceType,
        (Some(_), Some(_)) => ExportState::Valid,
    };
    let conflicts = merged.map(|merged| merged.conflicts).unwrap_or_default();
    let export_status = export.map(|_| status::export(state, &conflicts));
    let service_status = service.as_ref().and_then(status::service);
    let problems = problems(
        sources,
        key,
        (spec, export.map(|_| state)),
        own.as_ref(),
        starved,
    );
    Compiled {
        service,
        import,
        export: own.map(|own| (own.to, own.entry)),
        statuses: [
            (service_resource(key), service_status),
            (export_resource(key), export_status),
        ],
        problems,
        starved,
        freed,
    }
}

fn own_export(
    key: &ServiceKey,
    declared: Option<(&ServiceSpec, ServiceKind)>,
    local: Option<&LocalBackend>,
    exported_ms: Option<u64>,
) -> Option<Own> {
    let (entry, left_out) = local::summary(key, declared?, local?, exported_ms?);
    Some(Own {
        to: local?.exported.clone(),
        entry,
        left_out,
    })
}

fn offers<'a>(sources: Sources<'a>, key: &ServiceKey) -> Vec<Offer<'a>> {
    sources
        .catalogues
        .offers(key)
        .filter_map(|(peer, entry)| {
            let spec = sources.peers.admitted.get(peer)?;
            Some((peer, &spec.region, entry))
        })
        .collect()
}

fn exporters<'a>(
    identity: &'a ClusterIdentity,
    own: Option<&'a Own>,
    offers: &[Offer<'a>],
) -> Vec<Exporter<'a>> {
    own.map(|own| (&identity.name, &own.entry))
        .into_iter()
        .chain(offers.iter().map(|(peer, _, entry)| (*peer, *entry)))
        .map(|(cluster, entry)| Exporter {
            cluster,
            exported_ms: entry.exported_ms,
            kind: entry.kind,
            ports: &entry.ports,
            affinity: entry.affinity,
        })
        .collect()
}

/// The service without its virtual IPs. What is imported follows the merged exports; what is not
/// is simply local.
fn assemble(
    key: &ServiceKey,
    declared: Option<(&ServiceSpec, ServiceKind)>,
    local: Option<LocalBackend>,
    offers: &[Offer<'_>],
    merged: Option<&Merged>,
) -> Option<Service> {
    let (kind, ports) = match (merged, declared, &local) {
        (Some(merged), _, _) => (merged.kind, merged.ports.clone()),
        (None, Some((_, kind)), Some(local)) => (kind, local.ports.clone()),
        (None, _, _) => return None,
    };
    let remote = offers.iter().map(|(peer, region, entry)| RemoteBackend {
        cluster: (*peer).clone(),
        region: (*region).clone(),
        ports: entry.ports.clone(),
        localities: entry.localities.clone(),
        identities: entry.identities.clone(),
        hosts: entry.hosts.clone(),
    });
    Some(Service {
        key: key.clone(),
        kind,
        ports,
        vips: Vips::default(),
        traffic: Traffic::default(),
        imported: merged.is_some(),
        local,
        remote: remote.collect(),
    })
}

/// Virtual IPs being handed to one service.
struct Allocation<'a> {
    table: &'a mut VipTable,
    wanted: BTreeSet<String>,
    starved: bool,
}

impl<'a> Allocation<'a> {
    fn new(table: &'a mut VipTable) -> Self {
        Self {
            table,
            wanted: BTreeSet::new(),
            starved: false,
        }
    }

    fn vips(
        &mut self,
        key: &ServiceKey,
        merged_kind: ServiceKind,
        declared: Option<(&ServiceSpec, ServiceKind, &ClusterIps)>,
        exporters: &[&ClusterName],
    ) -> Vips {
        let mut vips = Vips::default();
        if let Some((spec, ServiceKind::Virtual, cluster_ips)) = declared {
            vips.local = cluster_ips.granted(key, spec);
            if vips.local.is_empty() {
                vips.local = self.want(local_key(key));
            }
        }
        if merged_kind == ServiceKind::Virtual && !exporters.is_empty() {
            vips.set = self.want(set_key(key));
            vips.pinned = exporters
                .iter()
                .map(|cluster| ((*cluster).clone(), self.want(pinned_key(key, cluster))))
                .filter(|(_, ips)| !ips.is_empty())
                .collect::<BTreeMap<_, _>>();
        }
        vips
    }

    fn want(&mut self, key: String) -> Vec<IpAddr> {
        let ips = self.table.want(&key);
        self.wanted.insert(key);
        self.starved |= ips.is_none();
        ips.unwrap_or_default()
    }

    fn settle(self, key: &ServiceKey) -> (bool, bool) {
        let freed = self.table.settle(key, &self.wanted);
        (self.starved, freed)
    }
}

fn problems(
    sources: Sources<'_>,
    key: &ServiceKey,
    (spec, export): (Option<&ServiceSpec>, Option<ExportState>),
    own: Option<&Own>,
    starved: bool,
) -> [(ResourceKey, Vec<Problem>); 3] {
    let mut on_service = Vec::new();
    let mut on_export = Vec::new();
    let mut on_import = Vec::new();
    if let Some(spec) = spec {
        on_service = sources.cluster_ips.problems(key, spec);
    }
    if starved {
        let exhausted = problem(
            Severity::Error,
            "",
            "no virtual IP is free, so it cannot be called by address".to_owned(),
            "enlarge the pool of virtual IPs in the control plane's configuration",
        );
        if spec.is_some() {
            on_service.push(exhausted);
        } else {
            on_import.push(exhausted);
        }
    }
    match export {
        None | Some(ExportState::Valid) => {}
        Some(ExportState::NoService) => on_export.push(problem(
            Severity::Warning,
            "metadata.name",
            format!("there is no Service {key}, so nothing is exported"),
            "create the Service, or delete the ServiceExport",
        )),
        Some(ExportState::InvalidServiceType) => on_export.push(problem(
            Severity::Warning,
            "metadata.name",
            format!("Service {key} is an ExternalName, which cannot be exported"),
            "export a Service with a selector, or delete the ServiceExport",
        )),
    }
    let left_out = own.into_iter().flat_map(|own| &own.left_out);
    on_export.extend(left_out.map(|what| {
        problem(
            Severity::Warning,
            "",
            what.clone(),
            "split the service into smaller ones",
        )
    }));
    [
        (service_resource(key), on_service),
        (export_resource(key), on_export),
        (import_resource(key), on_import),
    ]
}

pub(super) fn problem(severity: Severity, path: &str, message: String, remedy: &str) -> Problem {
    Problem {
        severity,
        resource: None,
        position: None,
        path: path.to_owned(),
        message,
        remedy: remedy.to_owned(),
    }
}
