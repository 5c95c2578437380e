//! Listening on UDP and TCP.

mod tcp;
mod udp;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;
use hickory_proto::op::ResponseCode;
use portolan_model::snapshot::Snapshot;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tokio::net::{TcpListener, UdpSocket};
use tokio::task::JoinSet;

use crate::answer::{Answer, answer};
use crate::config::DnsConfig;
use crate::error::DnsError;
use crate::forward::{Forwarder, NoAnswer, system_upstreams};
use crate::message::{Asked, Received, Sections, Transport, rcode, read};
use crate::observe::{AnswerKind, Observer};
use crate::zone::ZoneSettings;

/// How many connections may wait to be accepted.
const BACKLOG: i32 = 128;
/// How often a port is looked for that is free for UDP and TCP alike.
const BIND_TRIES_MAX: usize = 16;

/// A DNS server whose sockets are bound.
#[derive(Debug)]
pub struct DnsServer {
    sockets: Vec<(SocketAddr, UdpSocket, TcpListener)>,
    zones: ZoneSettings,
    forwarder: Forwarder,
}

impl DnsServer {
    /// Binds every address of the configuration, UDP and TCP, and reports them: port 0 becomes a
    /// port that the system chose, the same for both.
    ///
    /// # Errors
    /// When an address cannot be bound, or the configuration makes no sense.
    pub async fn bind(config: &DnsConfig) -> Result<(Self, Vec<SocketAddr>), DnsError> {
        if config.listen.is_empty() {
            return Err(DnsError::NothingToListenOn);
        }
        let zones = config.zones()?;
        let sockets = config
            .listen
            .iter()
            .map(|address| bind_both(*address))
            .collect::<Result<Vec<_>, _>>()?;
        let addresses: Vec<SocketAddr> = sockets.iter().map(|(address, ..)| *address).collect();
        let upstreams = if config.forward.is_empty() {
            system_upstreams(&config.resolv_conf)?
        } else {
            config.forward.clone()
        };
        let forwarder = Forwarder::new(&upstreams, &addresses);
        let server = Self {
            sockets,
            zones,
            forwarder,
        };
        Ok((server, addresses))
    }

    /// Serves from whatever snapshot is current, until `shutdown` completes.
    ///
    /// # Errors
    /// When a socket fails for good.
    pub async fn run(
        self,
        snapshot: Arc<ArcSwap<Snapshot>>,
        observer: Arc<dyn Observer>,
        shutdown: impl Future<Output = ()> + Send,
    ) -> Result<(), DnsError> {
        let responder = Arc::new(Responder {
            snapshot,
            zones: self.zones,
            forwarder: self.forwarder,
            observer,
        });
        let mut listeners = JoinSet::new();
        for (address, datagrams, connections) in self.sockets {
            listeners.spawn(udp::serve(address, datagrams, Arc::clone(&responder)));
            listeners.spawn(tcp::serve(address, connections, Arc::clone(&responder)));
        }
        let ended = tokio::select! {
            () = shutdown => Ok(()),
            // Listeners only end by failing.
            Some(ended) = listeners.join_next() => ended.unwrap_or_else(|source| Err(DnsError::Ended { source })),
        };
        // When this returns, the sockets are closed: another server on the same address gets all queries.
        listeners.shutdown().await;
        ended
    }
}

/// What both transports share.
struct Responder {
    snapshot: Arc<ArcSwap<Snapshot>>,
    zones: ZoneSettings,
    forwarder: Forwarder,
    observer: Arc<dyn Observer>,
}

/// What becomes of a query.
enum Reply {
    /// This goes back at once.
    Ready(Vec<u8>),
    /// Somebody else must be asked first.
    Forward(Box<Asked>),
    /// Nothing.
    Silence,
}

