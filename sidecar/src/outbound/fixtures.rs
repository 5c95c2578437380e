//! A sidecar on loopback, with made-up sidecars and gateways to call, for the tests.

mod client;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use portolan_model::cluster::ClusterIdentity;
use portolan_model::declared::ExportTo;
use portolan_model::names::ClusterName;
use portolan_model::sharing::LocalityHealth;
use portolan_model::snapshot::{
    Gateway, LinkState, LocalBackend, Mesh, Peer, RemoteBackend, Service, Snapshot, Vips,
};
use portolan_model::{
    Endpoint, Locality, Port, Protocol, Reason, ServiceKey, ServiceKind, SpiffeId,
};
use portolan_runtime::Shutdown;
use portolan_transport::mtls::{self, ALPN_H2, ALPN_HTTP1, ALPN_TCP, ClientAuth, TlsContext};
use portolan_transport::wire::alert::Alert;
use portolan_transport::wire::sni::SniName;
use portolan_transport::{hello, listen, pipe};
use portolan_trust::{CertificateAuthority, Identity, KeyRequest, RootAuthority, TrustBundle};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::LocalOptions;
use tokio::sync::watch;
use tokio::task::{JoinHandle, spawn_local};

use crate::admin::Views;
use crate::http::{HttpRules, LocalExecutor};
use crate::metrics::Metrics;
use crate::worker::{Joint, Shared, Worker};

pub(super) use client::{Client, client, http2_client, say, url};

pub(super) const FRONTEND: &str = "spiffe://us-east.demo/ns/shop/sa/frontend";
pub(super) const ORDERS: &str = "spiffe://us-east.demo/ns/shop/sa/orders";
pub(super) const ORDERS_WEST: &str = "spiffe://us-west.demo/ns/shop/sa/orders";
pub(super) const ORDERS_EU: &str = "spiffe://eu-west.demo/ns/shop/sa/orders";
pub(super) const HOST: &str = "orders.shop.svc.clusterset.local";
pub(super) const AMPLE: Duration = Duration::from_secs(20);

/// Ports of the service `shop/orders`.
pub(super) const HTTP: u16 = 80;
pub(super) const TCP: u16 = 9_000;

const DAY: Duration = Duration::from_secs(86_400);
const LOOPBACK: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

/// An address at which nobody listens, nor anybody else can who does not ask for this very one: it is bound for
/// as long as the test runs.
pub(super) fn nobody() -> SocketAddr {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_reuseport(true).unwrap();
    socket.bind(LOOPBACK).unwrap();
    Box::leak(Box::new(socket)).local_addr().unwrap()
}

pub(super) type Body = UnsyncBoxBody<Bytes, hyper::Error>;

pub(super) fn text(text: impl Into<Bytes>) -> Body {
    Full::new(text.into())
        .map_err(|never| match never {})
        .boxed_unsync()
}

/// Runs a test on one thread.
pub(super) fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default())
        .unwrap();
    let test = async { tokio::time::timeout(6 * AMPLE, test).await.unwrap() };
    runtime.block_on(test)
}

/// A root, under which every trust domain gets its authority.
pub(super) struct World(RootAuthority);

impl World {
    pub(super) fn new() -> Self {
        Self(RootAuthority::create(&"demo".parse().unwrap(), 10 * DAY, now_s()).unwrap())
    }

    pub(super) fn context(&self, identity: &str) -> TlsContext {
        let bundle = TrustBundle::from_pem(&self.0.cert_pem()).unwrap();
        TlsContext::new(Some(self.identity(&identity.parse().unwrap())), bundle).unwrap()
    }

    fn identity(&self, id: &SpiffeId) -> Identity {
        let pair = self
            .0
            .sign_intermediate(id.trust_domain(), now_s())
            .unwrap();
        let authority = CertificateAuthority::from_pem(&pair.cert_pem, &pair.key_pem).unwrap();
        let request = KeyRequest::new().unwrap();
        let chain = authority.issue(&request.csr_der, id, DAY, now_s()).unwrap();
        request.into_identity(chain).unwrap()
    }
}

