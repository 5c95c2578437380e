//! The admin API on the Unix socket.

mod resources;
mod status;

use portolan_api::admin::admin_server::Admin;
use portolan_api::admin::{
    ApplyRequest, ApplyResponse, Change, CreateTokenRequest, CreateTokenResponse, DeleteRequest,
    DeleteResponse, GetRequest, GetResponse, SnapshotRequest, SnapshotResponse, StatusRequest,
    StatusResponse, TypedResource,
};
use portolan_model::declared::ResourceKind;
use portolan_model::{IdentityKind, Namespace, SpiffeId};
use portolan_registry::StoreError;
use portolan_trust::mint_token;
use tonic::{Request, Response, Status};

use crate::apply::{Action, Applier, Batch, Planned};
use crate::authority::AuthorityService;
use crate::ca::now_s;
use crate::exchange::progress::Progress;
use crate::metrics::ControlMetrics;
use crate::sources::SourceProblems;
use crate::view::ResourceType;

/// How long join tokens are good without a wish.
const TOKEN_TTL_S: u64 = 3600;
/// The longest that a join token is good.
const TOKEN_TTL_MAX_S: u64 = 30 * 24 * 3600;
/// The namespace of declarations that name none.
pub(crate) const DEFAULT_NAMESPACE: &str = "default";

/// The admin service.
pub(crate) struct AdminService {
    pub(crate) applier: Applier,
    pub(crate) authority: AuthorityService,
    pub(crate) progress: Progress,
    pub(crate) sources: SourceProblems,
    pub(crate) metrics: ControlMetrics,
}

#[tonic::async_trait]
impl Admin for AdminService {
    async fn apply(
        &self,
        request: Request<ApplyRequest>,
    ) -> Result<Response<ApplyResponse>, Status> {
        let request = request.into_inner();
        let namespace = namespace_or_default(&request.default_namespace)?;
        let texts: Vec<(String, String)> = request
            .documents
            .into_iter()
            .map(|document| (document.file, document.text))
            .collect();
        let read = self.applier.read(&texts, &namespace);
        let problems = read.problems.iter().map(Into::into).collect();
        let mut response = ApplyResponse {
            changes: Vec::new(),
            problems,
        };
        if read.has_errors() {
            return Ok(Response::new(response));
        }
        let documents = read.documents.into_iter();
        let batch = Batch {
            documents: documents
                .map(|(_, declared, document)| (declared, document))
                .collect(),
            deletions: Vec::new(),
        };
        let planned = self.applier.commit(&batch, request.dry_run).await;
        let planned = planned.map_err(|error| store_failed(&error))?;
        response.changes = planned.iter().map(change).collect();
        Ok(Response::new(response))
    }

    async fn get(&self, request: Request<GetRequest>) -> Result<Response<GetResponse>, Status> {
        let request = request.into_inner();
        let kind = kind(&request.kind)?;
        let view = self.applier.views.borrow().clone();
        let documents = resources::select(&view, kind, &request.namespace, &request.name)?;
        Ok(Response::new(GetResponse {
            documents_json: documents.iter().map(ToString::to_string).collect(),
        }))
    }

    async fn delete(
        &self,
        request: Request<DeleteRequest>,
    ) -> Result<Response<DeleteResponse>, Status> {
        let request = request.into_inner();
        let kind = kind(&request.kind)?;
        if kind == ResourceKind::ServiceImport {
            return Err(Status::failed_precondition(
                "ServiceImports are generated; delete the ServiceExport that one comes from",
            ));
        }
        let key = resources::key(kind, &request.namespace, &request.name)?;
        let batch = Batch {
            documents: Vec::new(),
            deletions: vec![key.clone()],
        };
        let planned = self.applier.commit(&batch, false).await;
        let planned = planned.map_err(|error| store_failed(&error))?;
        let Some(planned) = planned.first() else {
            return Err(Status::not_found(format!("{key} does not exist")));
        };
        Ok(Response::new(DeleteResponse {
            change: Some(change(planned)),
        }))
    }

    async fn status(
        &self,
        _request: Request<StatusRequest>,
    ) -> Result<Response<StatusResponse>, Status> {
        Ok(Response::new(status::report(self)))
    }

