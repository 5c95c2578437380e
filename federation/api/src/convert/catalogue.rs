//! Catalogue entries: what a peer says, within the bounds of [`portolan_model::sharing`].

use std::collections::BTreeSet;

use portolan_model::names::ServiceKey;
use portolan_model::service::{AFFINITY_SECONDS, Port, SessionAffinity};
use portolan_model::sharing::{
    CatalogueEntry, ENTRY_HOSTS_MAX, ENTRY_IDENTITIES_MAX, ENTRY_LOCALITIES_MAX, ENTRY_PORTS_MAX,
};

use super::Invalid;
use super::field::{
    kind, kind_number, locality_health, locality_health_message, messages, name, port,
    port_message, strings, texts,
};
use crate::peering;

impl TryFrom<peering::CatalogueEntry> for CatalogueEntry {
    type Error = Invalid;

    fn try_from(entry: peering::CatalogueEntry) -> Result<Self, Invalid> {
        let namespace = name("namespace", &entry.namespace)?;
        let ports = messages("ports", entry.ports, ENTRY_PORTS_MAX, port)?;
        check_distinct(&ports)?;
        let localities = entry.localities;
        Ok(Self {
            key: ServiceKey::new(namespace, name("name", &entry.name)?),
            kind: kind("kind", entry.kind)?,
            ports,
            localities: messages(
                "localities",
                localities,
                ENTRY_LOCALITIES_MAX,
                locality_health,
            )?,
            identities: texts("identities", &entry.identities, ENTRY_IDENTITIES_MAX, name)?,
            exported_ms: entry.exported_ms,
            hosts: texts("hosts", &entry.hosts, ENTRY_HOSTS_MAX, name)?,
            affinity: affinity(entry.client_ip_affinity_seconds)?,
        })
    }
}

impl From<&CatalogueEntry> for peering::CatalogueEntry {
    fn from(entry: &CatalogueEntry) -> Self {
        let localities = entry.localities.iter();
        Self {
            namespace: entry.key.namespace.to_string(),
            name: entry.key.name.to_string(),
            kind: kind_number(entry.kind),
            ports: entry.ports.iter().map(port_message).collect(),
            localities: localities.map(locality_health_message).collect(),
            identities: strings(&entry.identities),
            exported_ms: entry.exported_ms,
            hosts: strings(&entry.hosts),
            client_ip_affinity_seconds: match entry.affinity {
                SessionAffinity::None => 0,
                SessionAffinity::ClientIp { timeout_seconds } => timeout_seconds,
            },
        }
    }
}

fn affinity(seconds: u32) -> Result<SessionAffinity, Invalid> {
    match seconds {
        0 => Ok(SessionAffinity::None),
        _ if AFFINITY_SECONDS.contains(&seconds) => Ok(SessionAffinity::ClientIp {
            timeout_seconds: seconds,
        }),
        _ => {
            let most = AFFINITY_SECONDS.end();
            let why = format!("is {seconds}; at most {most} are accepted");
            Err(Invalid::new("client_ip_affinity_seconds", why))
        }
    }
}

/// A service has no two ports of one name, or of one number on one transport.
fn check_distinct(ports: &[Port]) -> Result<(), Invalid> {
    let mut names = BTreeSet::new();
    let mut numbers = BTreeSet::new();
    for (at, port) in ports.iter().enumerate() {
        if port.name.as_ref().is_some_and(|name| !names.insert(name)) {
            let field = format!("ports[{at}].name");
            return Err(Invalid::new(field, "is another port's name as well"));
        }
        if !numbers.insert((port.protocol.transport(), port.number)) {
            let field = format!("ports[{at}].number");
            return Err(Invalid::new(field, "is another port's number as well"));
        }
    }
    Ok(())
}
