//! The server over real UDP and TCP, asked with hickory's messages.
#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking, its helpers too"
)]

#[path = "../../../tests/skipped.rs"]
mod skipped;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwap;
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{Name, RData, Record, RecordType};
use portolan_dns::{AnswerKind, DnsConfig, DnsError, DnsServer, Observer};
use portolan_model::snapshot::{LocalBackend, Mesh, Service, Snapshot, Vips};
use portolan_model::{ClusterIdentity, Endpoint, Locality, ServiceKind};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use self::skipped::skipped;

/// Longer than any answer takes; reaching it fails a test.
const PATIENCE: Duration = Duration::from_secs(20);

#[tokio::test]
async fn answers_come_over_udp_and_tcp_and_are_counted() {
    let server = Server::start(&[]).await;
    for reply in [
        server
            .over_udp(&query("Orders.Shop.global", RecordType::A))
            .await,
        server
            .over_tcp(&query("Orders.Shop.global", RecordType::A))
            .await,
    ] {
        assert_eq!(reply.metadata.response_code, ResponseCode::NoError);
        assert!(reply.metadata.authoritative && !reply.metadata.truncation);
        assert_eq!(reply.answers[0].name.to_ascii(), "Orders.Shop.global.");
        assert_eq!(addresses(&reply), ["240.241.0.2"]);
        assert!(reply.edns.is_none());
    }
    let missing = server
        .over_udp(&query("nobody.shop.global", RecordType::A))
        .await;
    assert_eq!(missing.metadata.response_code, ResponseCode::NXDomain);
    assert_eq!(missing.authorities.len(), 1);
    let expected = [
        (AnswerKind::Own, 0),
        (AnswerKind::Own, 0),
        (AnswerKind::Own, 3),
    ];
    assert_eq!(*server.counted.0.lock().unwrap(), expected);
    server.stop().await;
}

#[tokio::test]
async fn long_answers_are_cut_over_udp_and_whole_over_tcp() {
    let server = Server::start(&[]).await;
    let mut question = query("many.shop.global", RecordType::A);
    let cut = server.over_udp(&question).await;
    assert!(cut.metadata.truncation && cut.answers.is_empty());
    let whole = server.over_tcp(&question).await;
    assert_eq!(
        (whole.answers.len(), whole.metadata.truncation),
        (200, false)
    );
    let mut edns = Edns::new();
    edns.set_max_payload(1232);
    question.set_edns(edns);
    let cut = server.over_udp(&question).await;
    assert!(cut.metadata.truncation && cut.edns.is_some());
    server.stop().await;
}

#[tokio::test]
async fn without_a_snapshot_the_answer_is_a_failure_and_later_it_is_not() {
    let server = Server::start(&[]).await;
    let full = server.snapshot.swap(Arc::new(Snapshot::default()));
    let question = query("orders.shop.global", RecordType::A);
    let early = server.over_udp(&question).await;
    assert_eq!(early.metadata.response_code, ResponseCode::ServFail);
    server.snapshot.store(full);
    assert_eq!(
        addresses(&server.over_udp(&question).await),
        ["240.241.0.2"]
    );
    server.stop().await;
}

#[tokio::test]
async fn several_questions_go_over_one_connection_even_in_pieces() {
    let server = Server::start(&[]).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let bytes = framed(&query("orders.shop.global", RecordType::A));
    let (head, tail) = bytes.split_at(5);
    stream.write_all(head).await.unwrap();
    stream.flush().await.unwrap();
    stream.write_all(tail).await.unwrap();
    stream.write_all(&bytes).await.unwrap();
    for _ in 0..2 {
        assert_eq!(addresses(&read_framed(&mut stream).await), ["240.241.0.2"]);
    }
    server.stop().await;
}

#[tokio::test]
async fn what_is_not_ours_is_forwarded_byte_for_byte() {
    let upstream = Upstream::start().await;
    let server = Server::start(&[upstream.address]).await;
    let question = query("Example.com", RecordType::A);
    let udp = server.over_udp(&question).await;
    assert_eq!(
        (udp.metadata.id, addresses(&udp)),
        (question.metadata.id, vec!["192.0.2.1".to_owned()])
    );
    assert!(!udp.metadata.authoritative);
    // A record type that nobody here knows comes through as it is.
    assert_eq!(
        udp.additionals[0].record_type(),
        RecordType::Unknown(65_280)
    );
    let tcp = server.over_tcp(&question).await;
    assert_eq!(addresses(&tcp), ["192.0.2.2"]);
    assert_eq!(
        server.counted.0.lock().unwrap()[0],
        (AnswerKind::Forwarded, 0)
    );
    server.stop().await;
}

