//! Starting and stopping: one thread for everything that follows the control plane, and the workers.

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::Duration;

use portolan_api::presence::GatewayRegistration;
use portolan_dns::{DnsError, DnsServer};
use portolan_runtime::health::{self, Readiness, serve_admin};
use portolan_runtime::presence::{self, Registration};
use portolan_runtime::workers::chain;
use portolan_runtime::{
    ConfigError, DnsMetrics, Metrics, Shutdown, StartError, Workers, feed, identity, telemetry,
};
use tokio::net::TcpListener as AsyncTcpListener;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::timeout;

use crate::admin;
use crate::config::GatewayConfig;
use crate::metrics;
use crate::report::report;
use crate::table::LinkTable;
use crate::worker::{self, Addresses, Handshakes, Shared};

const IDENTITY: &str = "identity";
const SNAPSHOT: &str = "snapshot";
const LISTENING: &str = "listening";
/// How long the farewell to the control plane may take.
const FAREWELL_LIMIT: Duration = Duration::from_secs(1);

/// Runs a gateway until the shutdown.
///
/// # Errors
/// When the configuration makes no sense, an address is taken, no identity can be had, or a thread
/// failed.
pub fn run(config: GatewayConfig, shutdown: Shutdown) -> Result<(), StartError> {
    config.check()?;
    telemetry::init(&config.log)?;
    let addresses = probe(config.tcp, config.quic)?;
    let worker_count = config.worker_count();
    let mut workers = Workers::new(shutdown.clone());
    let (started, starting) = sync_channel(1);
    let (working, all_worked) = mpsc::channel(1);
    let control = Control {
        config,
        addresses,
        shutdown: shutdown.clone(),
        all_worked,
    };
    workers.spawn("control", 0, move || control.run(started))?;
    // Without a word the thread failed, and joining it says why.
    if let Ok(started) = starting.recv() {
        let shared = started?;
        for index in 0..worker_count {
            let (shared, shutdown) = (Arc::clone(&shared), shutdown.clone());
            let working = working.clone();
            let work = move || async move {
                let result = worker::run(index, shared, addresses, shutdown).await;
                drop(working);
                result
            };
            workers.spawn("worker", index, work)?;
        }
    }
    drop(working);
    workers.join()
}

/// Makes sure that nobody else has the addresses: the workers bind them so that they can be shared,
/// and would share them with a stranger as well.
pub(crate) fn probe(tcp: SocketAddr, quic: SocketAddr) -> Result<Addresses, StartError> {
    let fail_tcp = |source| StartError::bind(tcp, "tcp", source);
    let fail_quic = |source| StartError::bind(quic, "quic", source);
    let tcp_listener = TcpListener::bind(tcp).map_err(fail_tcp)?;
    let udp_socket = UdpSocket::bind(quic).map_err(fail_quic)?;
    Ok(Addresses {
        tcp: tcp_listener.local_addr().map_err(fail_tcp)?,
        quic: udp_socket.local_addr().map_err(fail_quic)?,
    })
}

/// The thread that follows the control plane.
struct Control {
    config: GatewayConfig,
    addresses: Addresses,
    shutdown: Shutdown,
    /// Ends when the last worker has.
    all_worked: mpsc::Receiver<()>,
}

/// What [`Control`] has open before it knows who it is.
struct Doors {
    metrics: Metrics,
    readiness: Readiness,
    table: Arc<LinkTable>,
    dns: Option<DnsServer>,
    /// Triggered when the tunnels have ended: what people look at goes on until then.
    late: Shutdown,
}

impl Control {
    async fn run(
        mut self,
        started: SyncSender<Result<Arc<Shared>, StartError>>,
    ) -> Result<(), StartError> {
        let late = Shutdown::new();
        match self.start(late.clone()).await {
            Ok((shared, doors)) => {
                // The receiver waits for exactly this.
                let _ = started.send(Ok(Arc::clone(&shared)));
                drop(started);
                self.follow(shared, doors).await;
            }
            Err(error) => {
                let _ = started.send(Err(error));
            }
        }
        late.trigger();
        Ok(())
    }

    /// Opens the doors, then gets an identity and the first snapshot.
    async fn start(&self, late: Shutdown) -> Result<(Arc<Shared>, Doors), StartError> {
        let config = &self.config;
        let admin = health::bind(config.admin, "admin").await?;
        let dns = match &config.dns {
            Some(dns) => Some(DnsServer::bind(dns).await.map_err(dns_error)?.0),
            None => None,
        };
        let doors = Doors {
            metrics: Metrics::new("gateway"),
            readiness: Readiness::new(&[IDENTITY, SNAPSHOT, LISTENING]),
            table: Arc::new(LinkTable::new()),
            dns,
            late,
        };
        doors.serve_admin(admin);
        let client = config.control_client();
        let id = config.identity()?;
        let identity = identity::start(&client, id, self.shutdown.clone()).await?;
        doors.readiness.set(IDENTITY);
        let subscription = feed::Subscription::default();
        let feed = feed::start(&client, &identity.tls, subscription, doors.late.clone());
        let shared = Arc::new(Shared {
            cluster: config.cluster.clone(),
            tls: identity.tls,
            snapshot: feed.snapshot,
            changed: feed.changed,
            table: Arc::clone(&doors.table),
            metrics: doors.metrics.register(metrics::Metrics::register),
            limits: config.limits,
            links: config.links.settings(),
            drain: config.drain(),
            tunnels: Arc::new(Semaphore::new(config.limits.tunnels)),
            handshakes: Handshakes::new(config.limits.handshakes),
            listening: watch::Sender::new(0),
        });
        Ok((shared, doors))
    }

