//! Clusters `a` and `b` on loopback: gateways with snapshots made by hand, sidecars that echo, and a
//! path between them that can be cut.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use portolan_model::declared::ExportTo;
use portolan_model::snapshot::{
    LinkState, LocalBackend, Mesh, Peer, RemoteBackend, Service, Snapshot, Vips,
};
use portolan_model::{
    ClusterIdentity, ClusterName, Endpoint, Locality, Port, Protocol, ServiceKey, ServiceKind,
    SpiffeId, TrustDomain,
};
use portolan_runtime::{Shutdown, StartError};
use portolan_transport::mtls::{self, ClientAuth, Connected, Expect, TlsContext, TlsError};

use portolan_trust::{CertificateAuthority, KeyRequest, RootAuthority, TrustBundle};
use prometheus_client::registry::Registry;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{Semaphore, watch};
use tokio::task::{JoinHandle, spawn_local};

use crate::config::{LimitsConfig, LinksConfig};
use crate::daemon::probe;
use crate::metrics::Metrics;
use crate::table::LinkTable;
use crate::worker::{self, Addresses, Handshakes, Shared};

pub(super) const AMPLE: Duration = Duration::from_secs(20);
pub(super) const ALPN: &[u8] = b"portolan-tcp";
pub(super) const ORDERS: &str = "p80.orders.shop.b.portolan.internal";
const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);
const DAY: Duration = Duration::from_secs(86_400);

/// A root, under which every cluster gets its authority.
pub(crate) struct World(RootAuthority);

impl World {
    pub(crate) fn new() -> Self {
        Self(RootAuthority::create(&"set".parse().unwrap(), 10 * DAY, now_s()).unwrap())
    }

    pub(crate) fn tls(&self, id: &str) -> TlsContext {
        let id: SpiffeId = id.parse().unwrap();
        let pair = self
            .0
            .sign_intermediate(id.trust_domain(), now_s())
            .unwrap();
        let authority = CertificateAuthority::from_pem(&pair.cert_pem, &pair.key_pem).unwrap();
        let request = KeyRequest::new().unwrap();
        let chain = authority
            .issue(&request.csr_der, &id, DAY, now_s())
            .unwrap();
        let identity = request.into_identity(chain).unwrap();
        let roots = TrustBundle::from_pem(&self.0.cert_pem()).unwrap();
        TlsContext::new(Some(identity), roots).unwrap()
    }

    /// A call of `a`'s frontend through a gateway.
    pub(super) async fn call(
        &self,
        gateway: &Gateway,
        sni: &str,
    ) -> Result<Connected<TcpStream>, TlsError> {
        let tls = self.tls("spiffe://a.set/ns/shop/sa/frontend");
        let expect = Expect::Exact("spiffe://b.set/ns/shop/sa/orders".parse().unwrap());
        let config = tls.client_config(expect, &[ALPN], true);
        let stream = TcpStream::connect(gateway.addresses.tcp).await.unwrap();
        mtls::connect(&config, sni, stream, AMPLE).await
    }
}

fn now_s() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.unwrap().as_secs()
}

/// One gateway with one worker.
pub(super) struct Gateway {
    pub(super) shared: Arc<Shared>,
    pub(super) addresses: Addresses,
    pub(super) shutdown: Shutdown,
    pub(super) running: JoinHandle<Result<(), StartError>>,
    changed: watch::Sender<u64>,
}

impl Gateway {
    pub(super) fn start(world: &World, cluster: &str, limits: LimitsConfig) -> Self {
        let addresses = probe(ANY, ANY).unwrap();
        let (changed, changes) = watch::channel(0);
        let shared = Arc::new(Shared {
            cluster: cluster.parse().unwrap(),
            tls: world.tls(&format!("spiffe://{cluster}.set/portolan/gateway/gw-0")),
            snapshot: Arc::new(ArcSwap::from_pointee(Snapshot::default())),
            changed: changes,
            table: Arc::new(LinkTable::new()),
            metrics: Metrics::register(&mut Registry::default()),
            limits,
            links: LinksConfig::default().settings(),
            drain: Duration::from_secs(1),
            tunnels: Arc::new(Semaphore::new(limits.tunnels)),
            handshakes: Handshakes::new(limits.handshakes),
            listening: watch::Sender::new(0),
        });
        let shutdown = Shutdown::new();
        let work = worker::run(0, Arc::clone(&shared), addresses, shutdown.clone());
        Self {
            shared,
            addresses,
            shutdown,
            running: spawn_local(work),
            changed,
        }
    }