#[tokio::test]
async fn a_dead_resolver_is_passed_over() {
    let upstream = Upstream::start().await;
    let server = Server::start(&[closed_address(), upstream.address]).await;
    let reply = server.over_udp(&query("example.com", RecordType::A)).await;
    assert_eq!(addresses(&reply), ["192.0.2.1"]);
    server.stop().await;
}

#[tokio::test]
async fn without_any_living_resolver_the_answer_is_a_failure() {
    let server = Server::start(&[closed_address()]).await;
    let reply = server.over_udp(&query("example.com", RecordType::A)).await;
    assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
    server.stop().await;
}

#[tokio::test]
async fn it_never_asks_itself() {
    let address = closed_address();
    let mut config = DnsConfig::new(vec![address]);
    config.forward = vec![address];
    let server = Server::start_with(&config).await;
    let reply = server.over_udp(&query("example.com", RecordType::A)).await;
    assert_eq!(reply.metadata.response_code, ResponseCode::Refused);
    server.stop().await;
}

#[tokio::test]
async fn two_servers_share_an_address_and_a_third_transport_user_is_named() {
    let first = Server::start(&[]).await;
    let second = Server::start_with(&DnsConfig::new(vec![first.address])).await;
    assert_eq!(first.address, second.address);
    first.stop().await;
    let reply = second
        .over_udp(&query("orders.shop.global", RecordType::A))
        .await;
    assert_eq!(addresses(&reply), ["240.241.0.2"]);
    second.stop().await;

    let holder = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let taken = holder.local_addr().unwrap();
    let error = DnsServer::bind(&DnsConfig::new(vec![taken]))
        .await
        .unwrap_err();
    assert!(matches!(
        error,
        DnsError::Bind {
            transport: "UDP",
            ..
        }
    ));
    assert!(error.to_string().contains(&taken.to_string()));
    let nothing = DnsServer::bind(&DnsConfig::new(vec![])).await.unwrap_err();
    assert!(matches!(nothing, DnsError::NothingToListenOn));
}