fn now_s() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs()
}

/// Somebody who listens, until it is killed.
pub(super) struct Listening {
    pub(super) addr: SocketAddr,
    /// Requests that arrived.
    pub(super) hits: Rc<Cell<usize>>,
    /// Opaque connections that arrived.
    pub(super) opaque: Rc<Cell<usize>>,
    tasks: Rc<RefCell<Vec<JoinHandle<()>>>>,
}

impl Listening {
    fn start<F: Future<Output = ()> + 'static>(
        hits: Rc<Cell<usize>>,
        serve: impl Fn(TcpStream) -> F + 'static,
        listener: TcpListener,
    ) -> Self {
        let addr = listener.local_addr().unwrap();
        let tasks: Rc<RefCell<Vec<JoinHandle<()>>>> = Rc::default();
        let connections = Rc::clone(&tasks);
        let accept = spawn_local(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let serving = spawn_local(serve(stream));
                connections.borrow_mut().push(serving);
            }
        });
        tasks.borrow_mut().push(accept);
        Self {
            addr,
            hits,
            opaque: Rc::default(),
            tasks,
        }
    }

    /// Cuts every connection and accepts no more.
    pub(super) async fn kill(&self) {
        let tasks: Vec<_> = self.tasks.borrow_mut().drain(..).collect();
        for task in tasks {
            task.abort();
            let _ = task.await;
        }
    }
}

/// Another sidecar, whose app is `app`; opaque bytes are echoed.
pub(super) async fn sidecar<F>(
    tls: &TlsContext,
    app: impl Fn(Request<Incoming>) -> F + 'static,
) -> Listening
where
    F: Future<Output = Response<Body>> + 'static,
{
    sidecar_on(tls, TcpListener::bind(LOOPBACK).await.unwrap(), app)
}

fn sidecar_on<F>(
    tls: &TlsContext,
    listener: TcpListener,
    app: impl Fn(Request<Incoming>) -> F + 'static,
) -> Listening
where
    F: Future<Output = Response<Body>> + 'static,
{
    let config = tls.server_config(&[ALPN_H2, ALPN_HTTP1, ALPN_TCP], ClientAuth::Required);
    let app = Rc::new(app);
    let hits = Rc::new(Cell::new(0));
    let counted = Rc::clone(&hits);
    let opaque = Rc::new(Cell::new(0));
    let counted_opaque = Rc::clone(&opaque);
    let serve = move |stream| {
        let (config, app, counted) = (Arc::clone(&config), Rc::clone(&app), Rc::clone(&counted));
        let counted_opaque = Rc::clone(&counted_opaque);
        async move {
            let Ok(accepted) = mtls::accept(&config, stream, AMPLE).await else {
                return;
            };
            let service = service_fn(move |request| {
                counted.set(counted.get() + 1);
                let answer = app(request);
                async move { Ok::<_, std::convert::Infallible>(answer.await) }
            });
            match accepted.alpn.as_deref() {
                Some(ALPN_TCP) => {
                    counted_opaque.set(counted_opaque.get() + 1);
                    let (mut read, mut write) = tokio::io::split(accepted.stream);
                    let _ = tokio::io::copy(&mut read, &mut write).await;
                }
                Some(ALPN_HTTP1) => {
                    let io = TokioIo::new(accepted.stream);
                    let serving = http1::Builder::new().serve_connection(io, service);
                    let _ = serving.with_upgrades().await;
                }
                _ => {
                    let io = TokioIo::new(accepted.stream);
                    let mut builder = http2::Builder::new(LocalExecutor);
                    builder.timer(TokioTimer::new());
                    let _ = builder.serve_connection(io, service).await;
                }
            }
        }
    };
    Listening {
        opaque,
        ..Listening::start(hits, serve, listener)
    }
}

/// A sidecar whose app answers with `name` and what it was sent.
pub(super) async fn echo(tls: &TlsContext, name: &'static str) -> Listening {
    echo_on(tls, TcpListener::bind(LOOPBACK).await.unwrap(), name)
}

