//! A gateway that is who it says it is, and talks nonsense: it has the key and the certificates that its
//! cluster gave a real one, and breaks every rule of what is said on links that its peers accept.
//!
//! It is this program, started again as an ignored test, since the libraries of links are here.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use portolan_model::Reason;
use portolan_transport::mtls::{Expect, TlsContext};
use portolan_transport::quic::{Link, LinkEndpoint, LinkSettings, Tunnel};
use portolan_transport::wire::header::{Answer, PREFIX_LEN, StreamHeader, VERSION};
use portolan_trust::{Identity, TrustBundle};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UdpSocket;
use tokio::time::interval;

/// The identity of the gateway that it plays, the roots, where it listens, and whom it dials: between spaces.
const WORDS: &str = "PORTOLAN_HOSTILE";
/// What it says as soon as a peer accepted it.
pub(super) const LINKED: &str = "linked with";

/// How often it says something on each link, unasked.
const PACE: Duration = Duration::from_millis(20);
/// How many tunnels of its own it keeps open at a time, on each link.
const KEPT_MAX: usize = 64;
const NONSENSE_MAX: usize = 4_096;
const DATAGRAM_MAX: usize = 1_200;
/// The first bytes of a TLS record of 65,535 bytes, which is more than any may have.
const HUGE_RECORD: [u8; 5] = [22, 3, 3, 0xff, 0xff];

/// The program and its arguments.
pub(super) fn command(
    [identity, roots]: [&Path; 2],
    at: SocketAddr,
    peers: &[SocketAddr],
) -> (String, Vec<String>) {
    let mut words = format!("{WORDS}={} {} {at}", identity.display(), roots.display());
    for peer in peers {
        words.push_str(&format!(" {peer}"));
    }
    let program = std::env::current_exe().unwrap();
    let program = program.to_str().unwrap();
    let rest = [program, "hostile::talks_nonsense", "--exact", "--ignored"];
    let words = std::iter::once(words)
        .chain(rest.map(str::to_owned))
        .chain(["--nocapture".to_owned()]);
    ("env".to_owned(), words.collect())
}

#[test]
#[ignore = "a program that a scenario starts"]
fn talks_nonsense() {
    let Ok(words) = std::env::var(WORDS) else {
        return;
    };
    let mut words = words.split(' ');
    let mut read = || std::fs::read_to_string(words.next().unwrap()).unwrap();
    let identity = Identity::from_pem(&read()).unwrap();
    let roots = TrustBundle::from_pem(&read()).unwrap();
    let tls = TlsContext::new(Some(identity), roots).unwrap();
    let at = words.next().unwrap().parse().unwrap();
    let peers = words.map(|word| word.parse().unwrap()).collect();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.unwrap().block_on(run(&tls, at, peers));
}

async fn run(tls: &TlsContext, at: SocketAddr, peers: Vec<SocketAddr>) {
    let endpoint = LinkEndpoint::bind(at, tls, LinkSettings::default(), |_| true).unwrap();
    for peer in peers {
        tokio::spawn(dial(endpoint.clone(), peer));
        tokio::spawn(datagrams(at, peer));
    }
    while let Some(incoming) = endpoint.accept().await {
        tokio::spawn(async move {
            if let Ok(link) = incoming.establish().await {
                abuse(link).await;
            }
        });
    }
}

async fn dial(endpoint: LinkEndpoint, peer: SocketAddr) {
    let mut pace = interval(PACE);
    loop {
        pace.tick().await;
        if let Ok(link) = endpoint.dial(peer, Expect::Anybody).await {
            abuse(link).await;
        }
    }
}

/// Sends what is no packet of any link.
async fn datagrams(at: SocketAddr, peer: SocketAddr) {
    let socket = UdpSocket::bind((at.ip(), 0)).await.unwrap();
    let mut pace = interval(PACE);
    for number in 0_usize.. {
        pace.tick().await;
        let mut bytes = nonsense(1 + number * 7 % DATAGRAM_MAX);
        if number.is_multiple_of(2) {
            // It looks like the first packet of QUIC's version 1.
            let head = [0xc3, 0, 0, 0, 1];
            let length = head.len().min(bytes.len());
            bytes[..length].copy_from_slice(&head[..length]);
        }
        let _nobody_there = socket.send_to(&bytes, peer).await;
    }
}

