//! A control plane's life: everything is checked and bound before anything is served.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use portolan_compiler::{Change, Compiler, VipPools};
use portolan_dns::{DnsError, DnsServer};
use portolan_model::snapshot::Trust;
use portolan_model::{NameError, Namespace};
use portolan_registry::{Store, StoreError};
use portolan_runtime::grpc::{bind_unix, serve, serve_unix};
use portolan_runtime::health::{self, Readiness};
use portolan_runtime::{DnsMetrics, Metrics, Shutdown, durable, telemetry};
use portolan_transport::mtls::{TlsContext, TlsError};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::admin::DEFAULT_NAMESPACE;
use crate::ca::{Ca, CaError, now_s};
use crate::config::{ConfigError, ControlConfig};
use crate::exchange::cache::Cache;
use crate::exchange::client::Exchange;
use crate::exchange::dial::{Dialer, Ways, through_gateways};
use crate::exchange::progress::Progress;
use crate::metrics::ControlMetrics;
use crate::presence::keeper::Keeper;
use crate::reconcile::{EVENTS_MAX, Reconciler};
use crate::restore::{join_secret, kept_catalogues, number_start, restore};
use crate::services::{Common, Parts, Services};
use crate::sources::{SOURCES_APPLIED, SourceProblems, Sources};
use crate::view::{View, Views};
use crate::watch::Follower;

/// Threads for a control plane: its work must not take the processors from the proxies' beside it.
const THREADS: usize = 2;
/// The admin socket is for its owner (and root) alone,
const ADMIN_MODE: u32 = 0o600;
/// unless other users may ask for certificates there. Each call is judged by its user all the same.
const SHARED_MODE: u32 = 0o666;
/// The readiness condition that holds while the control plane serves.
const SERVING: &str = "serving";
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
    telemetry::init(&config.log).map_err(portolan_runtime::StartError::from)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(THREADS)
        .thread_name("control")
        .enable_all()
        .build()
        .map_err(|source| portolan_runtime::StartError::io("start", "threads", source))?;
    runtime.block_on(async {
        let registry = config.registry();
        let registry = portolan_registry::open(&registry);
        let control = Control::start(&config, registry, through_gateways(), shutdown).await?;
        control.finished().await
    })
}

/// A running control plane.
pub(crate) struct Control {
    pub(crate) views: Views,
    pub(crate) address: SocketAddr,
    pub(crate) admin: PathBuf,
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

impl Control {
    /// Checks, binds, restores, and then serves. `registry` is opened when all else has been checked; `ways`
    /// says how peers are reached.
    pub(crate) async fn start(
        config: &ControlConfig,
        registry: impl Future<Output = Result<Arc<dyn Store>, StoreError>>,
        ways: Ways,
        shutdown: Shutdown,
    ) -> Result<Self, StartError> {
        let cluster = Arc::new(config.identity()?);
        config.advertised(config.listen)?;
        config.vip_pools()?;
        durable::ensure_folder(&config.data_dir)?;
        let (ca, own) = Ca::load(&config.ca, &cluster)?;
        let tls = TlsContext::new(Some(own), ca.roots.clone())?;
        let store = registry.await?;
        let sockets = bind(config).await?;
        let address = local_addr(&sockets.listener)?;
        let common = Common {
            cluster,
            ca,
            tls,
            store,
            metrics: ControlMetrics::new(),
            shutdown: shutdown.clone(),
        };
        let mut control = Self {
            views: watch::channel(Arc::new(View::empty("".into(), 0))).1,
            address,
            admin: config.admin_socket(),
            tasks: JoinSet::new(),
            shutdown,
        };
        let parts = control.assemble(config, ways, &common).await?;
        control.serve(config, &common, sockets, parts)?;
        Ok(control)
    }