#[tokio::test]
async fn dig_understands_the_answers() {
    let server = Server::start(&[]).await;
    let dig = async |arguments: &str| {
        let mut command = tokio::process::Command::new("dig");
        command.arg(format!("@{}", server.address.ip()));
        command.args([
            "-p",
            &server.address.port().to_string(),
            "+time=10",
            "+tries=1",
        ]);
        command.args(arguments.split(' '));
        let output = command.output().await.ok()?;
        Some(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let Some(short) = dig("+short orders.shop.global A").await else {
        skipped(
            "dig_understands_the_answers",
            "no dig; tests/run installs it",
        );
        return server.stop().await;
    };
    assert_eq!(short, "240.241.0.2\n");
    let many = dig("+short many.shop.svc.clusterset.local A")
        .await
        .unwrap();
    assert_eq!(
        many.lines()
            .filter(|line| line.starts_with("10.0.0."))
            .count(),
        200
    );
    let missing = dig("nobody.shop.svc.clusterset.local AAAA").await.unwrap();
    assert!(missing.contains("status: NXDOMAIN") && missing.contains("EDNS: version: 0"));
    assert!(missing.contains("SOA") && missing.contains(" aa"));
    let version = dig("+tcp +short dns-version.clusterset.local TXT")
        .await
        .unwrap();
    assert_eq!(version, "\"1.0.0\"\n");
    server.stop().await;
}

#[tokio::test]
async fn a_flood_of_connections_is_bounded_and_passes() {
    let server = Server::start(&[]).await;
    let mut idle = Vec::new();
    for _ in 0..300 {
        idle.push(TcpStream::connect(server.address).await.unwrap());
    }
    // Those beyond the bound are closed at once.
    let closed = AtomicUsize::new(0);
    for stream in &mut idle[256..] {
        let mut byte = [0];
        if timeout(PATIENCE, stream.read(&mut byte))
            .await
            .unwrap()
            .is_ok_and(|read| read == 0)
        {
            closed.fetch_add(1, Ordering::Relaxed);
        }
    }
    assert!(closed.load(Ordering::Relaxed) > 0);
    let reply = server
        .over_udp(&query("orders.shop.global", RecordType::A))
        .await;
    assert_eq!(addresses(&reply), ["240.241.0.2"]);
    drop(idle);
    server.stop().await;
}

#[derive(Default)]
struct Counted(Mutex<Vec<(AnswerKind, u8)>>);

impl Observer for Counted {
    fn on_answer(&self, kind: AnswerKind, rcode: u8, _latency: Duration) {
        self.0.lock().unwrap().push((kind, rcode));
    }
}

struct Server {
    address: SocketAddr,
    snapshot: Arc<ArcSwap<Snapshot>>,
    counted: Arc<Counted>,
    stop: oneshot::Sender<()>,
    running: JoinHandle<Result<(), DnsError>>,
}

impl Server {
    async fn start(forward: &[SocketAddr]) -> Self {
        let mut config = DnsConfig::new(vec!["127.0.0.1:0".parse().unwrap()]);
        config.resolv_conf = "/nonexistent".into();
        config.forward = forward.to_vec();
        Self::start_with(&config).await
    }

    async fn start_with(config: &DnsConfig) -> Self {
        let (server, addresses) = DnsServer::bind(config).await.unwrap();
        let snapshot = Arc::new(ArcSwap::from_pointee(snapshot()));
        let counted = Arc::new(Counted::default());
        let (stop, stopped) = oneshot::channel();
        let shutdown = async move { stopped.await.unwrap() };
        let running = tokio::spawn(server.run(snapshot.clone(), counted.clone(), shutdown));
        Self {
            address: addresses[0],
            snapshot,
            counted,
            stop,
            running,
        }
    }

    async fn over_udp(&self, question: &Message) -> Message {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.connect(self.address).await.unwrap();
        socket.send(&question.to_vec().unwrap()).await.unwrap();
        let mut buffer = vec![0; 65_535];
        let length = timeout(PATIENCE, socket.recv(&mut buffer))
            .await
            .unwrap()
            .unwrap();
        let limit = question.edns.as_ref().map_or(512, Edns::max_payload);
        assert!(length <= usize::from(limit));
        reply_to(question, &buffer[..length])
    }

    async fn over_tcp(&self, question: &Message) -> Message {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(&framed(question)).await.unwrap();
        read_framed(&mut stream).await
    }

    async fn stop(self) {
        self.stop.send(()).unwrap();
        timeout(PATIENCE, self.running)
            .await
            .unwrap()
            .unwrap()
            .unwrap();
    }
}

/// A resolver that knows one address, and tells another one over TCP.
struct Upstream {
    address: SocketAddr,
    tasks: [JoinHandle<()>; 2],
}

impl Upstream {
    async fn start() -> Self {
        let (socket, listener) = both_transports().await;
        let address = socket.local_addr().unwrap();
        let udp = tokio::spawn(async move {
            let mut buffer = vec![0; 4096];
            loop {
                let (length, client) = socket.recv_from(&mut buffer).await.unwrap();
                let reply = upstream_reply(&buffer[..length], 1);
                // Something that answers nothing comes first.
                socket.send_to(b"noise", client).await.unwrap();
                socket.send_to(&reply, client).await.unwrap();
            }
        });
        let tcp = tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let length = stream.read_u16().await.unwrap();
                let mut query = vec![0; length.into()];
                stream.read_exact(&mut query).await.unwrap();
                let reply = upstream_reply(&query, 2);
                stream
                    .write_u16(u16::try_from(reply.len()).unwrap())
                    .await
                    .unwrap();
                stream.write_all(&reply).await.unwrap();
            }
        });
        Self {
            address,
            tasks: [udp, tcp],
        }
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

fn upstream_reply(query: &[u8], last: u8) -> Vec<u8> {
    let query = Message::from_vec(query).unwrap();
    let mut reply = Message::new(query.metadata.id, MessageType::Response, OpCode::Query);
    let name = query.queries[0].name().clone();
    reply.add_query(query.queries[0].clone());
    let address = RData::A(A(Ipv4Addr::new(192, 0, 2, last)));
    reply.add_answer(Record::from_rdata(name.clone(), 60, address));
    let unknown = RData::Unknown {
        code: RecordType::Unknown(65_280),
        rdata: hickory_proto::rr::rdata::NULL::with(vec![1, 2, 3]),
    };
    reply.add_additional(Record::from_rdata(name, 60, unknown));
    reply.to_vec().unwrap()
}

fn query(name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(4711, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(
        Name::from_ascii(format!("{name}.")).unwrap(),
        kind,
    ));
    message
}

fn framed(message: &Message) -> Vec<u8> {
    let bytes = message.to_vec().unwrap();
    let length = u16::try_from(bytes.len()).unwrap();
    [&length.to_be_bytes(), bytes.as_slice()].concat()
}

async fn read_framed(stream: &mut TcpStream) -> Message {
    let length = timeout(PATIENCE, stream.read_u16()).await.unwrap().unwrap();
    let mut bytes = vec![0; length.into()];
    timeout(PATIENCE, stream.read_exact(&mut bytes))
        .await
        .unwrap()
        .unwrap();
    Message::from_vec(&bytes).unwrap()
}

fn reply_to(question: &Message, bytes: &[u8]) -> Message {
    let reply = Message::from_vec(bytes).unwrap();
    assert_eq!(reply.metadata.message_type, MessageType::Response);
    assert_eq!(reply.metadata.id, question.metadata.id);
    assert_eq!(reply.queries, question.queries);
    reply
}

fn addresses(reply: &Message) -> Vec<String> {
    reply
        .answers
        .iter()
        .map(|record| record.data.to_string())
        .collect()
}

/// One free port for UDP and TCP: what is free for the one may be taken for the other.
async fn both_transports() -> (UdpSocket, TcpListener) {
    loop {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        match TcpListener::bind(socket.local_addr().unwrap()).await {
            Ok(listener) => return (socket, listener),
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse, "{error}"),
        }
    }
}