    pub(super) fn publish(&self, mut snapshot: Snapshot) {
        self.changed.send_modify(|generation| {
            *generation += 1;
            snapshot.generation = *generation;
            self.shared.snapshot.store(Arc::new(snapshot));
        });
    }

    /// Waits until there are exactly `count` links to `peer`.
    pub(super) async fn links(&self, peer: &str, count: u32) {
        let peer: ClusterName = peer.parse().unwrap();
        let mut changed = self.shared.table.subscribe();
        let reached = async {
            while self.shared.table.summary(&peer).live != count {
                changed.changed().await.unwrap();
            }
        };
        soon(reached).await;
    }
}

/// Waits for something that must happen.
pub(super) async fn soon<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(AMPLE, work).await.expect("in time")
}

/// The snapshot of `cluster`, whose peers' gateways are at these addresses.
pub(super) fn snapshot(
    cluster: &str,
    peers: &[(&str, &[SocketAddr])],
    services: &[Service],
) -> Snapshot {
    let peers = peers.iter().map(|(name, gateways)| Peer {
        name: name.parse().unwrap(),
        trust_domain: domain(name),
        region: "eu".parse().unwrap(),
        gateways: gateways.to_vec(),
        link: LinkState::Unknown,
    });
    let mesh = Mesh {
        cluster: ClusterIdentity {
            name: cluster.parse().unwrap(),
            set: "set".parse().unwrap(),
            region: "eu".parse().unwrap(),
            zones: vec![],
            trust_domain: domain(cluster),
        },
        gateways: vec![],
        control: vec![],
        peers: peers.collect(),
    };
    let by_key = |service: &Service| (service.key.clone(), Arc::new(service.clone()));
    Snapshot {
        mesh: Some(Arc::new(mesh)),
        services: services.iter().map(by_key).collect(),
        ..Snapshot::default()
    }
}

fn domain(cluster: &str) -> TrustDomain {
    format!("{cluster}.set").parse().unwrap()
}

fn service() -> Service {
    Service {
        key: orders(),
        kind: ServiceKind::Virtual,
        ports: vec![port()],
        vips: Vips::default(),
        imported: true,
        local: None,
        remote: vec![],
        traffic: portolan_model::traffic::Traffic::default(),
    }
}

fn orders() -> ServiceKey {
    "shop/orders".parse().unwrap()
}

fn port() -> Port {
    Port {
        name: None,
        number: 80,
        protocol: Protocol::Http,
    }
}

/// `shop/orders` as the cluster sees it that calls `b`'s.
pub(super) fn imported() -> Service {
    let remote = RemoteBackend {
        cluster: "b".parse().unwrap(),
        region: "eu".parse().unwrap(),
        ports: vec![port()],
        localities: vec![],
        identities: vec![],
        hosts: vec![],
    };
    Service {
        remote: vec![remote],
        ..service()
    }
}

/// `shop/orders` as the cluster sees it that serves it.
pub(super) fn served(endpoints: &[SocketAddr], exported: ExportTo) -> Service {
    let endpoints = endpoints.iter().enumerate().map(|(at, inbound)| Endpoint {
        workload: format!("shop/orders-{at}").parse().unwrap(),
        address: inbound.ip(),
        inbound: *inbound,
        identity: "spiffe://b.set/ns/shop/sa/orders".parse().unwrap(),
        locality: Locality {
            region: "eu".parse().unwrap(),
            zone: None,
        },
        weight: 100,
        ready: true,
        hostname: None,
        ports: BTreeMap::from([(80, 8080)]),
    });
    let local = LocalBackend {
        ports: vec![port()],
        endpoints: endpoints.collect(),
        exported,
    };
    Service {
        local: Some(local),
        ..service()
    }
}

