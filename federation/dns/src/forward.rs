//! Everything that is not ours: passed on to other resolvers, and their answers back, byte for byte.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::error::DnsError;
use crate::message::{HEADER_BYTES, TCP_BYTES_MAX, Transport, question_end};

/// The most resolvers that are used; as many as resolv.conf(5) knows.
const UPSTREAMS_MAX: usize = 3;
/// The most questions that wait for resolvers at once.
const IN_FLIGHT_MAX: usize = 512;
const UPSTREAM_TIMEOUT: Duration = Duration::from_secs(2);
/// The longest answer taken over UDP.
const UDP_BYTES_MAX: usize = 4096;
/// How many datagrams that are not the answer may arrive while one waits for it.
const STRAY_DATAGRAMS_MAX: usize = 16;
const DNS_PORT: u16 = 53;

/// Why there is no answer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum NoAnswer {
    /// There is nobody to ask.
    NoUpstream,
    /// Too many wait already.
    Overloaded,
    /// Nobody answered.
    Failed,
}

/// Asks the configured resolvers.
#[derive(Debug)]
pub(crate) struct Forwarder {
    upstreams: Vec<SocketAddr>,
    /// Whom to ask first: the one that answered last.
    preferred: AtomicUsize,
    in_flight: Semaphore,
}

impl Forwarder {
    /// Asks `upstreams`, but never one of `own`, where we listen ourselves: that would be a loop.
    pub(crate) fn new(upstreams: &[SocketAddr], own: &[SocketAddr]) -> Self {
        let (loops, mut upstreams): (Vec<_>, Vec<_>) = upstreams
            .iter()
            .copied()
            .partition(|upstream| is_own(*upstream, own));
        if !loops.is_empty() {
            tracing::warn!(
                ?loops,
                "these resolvers are this DNS server itself and are not asked"
            );
        }
        upstreams.truncate(UPSTREAMS_MAX);
        Self {
            upstreams,
            preferred: AtomicUsize::new(0),
            in_flight: Semaphore::new(IN_FLIGHT_MAX),
        }
    }

    /// Asks one resolver after the other, and returns the first reply as it came (with our client's
    /// message number). `query` must be a query with one question.
    pub(crate) async fn ask(
        &self,
        query: &[u8],
        transport: Transport,
    ) -> Result<Vec<u8>, NoAnswer> {
        if self.upstreams.is_empty() {
            return Err(NoAnswer::NoUpstream);
        }
        let Ok(_place) = self.in_flight.try_acquire() else {
            return Err(NoAnswer::Overloaded);
        };
        let first = self.preferred.load(Ordering::Relaxed);
        for turn in 0..self.upstreams.len() {
            let index = (first + turn) % self.upstreams.len();
            let upstream = self.upstreams[index];
            let id = rand::random::<[u8; 2]>();
            let asked = renumbered(query, id);
            let exchange = async {
                match transport {
                    Transport::Udp => ask_udp(upstream, &asked).await,
                    Transport::Tcp => ask_tcp(upstream, &asked).await,
                }
            };
            match timeout(UPSTREAM_TIMEOUT, exchange).await {
                Ok(Ok(reply)) => {
                    self.preferred.store(index, Ordering::Relaxed);
                    return Ok(renumbered(&reply, [query[0], query[1]]));
                }
                Ok(Err(error)) => tracing::debug!(%upstream, %error, "a resolver failed"),
                Err(_elapsed) => tracing::debug!(%upstream, "a resolver did not answer in time"),
            }
        }
        Err(NoAnswer::Failed)
    }
}

/// The resolvers that a resolv.conf(5) names; none when there is no such file.
pub(crate) fn system_upstreams(path: &Path) -> Result<Vec<SocketAddr>, DnsError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(nameservers(&text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(source) => Err(DnsError::ResolvConf {
            path: path.to_owned(),
            source,
        }),
    }
}

fn nameservers(text: &str) -> Vec<SocketAddr> {
    text.lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            (words.next()? == "nameserver").then_some(())?;
            let address: IpAddr = words.next()?.parse().ok()?;
            Some(SocketAddr::new(address, DNS_PORT))
        })
        .collect()
}

/// Whether asking `upstream` means asking ourselves.
fn is_own(upstream: SocketAddr, own: &[SocketAddr]) -> bool {
    own.iter().any(|listen| {
        let same_port = listen.port() == upstream.port();
        let covers = listen.ip() == upstream.ip()
            || upstream.ip().is_unspecified()
            || (listen.ip().is_unspecified() && is_local(upstream.ip()));
        same_port && covers
    })
}

/// Only an address of this host can be bound.
fn is_local(address: IpAddr) -> bool {
    std::net::UdpSocket::bind(SocketAddr::new(address, 0)).is_ok()
}

