//! The thread that follows the control plane: identity, snapshots, presence, the app's health, the
//! admin port and DNS. It carries no traffic, and cannot starve it.

use std::sync::Arc;

use portolan_api::presence::WorkloadRegistration;
use portolan_dns::{DnsError, DnsServer};
use portolan_policy::balance::hash;
use portolan_runtime::feed::FeedHandle;
use portolan_runtime::health::{self, Readiness, serve_admin};
use portolan_runtime::presence::{self, Registration};
use portolan_runtime::workers::chain;
use portolan_runtime::{ConfigError, DnsMetrics, Metrics, Shutdown, StartError, feed, identity};
use portolan_transport::mtls::TlsContext;
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use crate::admin::{self, Sources};
use crate::config::SidecarConfig;
use crate::inbound::{self, Admissions, InboundMetrics};
use crate::limits::Limits;
use crate::metrics;
use crate::probe::{self, Probe};
use crate::run::{Given, Started};
use crate::worker::{self, Joint};

const IDENTITY: &str = "identity";
const SNAPSHOT: &str = "snapshot";
/// Set by the workers.
pub(crate) const LISTENING: &str = "listening";

/// The thread.
pub(crate) struct Control {
    config: SidecarConfig,
    shutdown: Shutdown,
    /// Ends when the last worker has.
    all_worked: mpsc::Receiver<()>,
    /// Triggered when traffic has ended: what people look at goes on until then.
    late: Shutdown,
    metrics: Metrics,
    readiness: Readiness,
}

impl Control {
    pub(crate) fn new(
        config: SidecarConfig,
        shutdown: Shutdown,
        all_worked: mpsc::Receiver<()>,
    ) -> Self {
        Self {
            config,
            shutdown,
            all_worked,
            late: Shutdown::new(),
            metrics: Metrics::new("sidecar"),
            readiness: Readiness::new(&[IDENTITY, SNAPSHOT, LISTENING]),
        }
    }

    /// Starts everything, hands the workers what they need, and goes on until they ended.
    pub(crate) async fn run(mut self, started: Started) -> Result<(), StartError> {
        match self.start().await {
            Ok((given, probe)) => {
                let tls = given.inbound.tls.clone();
                // The receiver waits for exactly this.
                let _ = started.send(Ok(given));
                drop(started);
                self.report(&tls, &probe).await;
                // The workers send nothing: the channel closes with the last of them.
                let _ = self.all_worked.recv().await;
            }
            Err(error) => {
                let _ = started.send(Err(error));
            }
        }
        self.late.trigger();
        Ok(())
    }

    /// Opens the doors, then gets an identity, and begins to follow snapshots and the app's health.
    async fn start(&self) -> Result<(Given, Probe), StartError> {
        let config = &self.config;
        let admin = health::bind(config.admin, "admin").await?;
        let dns = match &config.dns {
            Some(dns) => Some(DnsServer::bind(dns).await.map_err(dns_error)?.0),
            None => None,
        };
        let sources = Sources::new(config.identity(), config.worker_count());
        self.serve_admin(admin, sources.clone());
        let client = config.control_client();
        let identity = identity::start(&client, config.identity(), self.shutdown.clone()).await?;
        self.readiness.set(IDENTITY);
        let subscription = feed::Subscription {
            inbound: Some(config.workload_key()),
        };
        let feed = feed::start(&client, &identity.tls, subscription, self.late.clone());
        sources.follow(&feed.snapshot);
        let ports = config.workload.ports.values().copied();
        let (probe, prober) = probe::new(config.app_address(), ports);
        let prober = prober.with_checks(probe::Declared {
            workload: config.workload_key(),
            snapshot: Arc::clone(&feed.snapshot),
            changed: feed.changed.clone(),
        });
        tokio::spawn(prober.run(self.shutdown.clone()));
        let given = self.given(&identity.tls, &feed, &sources, &probe);
        self.serve_dns(dns, &feed);
        tokio::spawn(first_snapshot(feed, self.readiness.clone()));
        Ok((given, probe))
    }

