//! Services with their backends.

use std::collections::BTreeMap;

use portolan_model::Endpoint;
use portolan_model::names::{ClusterName, ServiceKey, WorkloadKey};
use portolan_model::sharing::{ENTRY_HOSTS_MAX, ENTRY_IDENTITIES_MAX, ENTRY_LOCALITIES_MAX};
use portolan_model::snapshot::{LocalBackend, RemoteBackend, Service, Vips};

use super::field::{
    at_most, export_to, export_to_message, ip, kind, kind_number, locality, locality_health,
    locality_health_message, locality_message, messages, name, optional_name, port, port_message,
    port_number, rules, rules_bytes, socket, strings, text_or_empty, texts,
};
use super::{ENDPOINTS_MAX, Invalid, PEERS_MAX, PORTS_MAX, VIPS_MAX};
use crate::resources;

impl TryFrom<resources::Service> for Service {
    type Error = Invalid;

    fn try_from(service: resources::Service) -> Result<Self, Invalid> {
        let namespace = name("namespace", &service.namespace)?;
        let local = service.local.map(local).transpose();
        Ok(Self {
            key: ServiceKey::new(namespace, name("name", &service.name)?),
            kind: kind("kind", service.kind)?,
            ports: messages("ports", service.ports, PORTS_MAX, port)?,
            vips: vips(service.vips.unwrap_or_default()).map_err(|error| error.within("vips"))?,
            imported: service.imported,
            local: local.map_err(|error| error.within("local"))?,
            remote: messages("remote", service.remote, PEERS_MAX, remote)?,
            traffic: rules("traffic", &service.traffic)?,
        })
    }
}

impl From<&Service> for resources::Service {
    fn from(service: &Service) -> Self {
        Self {
            namespace: service.key.namespace.to_string(),
            name: service.key.name.to_string(),
            kind: kind_number(service.kind),
            ports: service.ports.iter().map(port_message).collect(),
            vips: Some(vips_message(&service.vips)),
            imported: service.imported,
            local: service.local.as_ref().map(local_message),
            remote: service.remote.iter().map(remote_message).collect(),
            traffic: rules_bytes(&service.traffic),
        }
    }
}

fn vips(vips: resources::Vips) -> Result<Vips, Invalid> {
    at_most("pinned", vips.pinned.len(), PEERS_MAX)?;
    let mut pinned = BTreeMap::new();
    for (cluster, addresses) in &vips.pinned {
        let field = "pinned";
        let cluster: ClusterName = name(field, cluster)?;
        let ips = texts(&format!("{field}[{cluster}]"), &addresses.ips, VIPS_MAX, ip)?;
        pinned.insert(cluster, ips);
    }
    Ok(Vips {
        local: texts("local", &vips.local, VIPS_MAX, ip)?,
        set: texts("set", &vips.set, VIPS_MAX, ip)?,
        pinned,
    })
}

fn vips_message(vips: &Vips) -> resources::Vips {
    let pinned = vips.pinned.iter().map(|(cluster, ips)| {
        let ips = strings(ips);
        (cluster.to_string(), resources::Addresses { ips })
    });
    resources::Vips {
        local: strings(&vips.local),
        set: strings(&vips.set),
        pinned: pinned.collect(),
    }
}

fn local(backend: resources::LocalBackend) -> Result<LocalBackend, Invalid> {
    Ok(LocalBackend {
        ports: messages("ports", backend.ports, PORTS_MAX, port)?,
        endpoints: messages("endpoints", backend.endpoints, ENDPOINTS_MAX, endpoint)?,
        exported: export_to("exported", backend.exported)?,
    })
}

fn local_message(backend: &LocalBackend) -> resources::LocalBackend {
    resources::LocalBackend {
        ports: backend.ports.iter().map(port_message).collect(),
        endpoints: backend.endpoints.iter().map(endpoint_message).collect(),
        exported: Some(export_to_message(&backend.exported)),
    }
}

fn endpoint(endpoint: resources::Endpoint) -> Result<Endpoint, Invalid> {
    let namespace = name("namespace", &endpoint.namespace)?;
    at_most("ports", endpoint.ports.len(), PORTS_MAX)?;
    let mut ports = BTreeMap::new();
    for (port, app_port) in endpoint.ports {
        ports.insert(port_number("ports", port)?, port_number("ports", app_port)?);
    }
    Ok(Endpoint {
        workload: WorkloadKey::new(namespace, name("workload", &endpoint.workload)?),
        address: ip("address", &endpoint.address)?,
        inbound: socket("inbound", &endpoint.inbound)?,
        identity: name("identity", &endpoint.identity)?,
        locality: locality("locality", endpoint.locality)?,
        weight: endpoint.weight,
        ready: endpoint.ready,
        hostname: optional_name("hostname", &endpoint.hostname)?,
        ports,
    })
}

fn endpoint_message(endpoint: &Endpoint) -> resources::Endpoint {
    let ports = endpoint.ports.iter();
    resources::Endpoint {
        namespace: endpoint.workload.namespace.to_string(),
        workload: endpoint.workload.name.to_string(),
        address: endpoint.address.to_string(),
        inbound: endpoint.inbound.to_string(),
        identity: endpoint.identity.to_string(),
        locality: Some(locality_message(&endpoint.locality)),
        weight: endpoint.weight,
        ready: endpoint.ready,
        hostname: text_or_empty(endpoint.hostname.as_ref()),
        ports: ports
            .map(|(port, app_port)| (u32::from(*port), u32::from(*app_port)))
            .collect(),
    }
}

fn remote(backend: resources::RemoteBackend) -> Result<RemoteBackend, Invalid> {
    let identities = &backend.identities;
    Ok(RemoteBackend {
        cluster: name("cluster", &backend.cluster)?,
        region: name("region", &backend.region)?,
        ports: messages("ports", backend.ports, PORTS_MAX, port)?,
        localities: messages(
            "localities",
            backend.localities,
            ENTRY_LOCALITIES_MAX,
            locality_health,
        )?,
        identities: texts("identities", identities, ENTRY_IDENTITIES_MAX, name)?,
        hosts: texts("hosts", &backend.hosts, ENTRY_HOSTS_MAX, name)?,
    })
}

fn remote_message(backend: &RemoteBackend) -> resources::RemoteBackend {
    let localities = backend.localities.iter();
    resources::RemoteBackend {
        cluster: backend.cluster.to_string(),
        region: backend.region.to_string(),
        ports: backend.ports.iter().map(port_message).collect(),
        localities: localities.map(locality_health_message).collect(),
        identities: strings(&backend.identities),
        hosts: strings(&backend.hosts),
    }
}
