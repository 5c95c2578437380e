//! Inbound with real sockets, TLS and an app.

mod callers;
mod ending;
mod guarded;
mod opaque;
mod requests;
mod semantics;

use std::cell::Cell;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;

use ::http::{HeaderMap, Method, Request, Response, StatusCode};
use bytes::Bytes;
use http_body::Frame;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::body::{Body, Incoming};
use hyper::client::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use portolan_model::declared::ExportTo;
use portolan_model::refusal::ERROR_HEADER;
use portolan_model::snapshot::{Gateway, Trust};
use portolan_transport::mtls::{self, ALPN_H2, ALPN_HTTP1, ALPN_TCP, ClientTls, Expect, TlsError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::{JoinHandle, spawn_local};

use super::fixtures::{GRPC, HTTP, NEIGHBOUR, OWN, PEER, STRANGER, TCP, World};
use super::*;
use crate::http::{HttpRules, LocalExecutor};
use crate::probe::Prober;

const AMPLE: Duration = Duration::from_secs(10);
const ANY: &str = "127.0.0.1:0";

/// A sidecar's inbound half beside an app.
struct Sidecar {
    world: World,
    addr: SocketAddr,
    app_port: u16,
    snapshot: Arc<ArcSwap<Snapshot>>,
    changed: watch::Sender<u64>,
    shutdown: Shutdown,
    probe: Probe,
    limits: Limits,
    /// Runs where a test wants it to.
    prober: Cell<Option<Prober>>,
    serving: JoinHandle<()>,
}

impl Sidecar {
    async fn beside(app_port: u16) -> Self {
        Self::beside_with(app_port, HttpRules::default()).await
    }

    async fn beside_with(app_port: u16, http: HttpRules) -> Self {
        let world = World::new();
        let listener = TcpListener::bind(ANY).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let snapshot = Arc::new(ArcSwap::from_pointee(fixtures::snapshot(app_port)));
        let (changed, receiver) = watch::channel(1);
        let shutdown = Shutdown::new();
        let (probe, prober) = crate::probe::new(addr.ip(), [app_port]);
        let limits = Limits::new(fixtures::workload());
        let shared = Shared {
            limits: limits.clone(),
            admissions: Admissions::new(),
            cluster: fixtures::cluster(),
            workload: fixtures::workload(),
            app: addr.ip(),
            tls: world.context(OWN),
            snapshot: Arc::clone(&snapshot),
            changed: receiver,
            probe: probe.clone(),
            http,
            metrics: InboundMetrics::register(&portolan_runtime::Metrics::new("sidecar")),
        };
        let serving = spawn_local(serve(listener, shared, shutdown.clone()));
        Self {
            world,
            addr,
            app_port,
            snapshot,
            changed,
            shutdown,
            probe,
            limits,
            prober: Cell::new(Some(prober)),
            serving,
        }
    }

    async fn connect(&self, caller: &str, sni: &str, alpn: &[u8]) -> Result<Tls, TlsError> {
        let context = self.world.context(caller);
        let config = context.client_config(Expect::Exact(fixtures::id(OWN)), &[alpn], true);
        let tcp = TcpStream::connect(self.addr).await.unwrap();
        Ok(mtls::connect(&config, sni, tcp, AMPLE).await?.stream)
    }

    async fn dial(&self, caller: &str, port: u16, alpn: &[u8]) -> Tls {
        let sni = fixtures::sni(port);
        self.connect(caller, &sni, alpn).await.unwrap()
    }

    async fn http2<B>(&self, caller: &str, port: u16) -> http2::SendRequest<B>
    where
        B: Body + Unpin + 'static,
        B::Data: Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let io = TokioIo::new(self.dial(caller, port, ALPN_H2).await);
        let (sender, connection) = http2::handshake(LocalExecutor, io).await.unwrap();
        spawn_local(connection);
        sender
    }

    async fn get(&self, caller: &str, port: u16, request: Request<Empty<Bytes>>) -> Answer {
        let mut sender = self.http2(caller, port).await;
        Answer::of(sender.send_request(request).await.unwrap()).await
    }

    fn publish(&self, snapshot: Snapshot) {
        self.limits.obey(&snapshot);
        self.snapshot.store(Arc::new(snapshot));
        self.changed.send_modify(|generation| *generation += 1);
    }
}

type Tls = ClientTls<TcpStream>;

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    text: String,
    trailers: Option<HeaderMap>,
}

