//! Links between gateways: QUIC connections with gateway identities, one stream per tunnel.
//! This file and those below it are the only ones that name the QUIC library.
//!
//! Each worker has its own [`LinkEndpoint`]. It accepts on an address that the workers share, where
//! the kernel hands each caller's packets to one of them by the caller's address; and it dials from
//! a socket of its own, since answers to a shared address could reach another worker.
//!
//! Who accepts a link greets with one byte on a stream of its own, once it has judged the caller.
//! So [`LinkEndpoint::dial`] knows that both sides accepted each other.

mod error;
mod settings;
mod socket;
mod tunnel;
mod twice;

use std::fmt;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use portolan_model::{IdentityKind, SpiffeId};
use quinn::congestion::{BbrConfig, ControllerFactory, CubicConfig, NewRenoConfig};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{IdleTimeout, VarInt};
use rustls_pki_types::CertificateDer;
use tokio::time::timeout;

use crate::listen::udp_reuseport;
use crate::mtls::{ClientAuth, Expect, TlsContext};

use error::{ended, link_end, link_error, unusable};
use socket::Socket;
use twice::TwiceSocket;

pub use error::{LinkEnd, LinkError};
pub use settings::{Congestion, INCOMING_MAX, LinkSettings, TUNNELS_MAX};
pub use tunnel::Tunnel;

/// The protocol of links.
pub const ALPN: &[u8] = b"portolan-link/1";

/// The largest UDP payload. Ten of these still fit into one send with segmentation offload.
pub const PAYLOAD_MAX: u16 = 6550;

/// How much longer than the shortest, and a quarter of that, a round trip may take where packets are sent
/// twice.
const QUEUED_MAX: Duration = Duration::from_millis(5);
/// How many packets must overtake another before it counts as lost: so many that time decides first (an eighth
/// of a round trip more than one, RFC 9002 §6.1.2), so that a packet whose copy arrives in that time is not lost.
const OVERTAKING_MAX: u32 = 1_024;

/// The name in a link's ClientHello. Nobody routes by it.
const SERVER_NAME: &str = "link.portolan.internal";
const GREETING: u8 = 1;
const CLOSED: VarInt = VarInt::from_u32(0);

/// What has a socket.
#[derive(Clone)]
struct End {
    endpoint: quinn::Endpoint,
    socket: Arc<TwiceSocket>,
}

/// A worker's end of all its links.
#[derive(Clone)]
pub struct LinkEndpoint {
    accepting: End,
    dialling: End,
    tls: TlsContext,
    settings: Arc<LinkSettings>,
}

impl LinkEndpoint {
    /// Accepts links on `addr` (shared with the other workers) from gateways that `allow` accepts,
    /// asked in each handshake. Call it inside the worker's runtime.
    ///
    /// # Errors
    /// When the address cannot be had or a setting is out of range.
    pub fn bind(
        addr: SocketAddr,
        tls: &TlsContext,
        settings: LinkSettings,
        allow: impl Fn(&SpiffeId) -> bool + Send + Sync + 'static,
    ) -> Result<Self, LinkError> {
        let gateways = Expect::Where(Arc::new(move |id| {
            matches!(id.kind(), IdentityKind::Gateway { .. }) && allow(id)
        }));
        let crypto = tls.server_config(&[ALPN], ClientAuth::Only(gateways));
        let crypto = QuicServerConfig::try_from(crypto).map_err(unusable)?;
        let mut server = quinn::ServerConfig::with_crypto(Arc::new(crypto));
        server.transport_config(Arc::new(transport(&settings, Role::Accepts)?));
        server.max_incoming(INCOMING_MAX);

        let bind = |addr, server| {
            endpoint(addr, &settings, server).map_err(|source| LinkError::Bind { addr, source })
        };
        Ok(Self {
            accepting: bind(addr, Some(server))?,
            dialling: bind(SocketAddr::new(addr.ip(), 0), None)?,
            tls: tls.clone(),
            settings: Arc::new(settings),
        })
    }

