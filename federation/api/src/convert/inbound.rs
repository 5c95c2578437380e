//! What a workload's sidecar accepts.

use portolan_model::names::{ServiceKey, WorkloadKey};
use portolan_model::snapshot::{Inbound, InboundPort, InboundRules};

use super::field::{
    export_to, export_to_message, messages, name, port_number, protocol, protocol_number, rules,
    rules_bytes,
};
use super::{Invalid, PORTS_MAX};
use crate::resources;

impl TryFrom<resources::Inbound> for Inbound {
    type Error = Invalid;

    fn try_from(inbound: resources::Inbound) -> Result<Self, Invalid> {
        let namespace = name("namespace", &inbound.namespace)?;
        Ok(Self {
            workload: WorkloadKey::new(namespace, name("workload", &inbound.workload)?),
            ports: messages("ports", inbound.ports, PORTS_MAX, port)?,
            rules: messages("rules", inbound.rules, PORTS_MAX, service_rules)?
                .into_iter()
                .collect(),
        })
    }
}

impl From<&Inbound> for resources::Inbound {
    fn from(inbound: &Inbound) -> Self {
        Self {
            namespace: inbound.workload.namespace.to_string(),
            workload: inbound.workload.name.to_string(),
            ports: inbound.ports.iter().map(port_message).collect(),
            rules: inbound.rules.iter().map(rules_message).collect(),
        }
    }
}

fn service_rules(message: resources::InboundRules) -> Result<(ServiceKey, InboundRules), Invalid> {
    let namespace = name("service_namespace", &message.service_namespace)?;
    let service = ServiceKey::new(namespace, name("service_name", &message.service_name)?);
    Ok((service, rules("rules", &message.rules)?))
}

fn rules_message((service, rules): (&ServiceKey, &InboundRules)) -> resources::InboundRules {
    resources::InboundRules {
        service_namespace: service.namespace.to_string(),
        service_name: service.name.to_string(),
        rules: rules_bytes(rules),
    }
}

fn port(port: resources::InboundPort) -> Result<InboundPort, Invalid> {
    let namespace = name("service_namespace", &port.service_namespace)?;
    Ok(InboundPort {
        service: ServiceKey::new(namespace, name("service_name", &port.service_name)?),
        port: port_number("port", port.port)?,
        app_port: port_number("app_port", port.app_port)?,
        protocol: protocol("protocol", port.protocol)?,
        exported: export_to("exported", port.exported)?,
    })
}

fn port_message(port: &InboundPort) -> resources::InboundPort {
    resources::InboundPort {
        service_namespace: port.service.namespace.to_string(),
        service_name: port.service.name.to_string(),
        port: port.port.into(),
        app_port: port.app_port.into(),
        protocol: protocol_number(port.protocol),
        exported: Some(export_to_message(&port.exported)),
    }
}