    /// Brings the earlier life's knowledge back, and starts the parts that keep the view.
    async fn assemble(
        &mut self,
        config: &ControlConfig,
        ways: Ways,
        common: &Common,
    ) -> Result<Parts, StartError> {
        let (store, metrics) = (common.store.clone(), common.metrics.clone());
        let epoch = number_start(store.as_ref(), now_s()).await?;
        let secret = Arc::new(join_secret(store.as_ref()).await?);
        let listing = store.list("").await?;
        let revision = listing.revision;
        let advertised = config.advertised(self.address)?;
        let compiler = compiler(config.vip_pools()?, common, advertised);
        let first = epoch << 32;
        let mut reconciler = Reconciler::new(compiler, store.clone(), metrics.clone(), first);
        self.views = reconciler.views();

        let (events, inbox) = mpsc::channel(EVENTS_MAX);
        let views = self.views.clone();
        let (mut keeper, handle) = Keeper::new(
            events.clone(),
            views.clone(),
            store.clone(),
            metrics.clone(),
        );
        let known = keeper.restore(&listing);
        let cache = Cache::new(&config.data_dir);
        cache.prepare()?;
        let kept = kept_catalogues(&listing, &cache);
        restore(&mut reconciler, listing, known, &kept);
        reconciler.turn().await;

        let progress = Progress::default();
        let exchange = Exchange {
            views: views.clone(),
            events: events.clone(),
            dialer: Dialer {
                tls: common.tls.clone(),
                ways,
            },
            cache,
            progress: progress.clone(),
            metrics: metrics.clone(),
            kept,
        };
        let follower = Follower {
            store: store.clone(),
            events,
            metrics,
            revision,
        };
        let snapshot = reconciler.snapshot();
        let shutdown = || common.shutdown.clone();
        self.spawn(reconciler.run(inbox, shutdown()));
        self.spawn(follower.run(shutdown()));
        self.spawn(keeper.run(shutdown()));
        self.spawn(exchange.run(shutdown()));
        self.spawn(common.ca.clone().renew_own(common.tls.clone(), shutdown()));
        Ok(Parts {
            views,
            secret,
            keeper: handle,
            progress,
            epoch: format!("{}/{epoch}", store.id()).into(),
            snapshot,
            sources: SourceProblems::default(),
        })
    }

    /// Starts everything that answers.
    fn serve(
        &mut self,
        config: &ControlConfig,
        common: &Common,
        sockets: Sockets,
        parts: Parts,
    ) -> Result<(), StartError> {
        let shutdown = || common.shutdown.clone();
        let readiness = Readiness::new(&[SERVING, SOURCES_APPLIED]);
        let services = Services::new(config, common, &parts);
        let sources = Sources {
            paths: config.sources.clone(),
            applier: services.applier.clone(),
            problems: parts.sources,
            readiness: readiness.clone(),
            namespace: Namespace::parse(DEFAULT_NAMESPACE)?,
        };
        self.spawn(sources.run(shutdown()));
        let (tcp, unix) = services.routes(shutdown());
        let (tls, stop) = (common.tls.clone(), shutdown());
        self.spawn_fallible(async move { Ok(serve(sockets.listener, &tls, tcp, stop).await?) });
        let serving = serve_unix(sockets.admin, unix, shutdown());
        self.spawn_fallible(async { Ok(serving.await?) });
        let metrics = Metrics::new("control");
        metrics.register(|registry| common.metrics.register(registry));
        let (ready, more) = (readiness.clone(), axum::Router::new());
        let serving = health::serve_admin(sockets.http, metrics.clone(), ready, more, shutdown());
        self.spawn_fallible(async { Ok(serving.await?) });
        if let Some(dns) = sockets.dns {
            let observer = Arc::new(metrics.register(DnsMetrics::register));
            let stop = shutdown();
            let answering = dns.run(parts.snapshot, observer, async move {
                stop.triggered().await;
            });
            self.spawn_fallible(async { Ok(answering.await?) });
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

async fn bind(config: &ControlConfig) -> Result<Sockets, StartError> {
    let admin = config.admin_socket();
    if let Some(folder) = admin.parent().filter(|folder| *folder != Path::new("")) {
        durable::ensure_folder(folder)?;
    }
    let mode = if config.local_identities.is_empty() {
        ADMIN_MODE
    } else {
        SHARED_MODE
    };
    let dns = match &config.dns {
        Some(dns) => Some(DnsServer::bind(dns).await?.0),
        None => None,
    };
    Ok(Sockets {
        listener: health::bind(config.listen, "listen").await?,
        http: health::bind(config.http, "http").await?,
        admin: bind_unix(&admin, mode, "admin")?,
        dns,
    })
}

fn local_addr(listener: &TcpListener) -> Result<SocketAddr, StartError> {
    let address = listener.local_addr();
    Ok(address.map_err(|source| portolan_runtime::StartError::io("read", "an address", source))?)
}

fn compiler(pools: VipPools, common: &Common, advertised: SocketAddr) -> Compiler {
    let mut compiler = Compiler::new(common.cluster.as_ref().clone(), pools);
    let roots = common.ca.roots.roots().iter();
    compiler.apply(Change::Trust(Trust {
        roots: roots.map(|root| root.to_vec()).collect(),
    }));
    compiler.apply(Change::Control(vec![advertised]));
    compiler
}