    /// Where links are accepted.
    ///
    /// # Errors
    /// When the socket is gone.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.accepting.endpoint.local_addr()
    }

    /// Dials a gateway. The link is returned when both sides accepted each other.
    ///
    /// # Errors
    /// When the peer is silent, or one side refuses the other.
    pub async fn dial(&self, addr: SocketAddr, expect: Expect) -> Result<Link, LinkError> {
        let limit = self.settings.dial_timeout;
        timeout(limit, self.dial_unlimited(addr, expect))
            .await
            .map_err(|_| LinkError::Timeout { addr, limit })?
    }

    async fn dial_unlimited(&self, addr: SocketAddr, expect: Expect) -> Result<Link, LinkError> {
        let crypto = self.tls.client_config(expect, &[ALPN], true);
        let crypto = QuicClientConfig::try_from(crypto).map_err(unusable)?;
        let mut config = quinn::ClientConfig::new(Arc::new(crypto));
        config.transport_config(Arc::new(transport(&self.settings, Role::Dials)?));
        let connection = self
            .dialling
            .endpoint
            .connect_with(config, addr, SERVER_NAME)
            .map_err(unusable)?
            .await
            .map_err(link_error)?;
        let mut greeting = connection.accept_uni().await.map_err(link_error)?;
        let mut byte = [0];
        greeting
            .read_exact(&mut byte)
            .await
            .map_err(|_| ended(&connection))?;
        Link::new(connection, true, &self.settings, &self.dialling.socket)
    }

    /// The next peer that dials; `None` once the endpoint is closed. Establish it in a task of its
    /// own, so that a slow peer delays nobody.
    pub async fn accept(&self) -> Option<IncomingLink> {
        let incoming = self.accepting.endpoint.accept().await?;
        Some(IncomingLink {
            incoming,
            settings: self.settings.clone(),
            socket: self.accepting.socket.clone(),
        })
    }

    /// Closes all links, and waits until the peers know or `limit` passed.
    pub async fn close(&self, reason: &str, limit: Duration) {
        let both = [&self.accepting.endpoint, &self.dialling.endpoint];
        for endpoint in both {
            endpoint.close(CLOSED, reason.as_bytes());
        }
        let idle = async {
            for endpoint in both {
                endpoint.wait_idle().await;
            }
        };
        // Peers that did not hear it find out by themselves.
        let _ = timeout(limit, idle).await;
    }
}

/// A peer that dials.
pub struct IncomingLink {
    incoming: quinn::Incoming,
    settings: Arc<LinkSettings>,
    socket: Arc<TwiceSocket>,
}

impl IncomingLink {
    /// From where it dials.
    #[must_use]
    pub fn remote_addr(&self) -> SocketAddr {
        self.incoming.remote_address()
    }

    /// Asks the caller to prove that it has the address it writes from, which costs it one round
    /// trip and us nothing: it dials again by itself. Answers the link only if it has done so.
    #[must_use]
    pub fn proved(self) -> Option<Self> {
        if self.incoming.remote_address_validated() {
            return Some(self);
        }
        // It may be asked as long as it has not proved its address.
        let _ = self.incoming.retry();
        None
    }

    /// Completes the handshake and greets.
    ///
    /// # Errors
    /// When the peer falls silent, or one side refuses the other.
    pub async fn establish(self) -> Result<Link, LinkError> {
        let addr = self.remote_addr();
        let limit = self.settings.dial_timeout;
        let handshake = async {
            let connection = self.incoming.await.map_err(link_error)?;
            let mut greeting = connection.open_uni().await.map_err(link_error)?;
            greeting
                .write_all(&[GREETING])
                .await
                .map_err(|_| ended(&connection))?;
            Link::new(connection, false, &self.settings, &self.socket)
        };
        timeout(limit, handshake)
            .await
            .map_err(|_| LinkError::Timeout { addr, limit })?
    }
}

