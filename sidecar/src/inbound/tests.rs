//! Inbound with real sockets, TLS and an app.

mod guarded;
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
use portolan_model::snapshot::Gateway;
use portolan_transport::mtls::{ClientTls, Expect, TlsError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::{JoinHandle, LocalSet};

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
    let within = Box::pin(timeout(AMPLE, test()));
    LocalSet::new().run_until(within).await.unwrap();
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

#[tokio::test]
async fn the_app_learns_who_called_and_not_what_callers_claim() {
    locally(async || {
        let (app, _) = seeing_app().await;
        let sidecar = Sidecar::beside(app).await;
        let mut lying = request("/who");
        lying.headers_mut().insert(
            "x-forwarded-client-cert",
            "URI=spiffe://me".parse().unwrap(),
        );
        let answer = sidecar.get(PEER, HTTP, lying).await;
        assert_eq!(answer.status, 200);
        let expected = format!("HTTP/1.1 orders.shop.global /who By={OWN};Hash=");
        assert!(answer.text.starts_with(&expected), "{}", answer.text);
        let tail = format!(";Subject=\"\";URI={PEER}");
        assert!(answer.text.ends_with(&tail), "{}", answer.text);
        assert!(!answer.headers.contains_key(ERROR_HEADER), "the app lied");
    })
    .await;
}

#[tokio::test]
async fn grpc_is_spoken_to_apps_that_need_it() {
    locally(async || {
        let (app, _) = seeing_app().await;
        let sidecar = Sidecar::beside(app).await;
        let by_port = sidecar.get(NEIGHBOUR, GRPC, request("/x")).await;
        let expected = "HTTP/2.0 orders.shop.global /x By=";
        assert!(by_port.text.starts_with(expected), "{}", by_port.text);
        let mut grpc = request("/x");
        let kind = "application/grpc+proto".parse().unwrap();
        grpc.headers_mut().insert("content-type", kind);
        let by_type = sidecar.get(NEIGHBOUR, HTTP, grpc).await;
        assert!(by_type.text.starts_with("HTTP/2.0"), "{}", by_type.text);
    })
    .await;
}

#[tokio::test]
async fn bodies_stream_both_ways_and_trailers_follow() {
    locally(async || {
        let (app, _) = seeing_app().await;
        let sidecar = Sidecar::beside(app).await;
        let mut sender = sidecar.http2(NEIGHBOUR, GRPC).await;
        let (frames, body) = tokio::sync::mpsc::channel::<Result<Frame<Bytes>, hyper::Error>>(1);
        let body = StreamBody::new(tokio_stream::wrappers::ReceiverStream::new(body));
        let request = Request::post("http://orders.shop.global/").body(body);
        let response = sender.send_request(request.unwrap()).await.unwrap();
        let mut echoed = response.into_body();
        for word in ["one", "two"] {
            frames.send(Ok(Frame::data(word.into()))).await.unwrap();
            let frame = echoed.frame().await.unwrap().unwrap();
            assert_eq!(frame.into_data().unwrap(), word, "before the end was sent");
        }
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", "0".parse().unwrap());
        frames.send(Ok(Frame::trailers(trailers))).await.unwrap();
        drop(frames);
        let end = echoed.frame().await.unwrap().unwrap();
        assert_eq!(end.into_trailers().unwrap()["grpc-status"], "0");
    })
    .await;
}

#[tokio::test]
async fn connections_to_the_app_are_kept() {
    locally(async || {
        let (app, connections) = seeing_app().await;
        let sidecar = Sidecar::beside(app).await;
        let mut sender = sidecar.http2(NEIGHBOUR, HTTP).await;
        for _ in 0..5 {
            let response = sender.send_request(request("/")).await.unwrap();
            assert_eq!(Answer::of(response).await.status, 200);
        }
        assert_eq!(connections.get(), 1);
    })
    .await;
}

/// Answers one request on each connection, and ends the connection when the second one arrives.
async fn answer_once(mut stream: TcpStream) {
    let mut head = [0; 4096];
    let _ = stream.read(&mut head).await.unwrap();
    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
    stream.write_all(answer).await.unwrap();
    let _ = stream.read(&mut head).await;
}

#[tokio::test]
async fn a_kept_connection_that_the_app_ends_loses_no_request_that_may_be_repeated() {
    locally(async || {
        let app = raw_app(answer_once).await;
        let sidecar = Sidecar::beside(app).await;
        let mut sender = sidecar.http2(NEIGHBOUR, HTTP).await;
        for _ in 0..20 {
            let response = sender.send_request(request("/")).await.unwrap();
            let answer = Answer::of(response).await;
            let seen = (answer.status, answer.text.as_str());
            assert_eq!(seen, (StatusCode::OK, "ok"));
        }
        let (mut parts, body) = request("/").into_parts();
        parts.method = Method::POST;
        let once = Request::from_parts(parts, body);
        let response = sender.send_request(once).await.unwrap();
        let answer = Answer::of(response).await;
        assert_eq!(
            answer.error(),
            "reset; hop=inbound",
            "it may have been processed"
        );
    })
    .await;
}

#[tokio::test]
async fn an_app_that_is_down_is_told_apart_from_one_that_fails() {
    locally(async || {
        let down = Sidecar::beside(closed_port()).await;
        let answer = down.get(NEIGHBOUR, HTTP, request("/")).await;
        assert_eq!(answer.status, 503);
        assert_eq!(answer.error(), "connect_failed; hop=inbound");

        let mut grpc = request("/");
        let kind = "application/grpc".parse().unwrap();
        grpc.headers_mut().insert("content-type", kind);
        let answer = down.get(NEIGHBOUR, GRPC, grpc).await;
        assert_eq!(
            (answer.status, &answer.headers["grpc-status"]),
            (StatusCode::OK, &"14".parse().unwrap())
        );
        assert_eq!(answer.error(), "connect_failed; hop=inbound");
        assert!(answer.trailers.is_none() && answer.text.is_empty());

        let app = raw_app(async |mut stream: TcpStream| {
            let mut head = [0; 4096];
            let _ = stream.read(&mut head).await;
        });
        let failing = Sidecar::beside(app.await).await;
        let answer = failing.get(NEIGHBOUR, HTTP, request("/")).await;
        assert_eq!(answer.status, 502);
        assert_eq!(answer.error(), "reset; hop=inbound");
    })
    .await;
}

#[tokio::test]
async fn who_may_not_is_told_so() {
    locally(async || {
        let (app, _) = seeing_app().await;
        let sidecar = Sidecar::beside(app).await;
        let answer = sidecar.get(STRANGER, HTTP, request("/")).await;
        assert_eq!(answer.status, 403);
        assert_eq!(answer.error(), "denied; hop=inbound");
        assert_eq!(answer.text, "denied; hop=inbound\n");
        let mut opaque = sidecar.dial(STRANGER, TCP, ALPN_TCP).await;
        let mut nothing = Vec::new();
        let _ = opaque.read_to_end(&mut nothing).await;
        assert!(nothing.is_empty());
    })
    .await;
}

#[tokio::test]
async fn names_that_are_not_for_us_are_refused_before_the_handshake() {
    locally(async || {
        let sidecar = Sidecar::beside(closed_port()).await;
        for name in [
            fixtures::sni(81),
            "control.us-east.portolan.internal".to_owned(),
        ] {
            let error = sidecar
                .connect(NEIGHBOUR, &name, ALPN_H2)
                .await
                .unwrap_err();
            assert!(
                matches!(error, TlsError::Refused(Reason::NotExported)),
                "{error}"
            );
        }
        sidecar.publish(Snapshot::default());
        let early = sidecar
            .connect(NEIGHBOUR, &fixtures::sni(HTTP), ALPN_H2)
            .await;
        assert!(matches!(
            early,
            Err(TlsError::Refused(Reason::NoHealthyUpstream))
        ));
    })
    .await;
}

#[tokio::test]
async fn callers_without_a_certificate_get_nothing() {
    locally(async || {
        let (app, _) = seeing_app().await;
        let sidecar = Sidecar::beside(app).await;
        let nobody = TlsContext::new(None, sidecar.world.bundle()).unwrap();
        let config = nobody.client_config(Expect::Anybody, &[ALPN_TCP], false);
        let tcp = TcpStream::connect(sidecar.addr).await.unwrap();
        let connected = mtls::connect(&config, &fixtures::sni(TCP), tcp, AMPLE).await;
        // With TLS 1.3 a client may learn of the refusal only when it reads.
        if let Ok(mut connected) = connected {
            let read = connected.stream.read(&mut [0; 8]).await;
            assert!(matches!(read, Err(_) | Ok(0)));
        }
    })
    .await;
}

async fn echo(mut stream: TcpStream) {
    let (mut read, mut write) = stream.split();
    let _ = tokio::io::copy(&mut read, &mut write).await;
}

#[tokio::test]
async fn opaque_bytes_pass() {
    locally(async || {
        let sidecar = Sidecar::beside(raw_app(echo).await).await;
        let mut stream = sidecar.dial(PEER, TCP, ALPN_TCP).await;
        stream.write_all(b"hello").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut echoed = String::new();
        stream.read_to_string(&mut echoed).await.unwrap();
        assert_eq!(echoed, "hello");
    })
    .await;
}

#[tokio::test]
async fn opaque_callers_learn_in_the_handshake_that_the_app_is_down() {
    locally(async || {
        let sidecar = Sidecar::beside(closed_port()).await;
        let prober = sidecar.prober.take().unwrap();
        spawn_local(prober.run(sidecar.shutdown.clone()));
        let mut health = sidecar.probe.health();
        health
            .wait_for(|health| !health.down.is_empty())
            .await
            .unwrap();
        let refused = sidecar
            .connect(NEIGHBOUR, &fixtures::sni(TCP), ALPN_TCP)
            .await;
        assert!(matches!(
            refused,
            Err(TlsError::Refused(Reason::NoHealthyUpstream))
        ));
    })
    .await;
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

#[tokio::test]
async fn upgraded_connections_pass() {
    locally(async || {
        let (app, _) = seeing_app().await;
        let sidecar = Sidecar::beside(app).await;
        let mut stream = upgraded(&sidecar, NEIGHBOUR).await;
        stream.write_all(b"ping").await.unwrap();
        let mut word = [0; 4];
        stream.read_exact(&mut word).await.unwrap();
        assert_eq!(&word, b"ping");
    })
    .await;
}

#[tokio::test]
async fn an_export_that_is_withdrawn_ends_the_peer_s_connections_alone() {
    locally(async || {
        let (app, _) = seeing_app().await;
        let sidecar = Sidecar::beside(app).await;
        let mut neighbour = sidecar.http2(NEIGHBOUR, HTTP).await;
        let mut peer = sidecar.http2(PEER, HTTP).await;
        let mut chat = upgraded(&sidecar, PEER).await;
        let answered = peer.send_request(request("/")).await.unwrap();
        assert_eq!(Answer::of(answered).await.status, 200);

        sidecar.publish(fixtures::exported(sidecar.app_port, ExportTo::Nobody));
        let ended = async {
            while !peer.is_closed() {
                tokio::task::yield_now().await;
            }
            assert!(matches!(chat.read(&mut [0; 8]).await, Err(_) | Ok(0)));
        };
        ended.await;
        let answered = neighbour.send_request(request("/")).await.unwrap();
        assert_eq!(Answer::of(answered).await.status, 200);
        let denied = sidecar.get(PEER, HTTP, request("/")).await;
        assert_eq!(denied.status, 403);
    })
    .await;
}

#[tokio::test]
async fn a_root_that_is_removed_ends_what_it_had_allowed() {
    locally(async || {
        let sidecar = Sidecar::beside(raw_app(echo).await).await;
        let mut stream = sidecar.dial(NEIGHBOUR, TCP, ALPN_TCP).await;
        stream.write_all(b"x").await.unwrap();
        stream.read_exact(&mut [0]).await.unwrap();
        let trusting = |roots| {
            let mut snapshot = fixtures::snapshot(sidecar.app_port);
            snapshot.trust = Some(Arc::new(Trust { roots }));
            snapshot
        };
        let (old, new) = (sidecar.world.root_der(), World::new().root_der());
        sidecar.publish(trusting(vec![old, new.clone()]));
        stream.write_all(b"y").await.unwrap();
        stream.read_exact(&mut [0]).await.unwrap();
        sidecar.publish(trusting(vec![new]));
        assert!(matches!(stream.read(&mut [0]).await, Err(_) | Ok(0)));
    })
    .await;
}

#[tokio::test]
async fn what_is_under_way_at_the_shutdown_finishes() {
    locally(async || {
        let (release, held) = watch::channel(false);
        let (arrive, mut arrived) = watch::channel(false);
        let app = raw_app(move |mut stream: TcpStream| {
            let (mut held, arrive) = (held.clone(), arrive.clone());
            async move {
                let mut head = [0; 4096];
                let _ = stream.read(&mut head).await.unwrap();
                arrive.send(true).unwrap();
                held.wait_for(|released| *released).await.unwrap();
                let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
                stream.write_all(answer).await.unwrap();
            }
        });
        let sidecar = Sidecar::beside(app.await).await;
        let mut sender = sidecar.http2(NEIGHBOUR, HTTP).await;
        let under_way = spawn_local(sender.send_request(request("/")));
        arrived.wait_for(|arrived| *arrived).await.unwrap();
        sidecar.shutdown.trigger();
        release.send(true).unwrap();
        let answer = Answer::of(under_way.await.unwrap().unwrap()).await;
        assert_eq!(answer.text, "ok");
        drop(sender);
        sidecar.serving.await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_head_that_is_too_large_is_refused() {
    locally(async || {
        let (app, _) = seeing_app().await;
        let sidecar = Sidecar::beside(app).await;
        let mut large = request("/");
        let filler = "x"
            .repeat(HttpRules::default().bounds.bytes_max)
            .parse()
            .unwrap();
        large.headers_mut().insert("x-filler", filler);
        let mut sender = sidecar.http2(NEIGHBOUR, HTTP).await;
        match sender.send_request(large).await {
            Ok(response) => assert_eq!(response.status(), 431),
            Err(error) => assert!(!error.is_timeout(), "{error}"),
        }
    })
    .await;
}

#[tokio::test]
async fn who_can_go_elsewhere_does_not_wait_for_an_app_that_is_stuck() {
    locally(async || {
        let app = TcpListener::bind(ANY).await.unwrap();
        let port = app.local_addr().unwrap().port();
        let sidecar = Sidecar::beside(port).await;
        let ask = async |alternative: Option<&'static str>| {
            let mut request = request("/");
            if let Some(alternative) = alternative {
                let value = alternative.parse().unwrap();
                request
                    .headers_mut()
                    .insert("x-portolan-alternative", value);
            }
            sidecar.get(NEIGHBOUR, HTTP, request).await
        };
        let patient = ask(None);
        let other = async {
            let answer = ask(Some("any")).await;
            assert_eq!(
                (answer.status.as_u16(), answer.error()),
                (503, "not_ready; hop=inbound")
            );
            let unsent = ask(Some("unsent")).await;
            assert_eq!(unsent.error(), "not_ready; hop=inbound");
            // The app goes on.
            spawn_local(async move {
                loop {
                    let (stream, _) = app.accept().await.unwrap();
                    spawn_local(answer_once(stream));
                }
            });
        };
        let (answer, ()) = tokio::join!(patient, other);
        assert_eq!(answer.status, 200, "who has nowhere else to go waits");
        assert_eq!(ask(Some("unsent")).await.status, 200);
    })
    .await;
}

#[tokio::test]
async fn a_gateway_that_leaves_takes_its_callers_along_and_loses_no_request() {
    locally(async || {
        let (app, _) = seeing_app().await;
        let sidecar = Sidecar::beside(app).await;
        let with = |gateways: &[&str]| {
            let mut snapshot = fixtures::snapshot(sidecar.app_port);
            let mut mesh = (**snapshot.mesh.as_ref().unwrap()).clone();
            let gateway = |tcp: &&str| Gateway {
                name: (*tcp).to_owned(),
                tcp: tcp.parse().unwrap(),
                quic: tcp.parse().unwrap(),
            };
            mesh.gateways = gateways.iter().map(gateway).collect();
            snapshot.mesh = Some(Arc::new(mesh));
            snapshot
        };
        let (leaving, other) = ("127.0.0.1:15443", "192.0.2.1:15443");
        sidecar.publish(with(&[leaving, other]));
        let mut sender = sidecar.http2::<Empty<Bytes>>(PEER, HTTP).await;
        let answer = Answer::of(sender.send_request(request("/")).await.unwrap()).await;
        assert_eq!(answer.status, 200);
        sidecar.publish(with(&[leaving]));
        let answer = Answer::of(sender.send_request(request("/")).await.unwrap()).await;
        assert_eq!(answer.status, 200, "somebody else left");
        let under_way = sender.send_request(request("/"));
        sidecar.publish(with(&[other]));
        let answer = Answer::of(under_way.await.unwrap()).await;
        assert_eq!(answer.status, 200);
        while !sender.is_closed() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}