    /// Serves DNS, registers, reports; returns when the shutdown was triggered and the workers ended.
    async fn follow(&mut self, shared: Arc<Shared>, mut doors: Doors) {
        doors.serve_dns(&shared);
        tokio::spawn(first_snapshot(Arc::clone(&shared), doors.readiness.clone()));
        let workers = self.config.worker_count();
        let mut listening = shared.listening.subscribe();
        let ready = listening.wait_for(|count| *count == workers);
        if let Some(Ok(_)) = self.shutdown.unless_triggered(ready).await {
            doors.readiness.set(LISTENING);
            self.register(shared).await;
        }
        doors.readiness.unset(LISTENING);
        // The workers send nothing: the channel closes with the last of them.
        let _ = self.all_worked.recv().await;
    }

    /// Holds the presence until the shutdown, and says farewell.
    async fn register(&self, shared: Arc<Shared>) {
        let config = &self.config;
        let advertised = config
            .advertised_tcp(self.addresses.tcp)
            .and_then(|tcp| Ok((tcp, config.advertised_quic(self.addresses.quic)?)));
        let (tcp, quic) = match advertised {
            Ok(advertised) => advertised,
            Err(error) => {
                tracing::error!(%error, "nobody can be told where this gateway is");
                return;
            }
        };
        tracing::info!(%tcp, %quic, "the gateway listens");
        let registration = Registration::Gateway(GatewayRegistration {
            name: config.name.clone(),
            tcp: tcp.to_string(),
            quic: quic.to_string(),
        });
        let client = config.control_client();
        let presence = presence::hold(&client, &shared.tls, registration, self.shutdown.clone());
        let mut live = presence.live.clone();
        self.shutdown
            .unless_triggered(report(shared, presence))
            .await;
        let farewell = async { while live.changed().await.is_ok() {} };
        if timeout(FAREWELL_LIMIT, farewell).await.is_err() {
            tracing::debug!("the control plane did not hear the farewell");
        }
    }
}

impl Doors {
    fn serve_admin(&self, listener: AsyncTcpListener) {
        let serving = serve_admin(
            listener,
            self.metrics.clone(),
            self.readiness.clone(),
            admin::routes(Arc::clone(&self.table)),
            self.late.clone(),
        );
        tokio::spawn(async move {
            if let Err(error) = serving.await {
                tracing::error!(problem = chain(&error), "the admin port is closed");
            }
        });
    }

    fn serve_dns(&mut self, shared: &Shared) {
        let Some(server) = self.dns.take() else {
            return;
        };
        let observer = Arc::new(self.metrics.register(DnsMetrics::register));
        let snapshot = Arc::clone(&shared.snapshot);
        let late = self.late.clone();
        tokio::spawn(async move {
            let stopped = async move { late.triggered().await };
            if let Err(error) = server.run(snapshot, observer, stopped).await {
                tracing::error!(problem = chain(&error), "DNS is closed");
            }
        });
    }
}

/// Marks the gateway ready once there is a snapshot.
async fn first_snapshot(shared: Arc<Shared>, readiness: Readiness) {
    let mut changed = shared.changed.clone();
    while shared.snapshot.load().mesh.is_none() {
        if changed.changed().await.is_err() {
            return;
        }
    }
    readiness.set(SNAPSHOT);
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

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpStream;

    use portolan_runtime::config::parse;

    use super::*;
    use crate::config::EXAMPLE;
    use crate::loopback::World;

    /// A gateway that joined before, and whose control plane is gone.
    fn config(folder: &tempfile::TempDir) -> GatewayConfig {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut config: GatewayConfig = parse("example.yaml", EXAMPLE).unwrap();
        let free = probe(any, any).unwrap();
        config.tcp = free.tcp;
        config.quic = free.quic;
        config.admin = probe(any, any).unwrap().tcp;
        config.control = vec![probe(any, any).unwrap().tcp];
        config.trust_domain = "a.set".parse().unwrap();
        config.state_dir = folder.path().join("state");
        config.trust_bundle = folder.path().join("roots.pem");
        config.workers = 2;
        let tls = World::new().tls("spiffe://a.set/portolan/gateway/gw-0");
        std::fs::create_dir(&config.state_dir).unwrap();
        std::fs::write(&config.trust_bundle, tls.trust().to_pem()).unwrap();
        let identity = tls.identity().unwrap().to_pem();
        std::fs::write(config.state_dir.join("identity.pem"), identity).unwrap();
        config
    }

    fn get(address: SocketAddr, path: &str) -> Option<String> {
        let mut stream = TcpStream::connect(address).ok()?;
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        Some(answer)
    }

    #[test]
    fn it_starts_without_a_control_plane_and_stops_when_told() {
        let folder = tempfile::tempdir().unwrap();
        let config = config(&folder);
        let admin = config.admin;
        let shutdown = Shutdown::new();
        let stopping = shutdown.clone();
        let running = std::thread::spawn(move || run(config, stopping));
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        loop {
            let ready = get(admin, "/readyz").unwrap_or_default();
            if ready.contains("not ready: snapshot\n") {
                break;
            }
            assert!(
                !running.is_finished() && std::time::Instant::now() < deadline,
                "{ready}"
            );
            std::thread::yield_now();
        }
        assert!(get(admin, "/links").unwrap().ends_with("[]"));
        shutdown.trigger();
        running.join().unwrap().unwrap();
    }

    #[test]
    fn a_taken_address_is_named_with_its_setting() {
        let folder = tempfile::tempdir().unwrap();
        let config = config(&folder);
        let taken = TcpListener::bind(config.tcp).unwrap();
        let error = run(config, Shutdown::new()).unwrap_err().to_string();
        drop(taken);
        assert!(
            error.contains("in use") && error.contains("`tcp`"),
            "{error}"
        );
    }
}