/// A live connection to one of a peer's gateways. Clones are the same link; it closes when the last
/// one and all its tunnels are dropped.
#[derive(Clone)]
pub struct Link {
    connection: quinn::Connection,
    peer: SpiffeId,
    chain: Arc<[CertificateDer<'static>]>,
    dialled: bool,
    open: Arc<AtomicUsize>,
    open_timeout: Duration,
    twice: Arc<Twice>,
}

/// Sends a link's packets twice, or not.
struct Twice {
    socket: Arc<TwiceSocket>,
    to: SocketAddr,
    copies: Arc<AtomicU64>,
}

impl Drop for Twice {
    fn drop(&mut self) {
        self.socket.end(self.to);
    }
}

/// What is known of a link's path and use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkStats {
    /// The round trip, smoothed.
    pub rtt: Duration,
    /// Packets sent since the link was established.
    pub sent_packets: u64,
    /// Packets among them that were lost.
    pub lost_packets: u64,
    /// Copies of packets that were sent besides.
    pub copied_packets: u64,
    /// Bytes received in UDP payloads.
    pub received_bytes: u64,
    /// The largest UDP payload that the path carries.
    pub payload_max: u16,
}

impl Link {
    fn new(
        connection: quinn::Connection,
        dialled: bool,
        settings: &LinkSettings,
        socket: &Arc<TwiceSocket>,
    ) -> Result<Self, LinkError> {
        let chain = connection
            .peer_identity()
            .and_then(|chain| chain.downcast::<Vec<CertificateDer<'static>>>().ok())
            .unwrap_or_default();
        let leaf = chain.first();
        let leaf = leaf.ok_or_else(|| LinkError::Peer("it presented no certificate".to_owned()))?;
        let peer = portolan_trust::identity_of(leaf);
        Ok(Self {
            peer: peer.map_err(|error| LinkError::Peer(error.to_string()))?,
            chain: (*chain).into(),
            twice: Arc::new(Twice {
                socket: Arc::clone(socket),
                to: connection.remote_address(),
                copies: Arc::default(),
            }),
            connection,
            dialled,
            open: Arc::default(),
            open_timeout: settings.open_timeout,
        })
    }

    /// Who is at the other end, as verified in the handshake.
    #[must_use]
    pub fn peer_id(&self) -> &SpiffeId {
        &self.peer
    }

    /// The certificates that the other end presented, leaf first: to judge a live link again when the
    /// trust bundle changed.
    #[must_use]
    pub fn peer_chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    /// Whether this side dialled.
    #[must_use]
    pub fn is_dialled(&self) -> bool {
        self.dialled
    }

    /// Where the other end is.
    #[must_use]
    pub fn remote_addr(&self) -> SocketAddr {
        self.connection.remote_address()
    }

    /// The round trip, smoothed.
    #[must_use]
    pub fn rtt(&self) -> Duration {
        self.connection.rtt()
    }

    /// How many tunnels are open, whoever opened them.
    #[must_use]
    pub fn load(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// What is known of the path.
    #[must_use]
    pub fn stats(&self) -> LinkStats {
        let stats = self.connection.stats();
        LinkStats {
            rtt: stats.path.rtt,
            sent_packets: stats.path.sent_packets,
            lost_packets: stats.path.lost_packets,
            copied_packets: self.twice.copies.load(Ordering::Relaxed),
            received_bytes: stats.udp_rx.bytes,
            payload_max: stats.path.current_mtu,
        }
    }

    /// Whether packets are sent twice from now on, a few milliseconds apart, so that few that are lost
    /// delay anything. Copies take only what congestion control leaves of its window, and what is large is
    /// sent once: call it again and again, since the window changes.
    pub fn send_twice(&self, twice: bool) {
        let Twice { socket, to, copies } = &*self.twice;
        if !twice {
            return socket.end(*to);
        }
        let path = self.connection.stats().path;
        // Where packets queue, copies would make others lose.
        if path.rtt > path.min_rtt + path.min_rtt / 4 + QUEUED_MAX {
            return socket.end(*to);
        }
        socket.begin(*to, path.cwnd, path.rtt, copies);
    }

    /// Opens a tunnel. The peer learns of it with the first byte that is written.
    ///
    /// # Errors
    /// When the link ended or has no room.
    pub async fn open_tunnel(&self) -> Result<Tunnel, LinkError> {
        let (send, recv) = timeout(self.open_timeout, self.connection.open_bi())
            .await
            .map_err(|_| LinkError::Busy)?
            .map_err(link_error)?;
        Ok(Tunnel::new(send, recv, self.open.clone()))
    }

    /// The next tunnel that the peer opens.
    ///
    /// # Errors
    /// When the link ended.
    pub async fn accept_tunnel(&self) -> Result<Tunnel, LinkError> {
        let (send, recv) = self.connection.accept_bi().await.map_err(link_error)?;
        Ok(Tunnel::new(send, recv, self.open.clone()))
    }

    /// Waits until the link ended.
    pub async fn closed(&self) -> LinkEnd {
        link_end(&self.connection.closed().await)
    }

    /// Why the link ended, if it did.
    #[must_use]
    pub fn close_reason(&self) -> Option<LinkEnd> {
        self.connection.close_reason().as_ref().map(link_end)
    }

    /// Closes the link and cuts its tunnels. The peer is told the reason.
    pub fn close(&self, reason: &str) {
        self.connection.close(CLOSED, reason.as_bytes());
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Link({} at {})", self.peer, self.remote_addr())
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Dials,
    Accepts,
}

fn endpoint(
    addr: SocketAddr,
    settings: &LinkSettings,
    server: Option<quinn::ServerConfig>,
) -> io::Result<End> {
    let socket = Socket::new(udp_socket(addr, settings.socket_buffer)?)?;
    let socket = TwiceSocket::new(Arc::new(socket));
    let mut config = quinn::EndpointConfig::default();
    config
        .max_udp_payload_size(PAYLOAD_MAX)
        .map_err(io::Error::other)?;
    let runtime = Arc::new(quinn::TokioRuntime);
    let endpoint =
        quinn::Endpoint::new_with_abstract_socket(config, server, socket.clone(), runtime)?;
    Ok(End { endpoint, socket })
}

fn udp_socket(addr: SocketAddr, buffer: usize) -> io::Result<UdpSocket> {
    let socket = udp_reuseport(addr)?;
    let settable = socket2::SockRef::from(&socket);
    settable.set_recv_buffer_size(buffer)?;
    settable.set_send_buffer_size(buffer)?;
    Ok(socket)
}

fn transport(settings: &LinkSettings, role: Role) -> Result<quinn::TransportConfig, LinkError> {
    let controller: Arc<dyn ControllerFactory + Send + Sync> = match settings.congestion {
        Congestion::Cubic => Arc::new(CubicConfig::default()),
        Congestion::Bbr => Arc::new(BbrConfig::default()),
        Congestion::NewReno => Arc::new(NewRenoConfig::default()),
    };
    let mut mtu = quinn::MtuDiscoveryConfig::default();
    mtu.upper_bound(PAYLOAD_MAX);
    let greetings = match role {
        Role::Dials => VarInt::from_u32(1),
        Role::Accepts => VarInt::from_u32(0),
    };
    let idle = IdleTimeout::try_from(settings.idle_timeout).map_err(unusable)?;
    let mut transport = quinn::TransportConfig::default();
    transport
        .max_idle_timeout(Some(idle))
        .keep_alive_interval(Some(settings.keep_alive))
        .initial_rtt(settings.initial_rtt)
        .max_concurrent_bidi_streams(VarInt::from_u32(TUNNELS_MAX))
        .max_concurrent_uni_streams(greetings)
        .receive_window(VarInt::from_u32(settings.link_window))
        .stream_receive_window(VarInt::from_u32(settings.tunnel_window))
        .send_window(u64::from(settings.link_window))
        .mtu_discovery_config(Some(mtu))
        .datagram_receive_buffer_size(None)
        .packet_threshold(OVERTAKING_MAX)
        .congestion_controller_factory(controller);
    Ok(transport)
}

#[cfg(test)]
mod tests;
