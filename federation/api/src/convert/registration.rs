//! What a sidecar registers: its workload.

use std::collections::BTreeMap;

use portolan_model::cluster::Locality;
use portolan_model::declared::WorkloadSpec;
use portolan_model::names::{PortName, WorkloadKey};

use super::field::{at_most, ip, name, optional_name, port_number, text_or_empty};
use super::{Invalid, LABEL_BYTES_MAX, LABELS_MAX, PORTS_MAX};
use crate::presence;

/// A workload as its sidecar registers it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registration {
    /// Which workload.
    pub workload: WorkloadKey,
    /// The labels that services select it by.
    pub labels: BTreeMap<String, String>,
    /// What a declaration of it would say; always leased.
    pub spec: WorkloadSpec,
}

impl TryFrom<presence::WorkloadRegistration> for Registration {
    type Error = Invalid;

    fn try_from(message: presence::WorkloadRegistration) -> Result<Self, Invalid> {
        let namespace = name("namespace", &message.namespace)?;
        at_most("ports", message.ports.len(), PORTS_MAX)?;
        let port = |(text, number): (&String, &u32)| {
            let name: PortName = name("ports", text)?;
            let number = port_number(&format!("ports[{name}]"), *number)?;
            Ok((name, number))
        };
        let ports = message.ports.iter().map(port);
        check_labels(&message.labels)?;
        Ok(Self {
            workload: WorkloadKey::new(namespace, name("name", &message.name)?),
            spec: WorkloadSpec {
                address: ip("address", &message.address)?,
                ports: ports.collect::<Result<_, Invalid>>()?,
                service_account: name("service_account", &message.service_account)?,
                locality: locality(&message)?,
                weight: message.weight,
                inbound_port: port_number("inbound_port", message.inbound_port)?,
                hostname: optional_name("hostname", &message.hostname)?,
                leased: true,
            },
            labels: message.labels,
        })
    }
}

impl From<&Registration> for presence::WorkloadRegistration {
    fn from(registration: &Registration) -> Self {
        let spec = &registration.spec;
        let place = spec.locality.as_ref();
        let ports = spec.ports.iter();
        Self {
            namespace: registration.workload.namespace.to_string(),
            name: registration.workload.name.to_string(),
            service_account: spec.service_account.to_string(),
            address: spec.address.to_string(),
            ports: ports
                .map(|(name, number)| (name.to_string(), u32::from(*number)))
                .collect(),
            labels: registration.labels.clone(),
            region: text_or_empty(place.map(|place| &place.region)),
            zone: text_or_empty(place.and_then(|place| place.zone.as_ref())),
            weight: spec.weight,
            inbound_port: spec.inbound_port.into(),
            hostname: text_or_empty(spec.hostname.as_ref()),
        }
    }
}

fn locality(message: &presence::WorkloadRegistration) -> Result<Option<Locality>, Invalid> {
    let zone = optional_name("zone", &message.zone)?;
    match (optional_name("region", &message.region)?, zone) {
        (Some(region), zone) => Ok(Some(Locality { region, zone })),
        (None, None) => Ok(None),
        (None, Some(_)) => Err(Invalid::new("region", "is missing, although `zone` is set")),
    }
}

fn check_labels(labels: &BTreeMap<String, String>) -> Result<(), Invalid> {
    at_most("labels", labels.len(), LABELS_MAX)?;
    let too_long = |(key, value): &(&String, &String)| {
        key.is_empty() || key.len() > LABEL_BYTES_MAX || value.len() > LABEL_BYTES_MAX
    };
    if labels.iter().any(|label| too_long(&label)) {
        let problem =
            format!("a key is empty, or longer than {LABEL_BYTES_MAX} bytes, or a value is");
        return Err(Invalid::new("labels", problem));
    }
    Ok(())
}