    async fn snapshot(
        &self,
        _request: Request<SnapshotRequest>,
    ) -> Result<Response<SnapshotResponse>, Status> {
        let view = self.applier.views.borrow().clone();
        let mut resources = Vec::new();
        for kind in ResourceType::ALL {
            for (_, encoded) in view.resources.of(kind).iter() {
                resources.push(TypedResource {
                    type_url: encoded.type_url.to_owned(),
                    resource: Some(encoded.to_discovery()),
                });
            }
        }
        Ok(Response::new(SnapshotResponse {
            system_version_info: view.system_version(),
            resources,
        }))
    }

    async fn create_token(
        &self,
        request: Request<CreateTokenRequest>,
    ) -> Result<Response<CreateTokenResponse>, Status> {
        let request = request.into_inner();
        let id = SpiffeId::parse(&request.spiffe_id)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let own = &self.applier.cluster.trust_domain;
        let proxy = match id.kind() {
            IdentityKind::Workload { .. } | IdentityKind::Gateway { .. } => true,
            IdentityKind::Control { .. } | IdentityKind::Authority | IdentityKind::Other => false,
        };
        if !proxy || id.trust_domain() != own {
            return Err(Status::invalid_argument(format!(
                "`{id}` cannot join; use `spiffe://{own}/ns/<namespace>/sa/<service account>` or `spiffe://{own}/portolan/gateway/<name>`"
            )));
        }
        let ttl_s = match request.ttl_s {
            0 => TOKEN_TTL_S,
            1..=TOKEN_TTL_MAX_S => request.ttl_s,
            longer => {
                return Err(Status::invalid_argument(format!(
                    "a join token cannot be good for {longer} s; the most is {TOKEN_TTL_MAX_S} s"
                )));
            }
        };
        let expires_s = now_s() + ttl_s;
        tracing::info!(%id, expires_s, "made a join token");
        Ok(Response::new(CreateTokenResponse {
            token: mint_token(&self.authority.secret, &id, expires_s),
            expires_s,
        }))
    }
}

/// A kind as people type it.
fn kind(word: &str) -> Result<ResourceKind, Status> {
    ResourceKind::parse(word).ok_or_else(|| {
        let kinds: Vec<&str> = ResourceKind::ALL.iter().map(|kind| kind.plural()).collect();
        Status::invalid_argument(format!(
            "there is no kind `{}`; the kinds are {}",
            word.escape_default(),
            kinds.join(", ")
        ))
    })
}

fn namespace_or_default(text: &str) -> Result<Namespace, Status> {
    let text = if text.is_empty() {
        DEFAULT_NAMESPACE
    } else {
        text
    };
    Namespace::parse(text).map_err(|error| Status::invalid_argument(error.to_string()))
}

fn change(planned: &Planned) -> Change {
    use portolan_api::admin::Action as Message;
    let action = match planned.action {
        Action::Unchanged => Message::Unchanged,
        Action::Created => Message::Created,
        Action::Configured => Message::Configured,
        Action::Deleted => Message::Deleted,
    };
    let json = |document: &Option<serde_json::Value>| {
        document
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default()
    };
    Change {
        resource: planned.key.to_string(),
        action: action.into(),
        before_json: json(&planned.before),
        after_json: json(&planned.after),
    }
}

/// A failed registry operation, with its cause, as the caller sees it.
fn store_failed(error: &StoreError) -> Status {
    let told = match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    };
    tracing::error!(problem = told, "a change of declarations failed");
    match error {
        StoreError::Conflict { .. } => Status::aborted(told),
        StoreError::TooLarge { .. }
        | StoreError::InvalidKey { .. }
        | StoreError::DuplicateKey { .. } => Status::invalid_argument(told),
        StoreError::Full { .. } => Status::resource_exhausted(told),
        StoreError::Unavailable { .. } | StoreError::File { .. } => Status::unavailable(told),
        StoreError::Compacted { .. }
        | StoreError::Damaged { .. }
        | StoreError::Format { .. }
        | StoreError::Locked { .. }
        | StoreError::Refused { .. }
        | StoreError::Config { .. }
        | StoreError::NoEtcd => Status::internal(told),
    }
}

/// The last known number of connected proxies.
fn proxies(metrics: &ControlMetrics) -> u32 {
    u32::try_from(metrics.proxies.get()).unwrap_or_default()
}