async fn ask_udp(upstream: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
    let any = match upstream {
        SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    // A socket of its own: its random port and the random message number together are what an
    // attacker has to guess; being connected, it takes datagrams from that resolver only.
    let socket = UdpSocket::bind(SocketAddr::new(any, 0)).await?;
    socket.connect(upstream).await?;
    socket.send(query).await?;
    let mut buffer = vec![0; UDP_BYTES_MAX];
    for _ in 0..STRAY_DATAGRAMS_MAX {
        let length = socket.recv(&mut buffer).await?;
        if answers(query, &buffer[..length]) {
            buffer.truncate(length);
            return Ok(buffer);
        }
    }
    Err(io::Error::new(
        io::ErrorKind::InvalidData,
        "too many datagrams that answer nothing",
    ))
}

async fn ask_tcp(upstream: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(upstream).await?;
    stream.write_all(&framed(query)).await?;
    let length = usize::from(stream.read_u16().await?);
    let mut reply = vec![0; length];
    stream.read_exact(&mut reply).await?;
    if answers(query, &reply) {
        Ok(reply)
    } else {
        Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the reply belongs to another question",
        ))
    }
}

/// A message as TCP carries it, behind its length.
pub(crate) fn framed(message: &[u8]) -> Vec<u8> {
    let message = &message[..message.len().min(TCP_BYTES_MAX)];
    let length = u16::try_from(message.len()).unwrap_or(u16::MAX);
    let mut framed = Vec::with_capacity(2 + message.len());
    framed.extend_from_slice(&length.to_be_bytes());
    framed.extend_from_slice(message);
    framed
}

/// Whether `reply` is a reply to the very question of `query`.
fn answers(query: &[u8], reply: &[u8]) -> bool {
    if reply.len() < HEADER_BYTES || reply[..2] != query[..2] || reply[2] & 0x80 == 0 {
        return false;
    }
    let (Some(end), Some(reply_end)) = (question_end(query), question_end(reply)) else {
        // Some resolvers leave the question out of refusals.
        return reply[4..6] == [0, 0] && reply[3] & 0x0F != 0;
    };
    query[HEADER_BYTES..end].eq_ignore_ascii_case(&reply[HEADER_BYTES..reply_end])
}

fn renumbered(message: &[u8], id: [u8; 2]) -> Vec<u8> {
    let mut message = message.to_vec();
    message[..2].copy_from_slice(&id);
    message
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn resolv_conf_is_read_as_the_system_reads_it() {
        let text = "# comment\nsearch example.com\nnameserver 10.0.0.2\n nameserver\tfd00::2 \n\
                    nameserver fe80::1%eth0\noptions ndots:5\nnameserver\n";
        let expected = ["10.0.0.2:53", "[fd00::2]:53"].map(|text| text.parse().unwrap());
        assert_eq!(nameservers(text), expected);
        let missing = system_upstreams(Path::new("/nonexistent/resolv.conf"));
        assert_eq!(missing.unwrap(), []);
        let unreadable = system_upstreams(Path::new("/")).unwrap_err().to_string();
        assert!(unreadable.contains("dns.forward"));
    }

    #[test]
    fn our_own_addresses_are_never_asked() {
        let address = |text: &str| text.parse::<SocketAddr>().unwrap();
        let own = [address("127.0.0.9:53")];
        assert!(is_own(address("127.0.0.9:53"), &own));
        assert!(!is_own(address("127.0.0.9:54"), &own));
        assert!(!is_own(address("127.0.0.8:53"), &own));
        let everywhere = [address("0.0.0.0:53")];
        assert!(is_own(address("127.0.0.1:53"), &everywhere));
        assert!(!is_own(address("192.0.2.1:53"), &everywhere));
        let forwarder = Forwarder::new(&[own[0], address("192.0.2.1:53")], &own);
        assert_eq!(forwarder.upstreams, [address("192.0.2.1:53")]);
    }

    const QUERY: &[u8] = b"\x12\x34\x01\x00\0\x01\0\0\0\0\0\0\x01a\x02bc\0\0\x01\0\x01";

    #[test]
    fn only_a_reply_to_the_very_question_is_taken() {
        let mut reply = QUERY.to_vec();
        assert!(!answers(QUERY, &reply), "no reply at all");
        reply[2] |= 0x80;
        reply[13] = b'A';
        assert!(answers(QUERY, &reply), "the same name in another case");
        let changed = |at: usize, byte: u8| {
            let mut changed = reply.clone();
            changed[at] = byte;
            changed
        };
        assert!(!answers(QUERY, &changed(0, 9)), "another number");
        assert!(!answers(QUERY, &changed(13, b'x')), "another name");
        assert!(!answers(QUERY, &changed(19, 28)), "another type");
        assert!(!answers(QUERY, &reply[..11]));
        let refusal = b"\x12\x34\x80\x05\0\0\0\0\0\0\0\0";
        assert!(answers(QUERY, refusal));
    }

    proptest! {
        #[test]
        fn judging_replies_never_panics(reply in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = answers(QUERY, &reply);
        }
    }
}