/// Answers every tunnel wrongly and opens wrong ones, until the link ends.
async fn abuse(link: Link) {
    println!("{LINKED} {} at {}", link.peer_id(), link.remote_addr());
    let asking = tokio::spawn(ask(link.clone()));
    for number in 0_usize.. {
        let Ok(tunnel) = link.accept_tunnel().await else {
            break;
        };
        tokio::spawn(answer(tunnel, number));
    }
    asking.abort();
}

async fn answer(mut tunnel: Tunnel, number: usize) {
    let accepted = Answer::Accepted.encode();
    let refused = Answer::Refused(Reason::Overloaded).encode();
    let bytes = match number % 8 {
        0 => nonsense(NONSENSE_MAX),
        1 => accepted[..1].to_vec(),
        2 => [&accepted[..], &nonsense(NONSENSE_MAX)].concat(),
        3 => [&accepted[..], &HUGE_RECORD, &nonsense(NONSENSE_MAX)].concat(),
        4 => [&refused[..1], &[0xff], &nonsense(NONSENSE_MAX)].concat(),
        5 => Vec::new(),
        // As if an endpoint was there, which then says nothing.
        6 => return keep(tunnel, &accepted).await,
        _ => return keep(tunnel, &[]).await,
    };
    if tunnel.write_all(&bytes).await.is_ok() {
        let _gone = tunnel.shutdown().await;
    }
}

/// Says this and no more, for as long as the other side bears it.
async fn keep(mut tunnel: Tunnel, bytes: &[u8]) {
    if tunnel.write_all(bytes).await.is_ok() {
        let mut sink = tokio::io::sink();
        let _gone = tokio::io::copy(&mut tunnel, &mut sink).await;
    }
}

async fn ask(link: Link) {
    let mut pace = interval(PACE);
    let mut kept = Vec::new();
    for number in 0_usize.. {
        pace.tick().await;
        let Ok(mut tunnel) = link.open_tunnel().await else {
            return;
        };
        if tunnel.write_all(&question(&link, number)).await.is_err() {
            return;
        }
        match number % 3 {
            0 => kept.push(tunnel),
            1 => drop(tunnel),
            _ => {
                let _gone = tunnel.shutdown().await;
                tokio::spawn(async move { tunnel.read_to_end(&mut Vec::new()).await });
            }
        }
        if kept.len() == KEPT_MAX {
            kept.clear();
        }
    }
}

fn question(link: &Link, number: usize) -> Vec<u8> {
    // `us-east.demo` is the trust domain of the cluster us-east.
    let domain = link.peer_id().trust_domain().to_string();
    let (peer, _) = domain.split_once('.').unwrap();
    let header = StreamHeader {
        target: format!("p80.frontend.shop.{peer}.portolan.internal")
            .parse()
            .unwrap(),
        hops: vec!["us-west".parse().unwrap()],
        trace: None,
    };
    let header = header.encode().unwrap();
    match number % 7 {
        0 => nonsense(NONSENSE_MAX),
        1 => [&[VERSION, 0xff, 0xff], &nonsense(NONSENSE_MAX)[..]].concat(),
        2 => [&[VERSION, 0x04, 0x00], &nonsense(1_024)[..]].concat(),
        3 => header[..PREFIX_LEN + 4].to_vec(),
        4 => vec![VERSION],
        // A sidecar is connected, and gets the rest.
        5 => [&header, &nonsense(NONSENSE_MAX)[..]].concat(),
        _ => [&header, &HUGE_RECORD[..]].concat(),
    }
}

fn nonsense(length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    aws_lc_rs::rand::fill(&mut bytes).unwrap();
    bytes
}