/// The same, on a listener of the test's.
pub(super) fn echo_on(tls: &TlsContext, listener: TcpListener, name: &'static str) -> Listening {
    sidecar_on(tls, listener, move |request| async move {
        let (head, body) = request.into_parts();
        let mut response = Response::builder().header("x-from", name);
        for (header, value) in &head.headers {
            response = response.header(format!("x-got-{header}"), value);
        }
        let response = response
            .header("x-path", head.uri.to_string())
            .header("x-method", head.method.as_str());
        let body = body
            .collect()
            .await
            .map(|body| body.to_bytes())
            .unwrap_or_default();
        response.body(text(body)).unwrap()
    })
}

/// A gateway: leads to the sidecar of each cluster, or refuses.
pub(super) async fn gateway(
    routes: BTreeMap<&'static str, Result<SocketAddr, Reason>>,
) -> Listening {
    let hits = Rc::new(Cell::new(0));
    let counted = Rc::clone(&hits);
    let routes = Rc::new(routes);
    let listener = TcpListener::bind(LOOPBACK).await.unwrap();
    let serve = move |mut stream: TcpStream| {
        let (routes, counted) = (Rc::clone(&routes), Rc::clone(&counted));
        async move {
            let Ok(hello) = hello::read(&mut stream, AMPLE).await else {
                return;
            };
            counted.set(counted.get() + 1);
            let name = SniName::parse(&hello.server_name.unwrap()).unwrap();
            match routes[name.cluster().as_str()] {
                Ok(addr) => {
                    let mut upstream = listen::connect(addr, AMPLE).await.unwrap();
                    upstream.write_all(&hello.bytes).await.unwrap();
                    pipe::copy_both(stream, upstream, AMPLE).await;
                }
                Err(reason) => {
                    let _ = hello::refuse(&mut stream, Alert::for_reason(reason)).await;
                }
            }
        }
    };
    Listening::start(hits, serve, listener)
}

/// What a test's snapshot says of `shop/orders`.
#[derive(Default)]
pub(super) struct Scene {
    /// Endpoints in us-east.
    pub(super) own: Vec<SocketAddr>,
    /// Gateways of us-east.
    pub(super) gateways: Vec<SocketAddr>,
    /// Whether us-west and eu-west serve it as well.
    pub(super) west: bool,
    pub(super) eu: bool,
}

impl Scene {
    pub(super) fn snapshot(&self, generation: u64) -> Snapshot {
        let key: ServiceKey = "shop/orders".parse().unwrap();
        let mut remote = Vec::new();
        if self.west {
            remote.push(backend("us-west", "us", ORDERS_WEST));
        }
        if self.eu {
            remote.push(backend("eu-west", "eu", ORDERS_EU));
        }
        let service = Service {
            key: key.clone(),
            kind: ServiceKind::Virtual,
            ports: ports(),
            vips: Vips {
                set: vec!["240.241.0.1".parse().unwrap()],
                ..Vips::default()
            },
            imported: true,
            local: Some(LocalBackend {
                ports: ports(),
                endpoints: self.own.iter().enumerate().map(endpoint).collect(),
                exported: ExportTo::Everyone,
            }),
            remote,
            traffic: portolan_model::traffic::Traffic::default(),
        };
        let mut snapshot = Snapshot {
            generation,
            mesh: Some(Arc::new(self.mesh())),
            services: BTreeMap::from([(key, Arc::new(service))]),
            ..Snapshot::default()
        };
        snapshot.index();
        snapshot
    }

    fn mesh(&self) -> Mesh {
        let peer = |name: &str, region: &str, rtt_us| Peer {
            name: name.parse().unwrap(),
            trust_domain: format!("{name}.demo").parse().unwrap(),
            region: region.parse().unwrap(),
            gateways: vec![],
            link: LinkState::Up { rtt_us },
        };
        let gateway = |(number, tcp): (usize, &SocketAddr)| Gateway {
            name: format!("gateway-{number}"),
            tcp: *tcp,
            quic: *tcp,
        };
        Mesh {
            cluster: ClusterIdentity {
                name: "us-east".parse().unwrap(),
                set: "demo".parse().unwrap(),
                region: "us".parse().unwrap(),
                zones: vec![],
                trust_domain: "us-east.demo".parse().unwrap(),
            },
            gateways: self.gateways.iter().enumerate().map(gateway).collect(),
            control: vec![],
            peers: vec![peer("us-west", "us", 1_000), peer("eu-west", "eu", 5_000)],
        }
    }
}

