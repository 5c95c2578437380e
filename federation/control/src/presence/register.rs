//! Registrations: a sidecar's becomes a leased Workload declaration, a gateway's a fact.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use portolan_api::convert::Registration;
use portolan_api::presence::GatewayRegistration;
use portolan_api::presence::report::Report as Said;
use portolan_compiler::parse_document;
use portolan_model::declared::{Declared, ResourceKey, ResourceKind, WorkloadSpec};
use portolan_model::snapshot::Gateway;
use portolan_model::{IdentityKind, WorkloadKey};
use serde_json::{Value, json};
use tonic::Status;

use crate::apply::{Applier, Batch};
use crate::caller::Admitted;
use crate::documents::unchanged;
use crate::view::{View, workload_resource};

/// How long a registration waits for the registry before the view has to do: a proxy that comes back must
/// be known again before it counts as gone.
const REGISTRY_PATIENCE: Duration = Duration::from_millis(250);
/// The most leased workloads of one namespace: whoever holds one of its identities can register any number.
const LEASES_MAX: usize = 10_000;

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
    let document = document(registration);
    let path = key.path();
    let asked = tokio::time::timeout(REGISTRY_PATIENCE, applier.store.get(&path)).await;
    let stored = match asked {
        Ok(Ok(stored)) => stored,
        Ok(Err(_)) | Err(_) if is_known(&applier.views.borrow(), &key, &document) => return Ok(()),
        Ok(Err(error)) => return Err(Status::unavailable(error.to_string())),
        Err(_elapsed) => {
            let problem = "the registry does not answer, and nothing is known of this workload";
            return Err(Status::unavailable(problem));
        }
    };
    if stored.is_none() && leases(&applier.views.borrow(), &key) >= LEASES_MAX {
        return Err(Status::resource_exhausted(format!(
            "{LEASES_MAX} workloads have registered in namespace `{}`, the most that may",
            registration.workload.namespace
        )));
    }
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

/// Whether exactly this was registered before, as far as anybody here knows.
fn is_known(view: &View, key: &ResourceKey, document: &Value) -> bool {
    let stored = view.documents.get(key);
    stored.is_some_and(|stored| unchanged(&stored.document, document))
}

/// How many leased workloads the namespace of `key` has.
fn leases(view: &View, key: &ResourceKey) -> usize {
    let first = ResourceKey {
        name: String::new(),
        ..key.clone()
    };
    let stored = view.documents.range(first..);
    let beside =
        stored.take_while(|(other, _)| other.kind == key.kind && other.namespace == key.namespace);
    let specs = beside.filter_map(|(_, stored)| workload_spec(stored.declared.as_ref()?));
    specs.filter(|spec| spec.leased).count()
}

/// What a declaration says of a workload.
pub(crate) fn workload_spec(declared: &Declared) -> Option<&WorkloadSpec> {
    declared.spec.workload()
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