impl Answer {
    async fn of(response: Response<Incoming>) -> Self {
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap();
        let trailers = body.trailers().cloned();
        Self {
            status: parts.status,
            headers: parts.headers,
            text: String::from_utf8(body.to_bytes().to_vec()).unwrap(),
            trailers,
        }
    }

    fn error(&self) -> &str {
        self.headers[ERROR_HEADER].to_str().unwrap()
    }
}

fn request(path: &str) -> Request<Empty<Bytes>> {
    Request::builder()
        .uri(format!("http://orders.shop.global{path}"))
        .body(Empty::new())
        .unwrap()
}

async fn locally(test: impl AsyncFnOnce()) {
    Box::pin(timeout(AMPLE, test())).await.unwrap();
}

/// An app that answers every request with what it saw. Returns its port, and counts its
/// connections.
async fn seeing_app() -> (u16, Rc<Cell<usize>>) {
    let listener = TcpListener::bind(ANY).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let connections = Rc::new(Cell::new(0));
    let counted = Rc::clone(&connections);
    spawn_local(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            counted.set(counted.get() + 1);
            spawn_local(async move {
                let builder = hyper_util::server::conn::auto::Builder::new(LocalExecutor);
                let serving =
                    builder.serve_connection_with_upgrades(TokioIo::new(stream), service_fn(see));
                drop(serving.await);
            });
        }
    });
    (port, connections)
}

async fn see(mut request: Request<Incoming>) -> Result<Response<AppBody>, hyper::Error> {
    if request.headers().contains_key("upgrade") {
        let upgraded = hyper::upgrade::on(&mut request);
        spawn_local(async move {
            let mut io = TokioIo::new(upgraded.await.unwrap());
            let mut word = [0; 4];
            io.read_exact(&mut word).await.unwrap();
            io.write_all(&word).await.unwrap();
        });
        let switching = Response::builder()
            .status(StatusCode::SWITCHING_PROTOCOLS)
            .header("connection", "upgrade")
            .header("upgrade", "echo");
        return Ok(switching
            .body(Full::default().map_err(|e| match e {}).boxed())
            .unwrap());
    }
    if request.method() == Method::POST {
        return Ok(Response::new(request.into_body().boxed()));
    }
    let header = |name| {
        let value = request.headers().get(name);
        value.map_or("-", |value| value.to_str().unwrap())
    };
    let host = request
        .uri()
        .authority()
        .map_or(header("host"), |it| it.as_str());
    let seen = format!(
        "{:?} {host} {} {}",
        request.version(),
        request.uri().path(),
        header("x-forwarded-client-cert")
    );
    let mut response = Response::new(Full::from(seen).map_err(|e| match e {}).boxed());
    let lie = "connect_failed; hop=inbound".parse().unwrap();
    response.headers_mut().insert(ERROR_HEADER, lie);
    Ok(response)
}

type AppBody = http_body_util::combinators::BoxBody<Bytes, hyper::Error>;

/// An app that handles each connection as raw bytes.
async fn raw_app<F>(handle: impl Fn(TcpStream) -> F + 'static) -> u16
where
    F: Future<Output = ()> + 'static,
{
    let listener = TcpListener::bind(ANY).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    spawn_local(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            spawn_local(handle(stream));
        }
    });
    port
}

/// A port at which nobody listens, nor anybody else can: it is bound for as long as the test runs.
fn closed_port() -> u16 {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind(ANY.parse().unwrap()).unwrap();
    Box::leak(Box::new(socket)).local_addr().unwrap().port()
}

async fn echo(mut stream: TcpStream) {
    let (mut read, mut write) = stream.split();
    let _ = tokio::io::copy(&mut read, &mut write).await;
}

async fn upgraded(sidecar: &Sidecar, caller: &str) -> TokioIo<hyper::upgrade::Upgraded> {
    let io = TokioIo::new(sidecar.dial(caller, HTTP, ALPN_HTTP1).await);
    let (mut sender, connection) = http1::handshake(io).await.unwrap();
    spawn_local(connection.with_upgrades());
    let request = Request::get("/chat")
        .header("host", "orders.shop.global")
        .header("connection", "upgrade")
        .header("upgrade", "echo")
        .body(Empty::<Bytes>::new());
    let response = sender.send_request(request.unwrap()).await.unwrap();
    assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
    assert_eq!(response.headers()["upgrade"], "echo");
    TokioIo::new(hyper::upgrade::on(response).await.unwrap())
}