fn ports() -> Vec<Port> {
    let port = |number, protocol| Port {
        name: None,
        number,
        protocol,
    };
    vec![port(HTTP, Protocol::Http), port(TCP, Protocol::Tcp)]
}

fn locality(region: &str) -> Locality {
    Locality {
        region: region.parse().unwrap(),
        zone: None,
    }
}

fn endpoint((number, inbound): (usize, &SocketAddr)) -> Endpoint {
    Endpoint {
        workload: format!("shop/orders-{number}").parse().unwrap(),
        address: inbound.ip(),
        inbound: *inbound,
        identity: ORDERS.parse().unwrap(),
        locality: locality("us"),
        weight: 100,
        ready: true,
        hostname: None,
        ports: BTreeMap::from([(HTTP, 8080), (TCP, 9000)]),
    }
}

fn backend(cluster: &str, region: &str, identity: &str) -> RemoteBackend {
    let cluster: ClusterName = cluster.parse().unwrap();
    RemoteBackend {
        cluster,
        region: region.parse().unwrap(),
        ports: ports(),
        localities: vec![LocalityHealth {
            locality: locality(region),
            ready: 1,
            total: 1,
        }],
        identities: vec![identity.parse().unwrap()],
        hosts: vec![],
    }
}

/// The sidecar under test, of `shop/frontend` in us-east.
pub(super) struct Subject {
    pub(super) outbound: SocketAddr,
    pub(super) snapshot: Arc<ArcSwap<Snapshot>>,
    pub(super) changed: watch::Sender<u64>,
    pub(super) worker: Rc<Worker>,
    pub(super) shutdown: Shutdown,
}

impl Subject {
    pub(super) fn start(world: &World, scene: &Scene) -> Self {
        Self::start_with(world, scene, true)
    }

    pub(super) fn start_with(world: &World, scene: &Scene, passthrough: bool) -> Self {
        Self::start_by(world, scene, passthrough, HttpRules::default())
    }

    pub(super) fn start_as(world: &World, scene: &Scene, http: HttpRules) -> Self {
        Self::start_by(world, scene, true, http)
    }

    fn start_by(world: &World, scene: &Scene, passthrough: bool, http: HttpRules) -> Self {
        let metrics = portolan_runtime::Metrics::new("sidecar");
        let snapshot = Arc::new(ArcSwap::from_pointee(scene.snapshot(1)));
        let (changed, following) = watch::channel(1);
        let shared = Shared {
            caller: "shop/frontend".into(),
            namespace: "shop".parse().unwrap(),
            tls: world.context(FRONTEND),
            snapshot: Arc::clone(&snapshot),
            changed: following,
            metrics: Metrics::register(&metrics, "shop/frontend", &"us-east".parse().unwrap()),
            passthrough,
            http,
            joint: Joint::new(),
            source: 7,
            views: Arc::new(Views::new(1)),
        };
        let shutdown = Shutdown::new();
        let worker = Worker::new(shared, 0, shutdown.clone());
        let listener = listen::tcp_reuseport(LOOPBACK).unwrap();
        let outbound = listener.local_addr().unwrap();
        spawn_local(super::serve(Rc::clone(&worker), listener));
        Self {
            outbound,
            snapshot,
            changed,
            worker,
            shutdown,
        }
    }

    pub(super) async fn connect(&self) -> TcpStream {
        listen::connect(self.outbound, AMPLE).await.unwrap()
    }

    /// An HTTP/1.1 connection to the proxy.
    pub(super) async fn client(&self) -> Client {
        client(self.connect().await).await
    }

    /// One GET of the service.
    pub(super) async fn get(&self) -> Response<Bytes> {
        self.client().await.send(Request::get(url("/"))).await
    }
}