/// A sidecar beside `orders`: it greets with the caller's identity and echoes the rest.
pub(super) async fn echoing_sidecar(world: &World) -> SocketAddr {
    let tls = world.tls("spiffe://b.set/ns/shop/sa/orders");
    let config = tls.server_config(&[ALPN], ClientAuth::Required);
    let listener = TcpListener::bind(ANY).await.unwrap();
    let address = listener.local_addr().unwrap();
    spawn_local(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let config = config.clone();
            spawn_local(async move {
                let mut accepted = mtls::accept(&config, stream, AMPLE).await.unwrap();
                let caller = format!("{}\n", accepted.peer.unwrap());
                accepted.stream.write_all(caller.as_bytes()).await.unwrap();
                let (mut read, mut write) = tokio::io::split(accepted.stream);
                // It fails when the tunnel is cut, which some tests want.
                if tokio::io::copy(&mut read, &mut write).await.is_ok() {
                    let _ = write.shutdown().await;
                }
            });
        }
    });
    address
}

/// An address at which nobody listens, nor anybody else can: it is bound for as long as the test runs.
pub(super) fn nobody() -> SocketAddr {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind(ANY).unwrap();
    Box::leak(Box::new(socket)).local_addr().unwrap()
}

/// The greeting of [`echoing_sidecar`].
pub(super) async fn greeting(call: &mut Connected<TcpStream>) -> String {
    let mut line = Vec::new();
    loop {
        match soon(call.stream.read_u8()).await.unwrap() {
            b'\n' => return String::from_utf8(line).unwrap(),
            byte => line.push(byte),
        }
    }
}

/// A UDP path to a gateway that can be cut, without a word to anybody.
pub(super) struct Wire {
    pub(super) address: SocketAddr,
    whole: Rc<Cell<bool>>,
}

impl Wire {
    pub(super) async fn to(gateway: SocketAddr) -> Self {
        let near = Rc::new(UdpSocket::bind(ANY).await.unwrap());
        let address = near.local_addr().unwrap();
        let whole = Rc::new(Cell::new(true));
        spawn_local(forward(near, gateway, Rc::clone(&whole)));
        Self { address, whole }
    }

    pub(super) fn cut(&self) {
        self.whole.set(false);
    }

    pub(super) fn mend(&self) {
        self.whole.set(true);
    }
}

async fn forward(near: Rc<UdpSocket>, gateway: SocketAddr, whole: Rc<Cell<bool>>) {
    let mut callers: BTreeMap<SocketAddr, Rc<UdpSocket>> = BTreeMap::new();
    let mut buffer = vec![0; 65_536];
    loop {
        let (length, from) = near.recv_from(&mut buffer).await.unwrap();
        let far = match callers.get(&from) {
            Some(far) => Rc::clone(far),
            None => {
                let far = Rc::new(UdpSocket::bind(ANY).await.unwrap());
                far.connect(gateway).await.unwrap();
                let (near, whole) = (Rc::clone(&near), Rc::clone(&whole));
                spawn_local(back(Rc::clone(&far), near, from, whole));
                callers.insert(from, Rc::clone(&far));
                far
            }
        };
        if whole.get() {
            // A lost datagram is what UDP is.
            let _ = far.send(&buffer[..length]).await;
        }
    }
}

async fn back(far: Rc<UdpSocket>, near: Rc<UdpSocket>, to: SocketAddr, whole: Rc<Cell<bool>>) {
    let mut buffer = vec![0; 65_536];
    loop {
        if let Ok(length) = far.recv(&mut buffer).await
            && whole.get()
        {
            let _ = near.send_to(&buffer[..length], to).await;
        }
    }
}