impl Responder {
    /// Answers from memory, or says that the query must be forwarded.
    fn respond(&self, query: &[u8], transport: Transport, arrived: Instant) -> Reply {
        match read(query, transport) {
            Received::Ignored => Reply::Silence,
            Received::Refused(reply) => self.sent(AnswerKind::Refused, reply, arrived),
            Received::Asked(asked) => {
                let question = &asked.question;
                let snapshot = self.snapshot.load();
                let (name, kind) = (question.name(), question.query_type());
                match own_reply(&asked, answer(&snapshot, &self.zones, name, kind)) {
                    Some(reply) => self.sent(AnswerKind::Own, reply, arrived),
                    None => Reply::Forward(asked),
                }
            }
        }
    }

    /// Asks other resolvers.
    async fn forward(&self, query: &[u8], asked: &Asked, arrived: Instant) -> Vec<u8> {
        let (kind, reply) = match self.forwarder.ask(query, asked.transport()).await {
            Ok(reply) if reply.len() <= asked.reply_bytes_max() => (AnswerKind::Forwarded, reply),
            Ok(_too_long) => {
                let cut = asked.reply_truncated();
                (AnswerKind::Forwarded, cut)
            }
            Err(no_answer) => {
                let (kind, code) = match no_answer {
                    NoAnswer::NoUpstream => (AnswerKind::Refused, ResponseCode::Refused),
                    NoAnswer::Overloaded => (AnswerKind::Refused, ResponseCode::ServFail),
                    NoAnswer::Failed => (AnswerKind::Forwarded, ResponseCode::ServFail),
                };
                (kind, asked.reply(code, Sections::default()))
            }
        };
        self.observer
            .on_answer(kind, rcode(&reply), arrived.elapsed());
        reply
    }

    fn sent(&self, kind: AnswerKind, reply: Vec<u8>, arrived: Instant) -> Reply {
        self.observer
            .on_answer(kind, rcode(&reply), arrived.elapsed());
        Reply::Ready(reply)
    }
}

/// `None`: not ours to answer.
fn own_reply(asked: &Asked, answer: Answer) -> Option<Vec<u8>> {
    let negative = |soa| Sections {
        authorities: vec![soa],
        ..Sections::default()
    };
    Some(match answer {
        Answer::NotOurs => return None,
        Answer::NotReady => asked.reply(ResponseCode::ServFail, Sections::default()),
        Answer::NoData(soa) => asked.reply_own(ResponseCode::NoError, negative(*soa)),
        Answer::NxDomain(soa) => asked.reply_own(ResponseCode::NXDomain, negative(*soa)),
        Answer::Records {
            mut answers,
            additionals,
        } => {
            // Clients tend to take the first of several addresses: let the message's number choose.
            let turn = asked.turn() % answers.len().max(1);
            answers.rotate_left(turn);
            let sections = Sections {
                answers,
                additionals,
                ..Sections::default()
            };
            asked.reply_own(ResponseCode::NoError, sections)
        }
    })
}

fn bind_both(wanted: SocketAddr) -> Result<(SocketAddr, UdpSocket, TcpListener), DnsError> {
    let mut tries = BIND_TRIES_MAX;
    loop {
        let datagrams = bind_udp(wanted).map_err(|source| DnsError::Bind {
            address: wanted,
            transport: "UDP",
            source,
        })?;
        let bound = datagrams.local_addr().and_then(|address| {
            let connections = bind_tcp(address)?;
            Ok((address, connections))
        });
        tries -= 1;
        match bound {
            Ok((address, connections)) => return Ok((address, datagrams, connections)),
            // A port that is free for UDP may be taken for TCP: let the system choose another.
            Err(_taken) if wanted.port() == 0 && tries > 0 => {}
            Err(source) => {
                return Err(DnsError::Bind {
                    address: wanted,
                    transport: "TCP",
                    source,
                });
            }
        }
    }
}

fn bind_udp(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = shared_socket(address, Type::DGRAM, Protocol::UDP)?;
    UdpSocket::from_std(socket.into())
}

fn bind_tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = shared_socket(address, Type::STREAM, Protocol::TCP)?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

fn shared_socket(address: SocketAddr, kind: Type, protocol: Protocol) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    if kind == Type::STREAM {
        socket.set_reuse_address(true)?;
    }
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SockAddr::from(address))?;
    Ok(socket)
}
