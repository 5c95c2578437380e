//! A control plane's life: everything is checked and bound before anything is served.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use arc_swap::ArcSwap;
use portolan_api::MESSAGE_BYTES_MAX;
use portolan_api::admin::admin_server::AdminServer;
use portolan_api::authority::authority_server::AuthorityServer;
use portolan_api::discovery::aggregated_discovery_service_server::AggregatedDiscoveryServiceServer;
use portolan_api::peering::peering_server::PeeringServer;
use portolan_api::presence::presence_server::PresenceServer;
use portolan_compiler::{Change, Compiler, VipPools};
use portolan_dns::{DnsError, DnsServer};
use portolan_model::snapshot::{Snapshot, Trust};
use portolan_model::{ClusterIdentity, ClusterName, NameError, Namespace};
use portolan_registry::{Listing, Precondition, Store, StoreError, Write};
use portolan_runtime::grpc::{bind_unix, serve, serve_unix};
use portolan_runtime::health::{self, Readiness};
use portolan_runtime::{Metrics, Shutdown, durable};
use portolan_transport::mtls::{TlsContext, TlsError};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tonic::service::Routes;

use crate::admin::AdminService;
use crate::apply::Applier;
use crate::authority::{AuthorityService, LocalRule};
use crate::ca::{Ca, CaError};
use crate::caller::Callers;
use crate::config::{ConfigError, ControlConfig};
use crate::exchange::cache::Cache;
use crate::exchange::client::Exchange;
use crate::exchange::dial::{Dialer, Ways, through_gateways};
use crate::exchange::held::Held;
use crate::exchange::progress::Progress;
use crate::exchange::server::PeeringService;
use crate::keys;
use crate::metrics::{ControlMetrics, dns_observer};
use crate::presence::PresenceService;
use crate::presence::keeper::{Keeper, KeeperHandle};
use crate::publish::DiscoveryService;
use crate::reconcile::{EVENTS_MAX, Event, Reconciler};
use crate::sources::{SOURCES_APPLIED, SourceProblems, Sources};
use crate::view::Views;
use crate::watch::Follower;

/// Threads for a control plane: its work must not take the processors from the proxies' beside it.
const THREADS: usize = 2;
/// The admin socket is for its owner (and root) alone.
const ADMIN_MODE: u32 = 0o600;
/// The readiness condition that holds while the control plane serves.
const SERVING: &str = "serving";
/// How often a start tries to count itself in a registry that others write to.
const EPOCH_ATTEMPTS_MAX: usize = 10;