/// Nobody listens there: no other process uses this address, not even for a connection of its own.
fn closed_address() -> SocketAddr {
    let [.., high, low] = std::process::id().to_be_bytes();
    std::net::UdpSocket::bind((Ipv4Addr::new(127, 96, high, low), 0))
        .unwrap()
        .local_addr()
        .unwrap()
}

/// `shop/orders` with a virtual IP, and `shop/many`, headless with 200 hosts.
fn snapshot() -> Snapshot {
    let orders = Service {
        key: "shop/orders".parse().unwrap(),
        kind: ServiceKind::Virtual,
        ports: vec![],
        vips: Vips {
            set: vec!["240.241.0.2".parse().unwrap()],
            ..Vips::default()
        },
        imported: true,
        local: None,
        remote: vec![],
        traffic: portolan_model::traffic::Traffic::default(),
    };
    let many = Service {
        key: "shop/many".parse().unwrap(),
        kind: ServiceKind::Headless,
        local: Some(LocalBackend {
            ports: vec![],
            endpoints: (0..200).map(endpoint).collect(),
            exported: portolan_model::declared::ExportTo::Everyone,
        }),
        ..orders.clone()
    };
    let mesh = Mesh {
        cluster: ClusterIdentity {
            name: "eu".parse().unwrap(),
            set: "acme".parse().unwrap(),
            region: "r".parse().unwrap(),
            zones: vec![],
            trust_domain: "eu.acme".parse().unwrap(),
        },
        gateways: vec![],
        control: vec![],
        peers: vec![],
    };
    let mut snapshot = Snapshot {
        generation: 1,
        mesh: Some(Arc::new(mesh)),
        ..Snapshot::default()
    };
    for service in [orders, many] {
        snapshot
            .services
            .insert(service.key.clone(), Arc::new(service));
    }
    snapshot.index();
    snapshot
}

fn endpoint(last: u8) -> Endpoint {
    let address = IpAddr::V4(Ipv4Addr::new(10, 0, 0, last));
    Endpoint {
        workload: format!("shop/w{last}").parse().unwrap(),
        address,
        inbound: SocketAddr::new(address, 1),
        identity: "spiffe://eu.acme/ns/shop/sa/many".parse().unwrap(),
        locality: Locality {
            region: "r".parse().unwrap(),
            zone: None,
        },
        weight: 1,
        ready: true,
        hostname: None,
        ports: [].into(),
    }
}
