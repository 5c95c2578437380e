//! Registrations: a sidecar's becomes a leased Workload declaration, a gateway's a fact.

use std::fmt;
use std::net::SocketAddr;

use portolan_api::convert::Registration;
use portolan_api::presence::GatewayRegistration;
use portolan_api::presence::report::Report as Said;
use portolan_compiler::parse_document;
use portolan_model::declared::{Declared, DeclaredSpec, ResourceKind, WorkloadSpec};
use portolan_model::snapshot::Gateway;
use portolan_model::{IdentityKind, WorkloadKey};
use serde_json::{Value, json};
use tonic::Status;

use crate::apply::{Applier, Batch};
use crate::caller::Admitted;
use crate::view::workload_resource;

/// For whom a stream stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Holder {
    Workload(WorkloadKey),
    Gateway(Gateway),
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Workload(workload) => write!(f, "workload {workload}"),
            Self::Gateway(gateway) => write!(f, "gateway {}", gateway.name),
        }
    }
}

/// Judges a registration by the caller's identity and keeps it.
pub(crate) async fn register(
    applier: &Applier,
    caller: &Admitted,
    said: Said,
) -> Result<Holder, Status> {
    match said {
        Said::Workload(registration) => {
            let registration = Registration::try_from(registration)
                .map_err(|error| Status::invalid_argument(error.to_string()))?;
            may_register(caller, &registration)?;
            lease(applier, &registration).await?;
            Ok(Holder::Workload(registration.workload))
        }
        Said::Gateway(registration) => gateway(caller, registration).map(Holder::Gateway),
        Said::App(_) | Said::Links(_) | Said::Draining(_) => Err(Status::invalid_argument(
            "the first report must be a registration",
        )),
    }
}

fn may_register(caller: &Admitted, registration: &Registration) -> Result<(), Status> {
    let own = match &caller.kind {
        IdentityKind::Workload {
            namespace,
            service_account,
        } => {
            namespace == &registration.workload.namespace
                && service_account == &registration.spec.service_account
        }
        IdentityKind::Control { .. }
        | IdentityKind::Gateway { .. }
        | IdentityKind::Authority
        | IdentityKind::Other => false,
    };
    if own {
        return Ok(());
    }
    Err(Status::permission_denied(format!(
        "`{}` may not register workload {} of service account `{}`: a sidecar registers workloads of its own namespace and service account",
        caller.id, registration.workload, registration.spec.service_account
    )))
}

fn gateway(caller: &Admitted, registration: GatewayRegistration) -> Result<Gateway, Status> {
    match &caller.kind {
        IdentityKind::Gateway { name } if name == &registration.name => {}
        IdentityKind::Gateway { .. }
        | IdentityKind::Workload { .. }
        | IdentityKind::Control { .. }
        | IdentityKind::Authority
        | IdentityKind::Other => {
            return Err(Status::permission_denied(format!(
                "`{}` may not register gateway `{}`: a gateway registers under its identity's name",
                caller.id, registration.name
            )));
        }
    }
    let address = |field: &str, text: &str| {
        let parsed: SocketAddr = text
            .parse()
            .map_err(|_| Status::invalid_argument(format!("{field}: `{text}` is not `ip:port`")))?;
        if parsed.ip().is_unspecified() || parsed.port() == 0 {
            let problem = format!("{field}: nobody can dial `{text}`; register a concrete address");
            return Err(Status::invalid_argument(problem));
        }
        Ok(parsed)
    };
    Ok(Gateway {
        tcp: address("tcp", &registration.tcp)?,
        quic: address("quic", &registration.quic)?,
        name: registration.name,
    })
}

/// Stores the workload's declaration, unless somebody declared it by hand.
async fn lease(applier: &Applier, registration: &Registration) -> Result<(), Status> {
    let key = workload_resource(&registration.workload);
    let stored = applier
        .store
        .get(&key.path())
        .await
        .map_err(|error| Status::unavailable(error.to_string()))?;
    let declared = stored
        .and_then(|entry| serde_json::from_slice::<Value>(&entry.value).ok())
        .and_then(|document| parse_document(&document).ok());
    if let Some(known) = declared.as_ref().and_then(workload_spec) {
        if known.service_account != registration.spec.service_account {
            return Err(Status::already_exists(format!(
                "workload {} belongs to service account `{}`; choose another name, or delete it first",
                registration.workload, known.service_account
            )));
        }
        if !known.leased {
            return Ok(());
        }
    }
    let document = document(registration);
    let declared = parse_document(&document).map_err(|problems| {
        let told: Vec<String> = problems.iter().map(ToString::to_string).collect();
        Status::invalid_argument(told.join("; "))
    })?;
    let batch = Batch {
        documents: vec![(declared, document)],
        deletions: Vec::new(),
    };
    let committed = applier.commit(&batch, false).await;
    committed.map_err(|error| Status::unavailable(error.to_string()))?;
    Ok(())
}

/// What a declaration says of a workload.
pub(crate) fn workload_spec(declared: &Declared) -> Option<&WorkloadSpec> {
    match &declared.spec {
        DeclaredSpec::Workload(spec) => Some(spec),
        DeclaredSpec::Service(_) | DeclaredSpec::Export(_) | DeclaredSpec::Peer(_) => None,
    }
}

fn document(registration: &Registration) -> Value {
    json!({
        "apiVersion": ResourceKind::Workload.api_version(),
        "kind": ResourceKind::Workload.as_str(),
        "metadata": {
            "name": registration.workload.name,
            "namespace": registration.workload.namespace,
            "labels": registration.labels,
        },
        "spec": registration.spec,
    })
}
