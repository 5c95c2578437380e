//! The gRPC services, and which of them is served where.

use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;
use portolan_api::MESSAGE_BYTES_MAX;
use portolan_api::admin::admin_server::AdminServer;
use portolan_api::authority::authority_server::AuthorityServer;
use portolan_api::discovery::aggregated_discovery_service_server::AggregatedDiscoveryServiceServer;
use portolan_api::peering::peering_server::PeeringServer;
use portolan_api::presence::presence_server::PresenceServer;
use portolan_api::quota::quota_server::QuotaServer;
use portolan_model::ClusterIdentity;
use portolan_model::snapshot::Snapshot;
use portolan_registry::Store;
use portolan_runtime::Shutdown;
use portolan_runtime::grpc::UnixPeer;
use portolan_transport::mtls::TlsContext;
use tonic::service::Routes;
use tonic::service::interceptor::InterceptedService;
use tonic::{Request, Status};

use crate::admin::AdminService;
use crate::apply::Applier;
use crate::authority::{AuthorityService, LocalRule, ROOT_UID};
use crate::ca::Ca;
use crate::caller::Callers;
use crate::config::ControlConfig;
use crate::exchange::progress::Progress;
use crate::exchange::server::PeeringService;
use crate::metrics::ControlMetrics;
use crate::presence::PresenceService;
use crate::presence::keeper::KeeperHandle;
use crate::publish::DiscoveryService;
use crate::quota::QuotaService;
use crate::sources::SourceProblems;
use crate::view::Views;

/// What all parts have in common.
pub(crate) struct Common {
    pub(crate) cluster: Arc<ClusterIdentity>,
    pub(crate) ca: Arc<Ca>,
    pub(crate) tls: TlsContext,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) metrics: ControlMetrics,
    pub(crate) shutdown: Shutdown,
}

/// What the services need besides [`Common`].
pub(crate) struct Parts {
    pub(crate) views: Views,
    pub(crate) secret: Arc<[u8; 32]>,
    pub(crate) keeper: KeeperHandle,
    pub(crate) progress: Progress,
    /// What peering versions count within.
    pub(crate) epoch: Arc<str>,
    pub(crate) snapshot: Arc<ArcSwap<Snapshot>>,
    pub(crate) sources: SourceProblems,
}

/// The gRPC services.
pub(crate) struct Services {
    pub(crate) applier: Applier,
    authority: AuthorityService,
    callers: Callers,
    admin: AdminService,
    keeper: KeeperHandle,
    epoch: Arc<str>,
    own_uid: u32,
}

impl Services {
    pub(crate) fn new(config: &ControlConfig, common: &Common, parts: &Parts) -> Self {
        let own_uid = rustix::process::geteuid().as_raw();
        let applier = Applier {
            store: common.store.clone(),
            views: parts.views.clone(),
            cluster: common.cluster.clone(),
            metrics: common.metrics.clone(),
        };
        let authority = AuthorityService {
            ca: common.ca.clone(),
            secret: parts.secret.clone(),
            local: Arc::new(LocalRule {
                own_uid,
                identities: config.local_identities.clone(),
            }),
            metrics: common.metrics.clone(),
        };
        let admin = AdminService {
            applier: applier.clone(),
            authority: authority.clone(),
            progress: parts.progress.clone(),
            sources: parts.sources.clone(),
            metrics: common.metrics.clone(),
        };
        Self {
            callers: Callers {
                own: common.cluster.trust_domain.clone(),
            },
            applier,
            authority,
            admin,
            keeper: parts.keeper.clone(),
            epoch: parts.epoch.clone(),
            own_uid,
        }
    }

    /// What is served over TLS, and what on the admin socket.
    pub(crate) fn routes(self, shutdown: Shutdown) -> (Routes, Routes) {
        let views = self.applier.views.clone();
        let metrics = self.applier.metrics.clone();
        let discovery = DiscoveryService::new(
            self.callers.clone(),
            views.clone(),
            metrics,
            shutdown.clone(),
        );
        let quota = QuotaService::new(self.callers.clone(), views.clone(), Instant::now());
        let presence =
            PresenceService::new(self.callers, self.applier, self.keeper, shutdown.clone());
        let peering = PeeringService::new(views, self.epoch, shutdown);
        let discovery = AggregatedDiscoveryServiceServer::new(discovery)
            .max_decoding_message_size(MESSAGE_BYTES_MAX);
        let tcp = Routes::new(discovery)
            .add_service(PresenceServer::new(presence))
            .add_service(AuthorityServer::new(self.authority.clone()))
            .add_service(PeeringServer::new(peering))
            .add_service(QuotaServer::new(quota));
        let admin = AdminServer::new(self.admin).max_decoding_message_size(MESSAGE_BYTES_MAX);
        let own_uid = self.own_uid;
        let guarded = InterceptedService::new(admin, move |call| administrator(call, own_uid));
        let unix = Routes::new(guarded).add_service(AuthorityServer::new(self.authority));
        (tcp, unix)
    }
}

/// Only root and the control plane's own user administrate; others may ask for certificates at most.
fn administrator(call: Request<()>, own_uid: u32) -> Result<Request<()>, Status> {
    let uid = UnixPeer::of(&call).map(|peer| peer.uid);
    if uid.is_some_and(|uid| uid == own_uid || uid == ROOT_UID) {
        return Ok(call);
    }
    let user = uid.map_or_else(|| "nobody known".to_owned(), |uid| format!("user {uid}"));
    Err(Status::permission_denied(format!(
        "{user} may not administrate this cluster; run the command as user {own_uid} or root"
    )))
}