    fn given(
        &self,
        tls: &TlsContext,
        feed: &FeedHandle,
        sources: &Sources,
        probe: &Probe,
    ) -> Given {
        let config = &self.config;
        let caller = format!(
            "{}/{}",
            config.workload.namespace, config.workload.service_account
        );
        let outbound = worker::Shared {
            metrics: metrics::Metrics::register(&self.metrics, &caller, &config.cluster),
            caller: caller.into(),
            namespace: config.workload.namespace.clone(),
            tls: tls.clone(),
            snapshot: Arc::clone(&feed.snapshot),
            changed: feed.changed.clone(),
            passthrough: config.passthrough,
            http: config.http.rules(),
            joint: Joint::new(),
            source: hash(config.workload_key().to_string().as_bytes()),
            views: sources.views(),
        };
        let inbound = inbound::Shared {
            cluster: config.cluster.clone(),
            workload: config.workload_key(),
            app: config.app_address(),
            tls: tls.clone(),
            snapshot: Arc::clone(&feed.snapshot),
            changed: feed.changed.clone(),
            probe: probe.clone(),
            http: config.http.rules(),
            metrics: InboundMetrics::register(&self.metrics),
            limits: self.limits(tls, feed),
            admissions: Admissions::new(),
        };
        Given {
            outbound,
            inbound,
            readiness: self.readiness.clone(),
        }
    }

    /// Follows the limits and drills, and asks for what instances keep together.
    fn limits(&self, tls: &TlsContext, feed: &FeedHandle) -> Limits {
        let limits = Limits::new(self.config.workload_key());
        limits.obey(&feed.snapshot.load());
        let following = limits
            .clone()
            .follow(Arc::clone(&feed.snapshot), feed.changed.clone());
        tokio::spawn(following);
        let asking = limits.clone().keep_asking(
            self.config.control_client(),
            tls.clone(),
            self.shutdown.clone(),
        );
        tokio::spawn(asking);
        limits
    }

    /// Registers the workload and reports the app's health, until the shutdown.
    async fn report(&self, tls: &TlsContext, probe: &Probe) {
        let registration = Registration::Workload(registration(&self.config));
        let client = self.config.control_client();
        let presence = presence::hold(&client, tls, registration, self.shutdown.clone());
        let mut health = probe.health();
        let reporting = async {
            loop {
                let now = health.borrow_and_update().clone();
                presence.app(now.ready, now.detail);
                if health.changed().await.is_err() {
                    return;
                }
            }
        };
        self.shutdown.unless_triggered(reporting).await;
        self.shutdown.triggered().await;
        presence.ended().await;
    }

    fn serve_admin(&self, listener: TcpListener, sources: Sources) {
        let serving = serve_admin(
            listener,
            self.metrics.clone(),
            self.readiness.clone(),
            admin::routes(sources),
            self.late.clone(),
        );
        tokio::spawn(async move {
            if let Err(error) = serving.await {
                tracing::error!(problem = chain(&error), "the admin port is closed");
            }
        });
    }

    fn serve_dns(&self, server: Option<DnsServer>, feed: &FeedHandle) {
        let Some(server) = server else {
            return;
        };
        let observer = Arc::new(self.metrics.register(DnsMetrics::register));
        let snapshot = Arc::clone(&feed.snapshot);
        let late = self.late.clone();
        tokio::spawn(async move {
            let stopped = async move { late.triggered().await };
            if let Err(error) = server.run(snapshot, observer, stopped).await {
                tracing::error!(problem = chain(&error), "DNS is closed");
            }
        });
    }
}

/// Marks the sidecar ready once there is a snapshot.
async fn first_snapshot(feed: FeedHandle, readiness: Readiness) {
    let mut changed = feed.changed;
    while feed.snapshot.load().mesh.is_none() {
        if changed.changed().await.is_err() {
            return;
        }
    }
    readiness.set(SNAPSHOT);
}

fn registration(config: &SidecarConfig) -> WorkloadRegistration {
    let workload = &config.workload;
    let ports = workload.ports.iter();
    let locality = workload.locality.as_ref();
    WorkloadRegistration {
        namespace: workload.namespace.to_string(),
        name: workload.name.to_string(),
        service_account: workload.service_account.to_string(),
        address: workload.address.to_string(),
        ports: ports
            .map(|(name, number)| (name.to_string(), u32::from(*number)))
            .collect(),
        labels: workload.labels.clone().into_iter().collect(),
        region: locality.map(|at| at.region.to_string()).unwrap_or_default(),
        zone: locality
            .and_then(|at| at.zone.as_ref())
            .map(ToString::to_string)
            .unwrap_or_default(),
        weight: workload.weight,
        inbound_port: u32::from(config.inbound_port()),
        hostname: workload
            .hostname
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default(),
    }
}

fn dns_error(error: DnsError) -> StartError {
    if let DnsError::Bind {
        address, source, ..
    } = error
    {
        return StartError::bind(address, "dns.listen", source);
    }
    ConfigError::unusable("dns", chain(&error), "correct the `dns` section").into()
}