/// Why a control plane does not start, or stopped.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration makes no sense.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The certificate authority is unusable.
    #[error(transparent)]
    Ca(Box<CaError>),
    /// The registry cannot be opened, read or written.
    #[error(transparent)]
    Registry(#[from] StoreError),
    /// The registry holds something under Portolan's own keys that Portolan did not write.
    #[error("`{key}` in the registry is not what Portolan wrote there; delete it and start again")]
    Internal {
        /// The key.
        key: &'static str,
    },
    /// TLS cannot be set up.
    #[error("cannot set up TLS")]
    Tls(#[from] TlsError),
    /// DNS cannot be served.
    #[error(transparent)]
    Dns(#[from] DnsError),
    /// A socket, file or thread is not to be had.
    #[error(transparent)]
    System(#[from] portolan_runtime::StartError),
    /// A name of our own does not parse.
    #[error("an own name is malformed")]
    Name(#[from] NameError),
}

impl From<CaError> for StartError {
    fn from(error: CaError) -> Self {
        Self::Ca(Box::new(error))
    }
}

/// Runs a control plane until `shutdown`. Blocks.
///
/// # Errors
/// Says in one sentence why it cannot start, or what failed for good while it ran.
pub fn run(config: ControlConfig, shutdown: Shutdown) -> Result<(), StartError> {
    portolan_runtime::telemetry::init(&config.log).map_err(portolan_runtime::StartError::from)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(THREADS)
        .thread_name("control")
        .enable_all()
        .build()
        .map_err(|source| portolan_runtime::StartError::io("start", "threads", source))?;
    runtime.block_on(async {
        let control = Control::start(&config, through_gateways(), shutdown).await?;
        control.finished().await
    })
}

/// A running control plane.
pub(crate) struct Control {
    pub(crate) views: Views,
    pub(crate) address: SocketAddr,
    pub(crate) admin: std::path::PathBuf,
    pub(crate) tls: TlsContext,
    tasks: JoinSet<Result<(), StartError>>,
    shutdown: Shutdown,
}

/// Sockets, bound before anything is served.
struct Sockets {
    listener: TcpListener,
    http: TcpListener,
    admin: UnixListener,
    dns: Option<DnsServer>,
}

/// What the parts have in common.
struct Common {
    cluster: Arc<ClusterIdentity>,
    ca: Arc<Ca>,
    tls: TlsContext,
    store: Arc<dyn Store>,
    metrics: ControlMetrics,
    shutdown: Shutdown,
}

impl Control {
    /// Checks, binds, restores, and then serves. `ways` says how peers are reached.
    pub(crate) async fn start(
        config: &ControlConfig,
        ways: Ways,
        shutdown: Shutdown,
    ) -> Result<Self, StartError> {
        let cluster = Arc::new(config.identity()?);
        config.advertised(config.listen)?;
        durable::ensure_folder(&config.data_dir)?;
        let (ca, own) = Ca::load(&config.ca, &cluster)?;
        let tls = TlsContext::new(Some(own), ca.roots.clone())?;
        let store = portolan_registry::open(&config.registry()).await?;
        let sockets = bind(config).await?;
        let address = local_addr(&sockets.listener)?;
        let common = Common {
            cluster,
            ca,
            tls: tls.clone(),
            store,
            metrics: ControlMetrics::new(),
            shutdown: shutdown.clone(),
        };
        let mut control = Self {
            views: tokio::sync::watch::channel(Arc::new(crate::view::View::empty("".into(), 0))).1,
            address,
            admin: config.admin_socket(),
            tls,
            tasks: JoinSet::new(),
            shutdown,
        };
        control.assemble(config, ways, common, sockets).await?;
        Ok(control)
    }

    async fn assemble(
        &mut self,
        config: &ControlConfig,
        ways: Ways,
        common: Common,
        sockets: Sockets,
    ) -> Result<(), StartError> {
        let epoch = count_start(common.store.as_ref()).await?;
        let secret = Arc::new(join_secret(common.store.as_ref()).await?);
        let listing = common.store.list("").await?;
        let revision = listing.revision;
        let compiler = compiler(config, &common, config.advertised(self.address)?);
        let store = common.store.clone();
        let first = epoch << 32;
        let mut reconciler = Reconciler::new(compiler, store, common.metrics.clone(), first);
        self.views = reconciler.views();

        let (events, inbox) = mpsc::channel(EVENTS_MAX);
        let store = common.store.clone();
        let (mut keeper, handle) = Keeper::new(
            events.clone(),
            reconciler.views(),
            store,
            common.metrics.clone(),
        );
        let known = keeper.restore(&listing);
        let cache = Cache::new(&config.data_dir);
        let folder = portolan_runtime::StartError::io;
        cache
            .prepare()
            .map_err(|source| folder("create folder", "catalogues in dataDir", source))?;
        let kept = kept_catalogues(&listing, &cache);
        restore(&mut reconciler, listing, known, &kept);
        reconciler.turn().await;

        let snapshot = reconciler.snapshot();
        let exchange = Exchange {
            views: self.views.clone(),
            events: events.clone(),
            dialer: Dialer {
                tls: common.tls.clone(),
                ways,
            },
            cache,
            progress: Progress::default(),
            metrics: common.metrics.clone(),
            kept,
        };
        let follower = Follower {
            store: common.store.clone(),
            events,
            metrics: common.metrics.clone(),
            revision,
        };
        self.spawn(reconciler.run(inbox, self.shutdown.clone()));
        self.spawn(follower.run(self.shutdown.clone()));
        self.spawn(keeper.run(self.shutdown.clone()));
        let own = common
            .ca
            .clone()
            .renew_own(self.tls.clone(), self.shutdown.clone());
        self.spawn(own);
        let progress = exchange.progress.clone();
        self.spawn(exchange.run(self.shutdown.clone()));
        let epoch = format!("{}/{epoch}", common.store.id()).into();
        let parts = Parts {
            secret,
            handle,
            progress,
            epoch,
            snapshot,
        };
        self.serve(config, common, sockets, parts)
    }

    fn serve(
        &mut self,
        config: &ControlConfig,
        common: Common,
        sockets: Sockets,
        parts: Parts,
    ) -> Result<(), StartError> {
        let shutdown = common.shutdown.clone();
        let readiness = Readiness::new(&[SERVING, SOURCES_APPLIED]);
        let problems = SourceProblems::default();
        let services = Services::new(config, &common, &self.views, &parts, &problems);
        let sources = Sources {
            paths: config.sources.clone(),
            applier: services.applier.clone(),
            problems,
            readiness: readiness.clone(),
            namespace: Namespace::parse("default")?,
        };
        self.spawn(sources.run(shutdown.clone()));
        let metrics = Metrics::new("control");
        metrics.register(|registry| common.metrics.register(registry));
        let (tcp, unix) = services.routes(shutdown.clone());
        let (tls, stop) = (common.tls.clone(), shutdown.clone());
        self.spawn_fallible(async move { Ok(serve(sockets.listener, &tls, tcp, stop).await?) });
        let serving = serve_unix(sockets.admin, unix, shutdown.clone());
        self.spawn_fallible(async { Ok(serving.await?) });
        let router = axum::Router::new();
        let serving = health::serve_admin(
            sockets.http,
            metrics,
            readiness.clone(),
            router,
            shutdown.clone(),
        );
        self.spawn_fallible(async { Ok(serving.await?) });
        if let Some(dns) = sockets.dns {
            let observer = dns_observer(&common.metrics);
            let snapshot = parts.snapshot;
            self.spawn_fallible(async move {
                let stopped = shutdown.clone();
                Ok(dns
                    .run(snapshot, observer, async move { stopped.triggered().await })
                    .await?)
            });
        }
        readiness.set(SERVING);
        tracing::info!(
            cluster = %common.cluster.name, trust_domain = %common.cluster.trust_domain,
            address = %self.address, registry = common.store.describe(), "the control plane serves"
        );
        Ok(())
    }

    /// Waits until everything ended: after the shutdown, or because something failed for good.
    pub(crate) async fn finished(mut self) -> Result<(), StartError> {
        let mut outcome = Ok(());
        while let Some(ended) = self.tasks.join_next().await {
            let failed = match ended {
                Ok(Ok(())) => continue,
                Ok(Err(error)) => error,
                Err(error) => portolan_runtime::StartError::io(
                    "run",
                    "a part of the control plane",
                    std::io::Error::other(error),
                )
                .into(),
            };
            self.shutdown.trigger();
            if outcome.is_ok() {
                outcome = Err(failed);
            }
        }
        // The next start must not find a socket that nobody listens on.
        drop(std::fs::remove_file(&self.admin));
        outcome
    }

    fn spawn(&mut self, part: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(async move {
            part.await;
            Ok(())
        });
    }

    fn spawn_fallible(
        &mut self,
        part: impl Future<Output = Result<(), StartError>> + Send + 'static,
    ) {
        self.tasks.spawn(part);
    }
}

/// What the services need besides [`Common`].
struct Parts {
    secret: Arc<[u8; 32]>,
    handle: KeeperHandle,
    progress: Progress,
    epoch: Arc<str>,
    snapshot: Arc<ArcSwap<Snapshot>>,
}

/// The gRPC services.
struct Services {
    applier: Applier,
    authority: AuthorityService,
    callers: Callers,
    admin: AdminService,
    handle: KeeperHandle,
    epoch: Arc<str>,
}

impl Services {
    fn new(
        config: &ControlConfig,
        common: &Common,
        views: &Views,
        parts: &Parts,
        problems: &SourceProblems,
    ) -> Self {
        let applier = Applier {
            store: common.store.clone(),
            views: views.clone(),
            cluster: common.cluster.clone(),
            metrics: common.metrics.clone(),
        };
        let authority = AuthorityService {
            ca: common.ca.clone(),
            secret: parts.secret.clone(),
            local: Arc::new(LocalRule {
                own_uid: rustix::process::geteuid().as_raw(),
                identities: config.local_identities.clone(),
            }),
            metrics: common.metrics.clone(),
        };
        let admin = AdminService {
            applier: applier.clone(),
            authority: authority.clone(),
            progress: parts.progress.clone(),
            sources: problems.clone(),
            metrics: common.metrics.clone(),
        };
        Self {
            callers: Callers {
                own: common.cluster.trust_domain.clone(),
            },
            applier,
            authority,
            admin,
            handle: parts.handle.clone(),
            epoch: parts.epoch.clone(),
        }
    }

    /// What is served over TLS, and what on the admin socket.
    fn routes(self, shutdown: Shutdown) -> (Routes, Routes) {
        let views = self.applier.views.clone();
        let metrics = self.applier.metrics.clone();
        let discovery = DiscoveryService::new(
            self.callers.clone(),
            views.clone(),
            metrics,
            shutdown.clone(),
        );
        let presence =
            PresenceService::new(self.callers, self.applier, self.handle, shutdown.clone());
        let peering = PeeringService::new(views, self.epoch, shutdown);
        let discovery = AggregatedDiscoveryServiceServer::new(discovery)
            .max_decoding_message_size(MESSAGE_BYTES_MAX);
        let tcp = Routes::new(discovery)
            .add_service(PresenceServer::new(presence))
            .add_service(AuthorityServer::new(self.authority.clone()))
            .add_service(PeeringServer::new(peering));
        let admin = AdminServer::new(self.admin)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(usize::MAX);
        let unix = Routes::new(admin).add_service(AuthorityServer::new(self.authority));
        (tcp, unix)
    }
}

async fn bind(config: &ControlConfig) -> Result<Sockets, StartError> {
    let admin = config.admin_socket();
    if let Some(folder) = admin.parent().filter(|folder| *folder != Path::new("")) {
        durable::ensure_folder(folder)?;
    }
    let dns = match &config.dns {
        Some(dns) => Some(DnsServer::bind(dns).await?.0),
        None => None,
    };
    Ok(Sockets {
        listener: health::bind(config.listen, "listen").await?,
        http: health::bind(config.http, "http").await?,
        admin: bind_unix(&admin, ADMIN_MODE, "admin")?,
        dns,
    })
}

fn local_addr(listener: &TcpListener) -> Result<SocketAddr, StartError> {
    let address = listener.local_addr();
    Ok(address.map_err(|source| portolan_runtime::StartError::io("read", "an address", source))?)
}

fn compiler(config: &ControlConfig, common: &Common, advertised: SocketAddr) -> Compiler {
    let pools = VipPools {
        v4: config.vips.v4,
        v6: config.vips.v6,
    };
    let mut compiler = Compiler::new(common.cluster.as_ref().clone(), pools);
    let roots = common.ca.roots.roots().iter();
    compiler.apply(Change::Trust(Trust {
        roots: roots.map(|root| root.to_vec()).collect(),
    }));
    compiler.apply(Change::Control(vec![advertised]));
    compiler
}

/// Brings the loop to where an earlier life was, before its first publication.
fn restore(
    reconciler: &mut Reconciler,
    listing: Listing,
    known: Vec<Event>,
    kept: &BTreeMap<ClusterName, Held>,
) {
    reconciler.restore(listing);
    for event in known {
        reconciler.take(event);
    }
    for (peer, held) in kept {
        reconciler.take(Event::Catalogue {
            peer: peer.clone(),
            full: true,
            upserts: held.entries.values().cloned().collect(),
            removals: Vec::new(),
        });
    }
}

/// The last known catalogues of the peers that are declared.
fn kept_catalogues(listing: &Listing, cache: &Cache) -> BTreeMap<ClusterName, Held> {
    let keys = listing.entries.iter();
    let peers = keys
        .filter_map(|entry| keys::declaration(&entry.key))
        .filter(|key| key.kind == portolan_model::declared::ResourceKind::Peer)
        .filter_map(|key| ClusterName::parse(&key.name).ok());
    peers
        .map(|peer| (peer.clone(), cache.load(&peer)))
        .filter(|(_, held)| !held.epoch.is_empty())
        .collect()
}

/// Counts this start in the registry, so that generations grow over restarts.
async fn count_start(store: &dyn Store) -> Result<u64, StartError> {
    let mut attempts = 0;
    loop {
        let entry = store.get(keys::EPOCH).await?;
        let last = match &entry {
            None => 0,
            Some(entry) => std::str::from_utf8(&entry.value)
                .ok()
                .and_then(|text| text.parse::<u32>().ok())
                .ok_or(StartError::Internal { key: keys::EPOCH })?,
        };
        let next = u64::from(last) + 1;
        let precondition = entry.map_or(Precondition::DoesNotExist, |entry| {
            Precondition::Version(entry.version)
        });
        let write = Write::put(keys::EPOCH, next.to_string().into_bytes(), precondition);
        attempts += 1;
        match store.commit(vec![write]).await {
            Ok(_) => return Ok(next),
            Err(StoreError::Conflict { .. }) if attempts < EPOCH_ATTEMPTS_MAX => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// The secret of join tokens, made once per registry.
async fn join_secret(store: &dyn Store) -> Result<[u8; 32], StartError> {
    let fresh: [u8; 32] = rand::random();
    let write = Write::put(
        keys::JOIN_SECRET,
        fresh.to_vec(),
        Precondition::DoesNotExist,
    );
    match store.commit(vec![write]).await {
        Ok(_) => return Ok(fresh),
        Err(StoreError::Conflict { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    let entry = store.get(keys::JOIN_SECRET).await?;
    let secret = entry.and_then(|entry| <[u8; 32]>::try_from(entry.value.as_ref()).ok());
    secret.ok_or(StartError::Internal {
        key: keys::JOIN_SECRET,
    })
}
