use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::AtomicBool;

use portolan_model::TrustDomain;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::*;
use crate::fixtures::{World, id};
use crate::pipe::copy_both;

const ANY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
const AMPLE: Duration = Duration::from_secs(10);
const EAST: &str = "spiffe://east.set/portolan/gateway/gw-0";
const WEST: &str = "spiffe://west.set/portolan/gateway/gw-0";

fn endpoint_of(world: &World, text: &str) -> LinkEndpoint {
    endpoint_with(world, text, |_| true)
}

fn endpoint_with(
    world: &World,
    text: &str,
    allow: impl Fn(&SpiffeId) -> bool + Send + Sync + 'static,
) -> LinkEndpoint {
    LinkEndpoint::bind(ANY, &world.context(text), LinkSettings::default(), allow).unwrap()
}

fn gateway_of(text: &str) -> Expect {
    Expect::Gateway(TrustDomain::parse(text).unwrap())
}

fn establish_next(endpoint: &LinkEndpoint) -> JoinHandle<Result<Link, LinkError>> {
    let endpoint = endpoint.clone();
    tokio::spawn(async move { endpoint.accept().await.unwrap().establish().await })
}

/// Both ends of a link, the dialling one first.
async fn linked(
    dialling: &LinkEndpoint,
    accepting: &LinkEndpoint,
    addr: SocketAddr,
) -> (Link, Link) {
    let accepted = establish_next(accepting);
    let dialled = dialling.dial(addr, Expect::Anybody).await.unwrap();
    (dialled, accepted.await.unwrap().unwrap())
}

/// Forwards datagrams both ways until it is aborted: then both ends hear nothing.
async fn relay(to: SocketAddr) -> (SocketAddr, JoinHandle<()>) {
    relay_where(to, |_| true).await
}

/// Forwards the datagrams that `passes` says.
async fn relay_where(
    to: SocketAddr,
    mut passes: impl FnMut(&[u8]) -> bool + Send + 'static,
) -> (SocketAddr, JoinHandle<()>) {
    let front = tokio::net::UdpSocket::bind(ANY).await.unwrap();
    let back = tokio::net::UdpSocket::bind(ANY).await.unwrap();
    back.connect(to).await.unwrap();
    let addr = front.local_addr().unwrap();
    let forwarding = tokio::spawn(async move {
        let (mut request, mut answer) = (vec![0; 65_535], vec![0; 65_535]);
        let mut caller = None;
        loop {
            tokio::select! {
                received = front.recv_from(&mut request) => {
                    let (count, from) = received.unwrap();
                    caller = Some(from);
                    if passes(&request[..count]) {
                        let _ = back.send(&request[..count]).await;
                    }
                }
                received = back.recv(&mut answer) => {
                    if let (Ok(count), Some(caller)) = (received, caller)
                        && passes(&answer[..count])
                    {
                        let _ = front.send_to(&answer[..count], caller).await;
                    }
                }
            }
        }
    });
    (addr, forwarding)
}

#[tokio::test]
async fn both_ends_know_each_other_and_open_tunnels() {
    let world = World::new();
    let (east, west) = (endpoint_of(&world, EAST), endpoint_of(&world, WEST));
    let accepted = establish_next(&west);
    let addr = west.local_addr().unwrap();
    let dialled = east.dial(addr, gateway_of("west.set")).await.unwrap();
    let accepted = accepted.await.unwrap().unwrap();
    assert_eq!(
        (dialled.peer_id(), accepted.peer_id()),
        (&id(WEST), &id(EAST))
    );
    assert_eq!(dialled.peer_chain().len(), 2);
    assert!(dialled.is_dialled() && !accepted.is_dialled());
    assert_eq!(dialled.remote_addr(), addr);

    for (opening, taking) in [(&dialled, &accepted), (&accepted, &dialled)] {
        let mut near = opening.open_tunnel().await.unwrap();
        near.write_all(b"ping").await.unwrap();
        near.shutdown().await.unwrap();
        let mut far = taking.accept_tunnel().await.unwrap();
        let mut got = Vec::new();
        far.read_to_end(&mut got).await.unwrap();
        assert_eq!(got, b"ping");
        far.write_all(b"pong").await.unwrap();
        far.shutdown().await.unwrap();
        got.clear();
        near.read_to_end(&mut got).await.unwrap();
        assert_eq!(got, b"pong");
        assert_eq!((opening.load(), taking.load()), (1, 1));
    }
    assert_eq!((dialled.load(), accepted.load()), (0, 0));
    assert!(dialled.stats().sent_packets > 0 && dialled.rtt() < AMPLE);
}

#[tokio::test]
async fn much_crosses_unchanged_through_pipes() {
    let world = World::new();
    let (east, west) = (endpoint_of(&world, EAST), endpoint_of(&world, WEST));
    let (dialled, accepted) = linked(&east, &west, west.local_addr().unwrap()).await;
    let echoing = tokio::spawn(async move {
        let tunnel = accepted.accept_tunnel().await.unwrap();
        let (mut recv, mut send) = tokio::io::split(tunnel);
        tokio::io::copy(&mut recv, &mut send).await.unwrap();
        send.shutdown().await.unwrap();
        accepted
    });
    let (app, sidecar) = tokio::io::duplex(64 * 1024);
    let tunnel = dialled.open_tunnel().await.unwrap();
    let piping = tokio::spawn(copy_both(sidecar, tunnel, AMPLE));
    let sent: Vec<u8> = (0..5_000_000u32).map(|n| (n % 249) as u8).collect();
    let (mut recv, mut send) = tokio::io::split(app);
    let mut got = Vec::new();
    let writing = async {
        send.write_all(&sent).await.unwrap();
        send.shutdown().await.unwrap();
    };
    let (_, read) = tokio::join!(writing, recv.read_to_end(&mut got));
    read.unwrap();
    assert!(got == sent);
    let end = piping.await.unwrap();
    assert_eq!((end.sent, end.received), (5_000_000, 5_000_000));
    assert!(dialled.stats().payload_max > 1452, "loopback carries more");
    drop(echoing.await.unwrap());
}

#[tokio::test]
async fn a_lost_packet_s_copy_arrives_where_packets_are_sent_twice() {
    let world = World::new();
    let (east, west) = (endpoint_of(&world, EAST), endpoint_of(&world, WEST));
    let lossy = Arc::new(AtomicBool::new(false));
    let loses = lossy.clone();
    let mut seen = HashSet::new();
    // Every packet is lost once. What is sent again after a loss is another packet.
    let passes =
        move |packet: &[u8]| !loses.load(Ordering::Relaxed) || !seen.insert(packet.to_vec());
    let (addr, relaying) = relay_where(west.local_addr().unwrap(), passes).await;
    let (dialled, accepted) = linked(&east, &west, addr).await;
    let mut near = dialled.open_tunnel().await.unwrap();
    near.write_all(b"hear me").await.unwrap();
    let mut far = accepted.accept_tunnel().await.unwrap();
    far.read_exact(&mut [0; 7]).await.unwrap();
    let copied = |link: &Link| link.stats().copied_packets;
    assert_eq!((copied(&dialled), copied(&accepted)), (0, 0));

    dialled.send_twice(true);
    accepted.send_twice(true);
    lossy.store(true, Ordering::Relaxed);
    for _ in 0..5 {
        near.write_all(b"ping").await.unwrap();
        let mut got = [0; 4];
        timeout(AMPLE, far.read_exact(&mut got))
            .await
            .unwrap()
            .unwrap();
        far.write_all(b"pong").await.unwrap();
        timeout(AMPLE, near.read_exact(&mut got))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(&got, b"pong");
    }
    assert!(copied(&dialled) >= 5 && copied(&accepted) >= 5);

    lossy.store(false, Ordering::Relaxed);
    dialled.send_twice(false);
    let before = copied(&dialled);
    near.write_all(b"once").await.unwrap();
    far.read_exact(&mut [0; 4]).await.unwrap();
    assert_eq!(copied(&dialled), before);
    relaying.abort();
}

#[tokio::test]
async fn a_cut_tunnel_is_not_taken_for_an_ended_one() {
    let world = World::new();
    let (east, west) = (endpoint_of(&world, EAST), endpoint_of(&world, WEST));
    let (dialled, accepted) = linked(&east, &west, west.local_addr().unwrap()).await;
    let mut near = dialled.open_tunnel().await.unwrap();
    near.write_all(b"half a requ").await.unwrap();
    let mut far = accepted.accept_tunnel().await.unwrap();
    drop(near);
    let mut got = Vec::new();
    let error = far.read_to_end(&mut got).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn what_was_delivered_survives_the_closing_of_the_link() {
    let world = World::new();
    let (east, west) = (endpoint_of(&world, EAST), endpoint_of(&world, WEST));
    let (dialled, accepted) = linked(&east, &west, west.local_addr().unwrap()).await;
    let mut near = dialled.open_tunnel().await.unwrap();
    near.write_all(&[7; 500_000]).await.unwrap();
    near.shutdown().await.unwrap();
    let mut far = accepted.accept_tunnel().await.unwrap();
    near.delivered().await;
    dialled.close("stopping");
    accepted.closed().await;
    let mut got = Vec::new();
    far.read_to_end(&mut got).await.unwrap();
    assert_eq!(got.len(), 500_000);
    near.delivered().await;
}

#[tokio::test]
async fn a_caller_can_be_asked_to_prove_its_address() {
    let world = World::new();
    let (east, west) = (endpoint_of(&world, EAST), endpoint_of(&world, WEST));
    let addr = west.local_addr().unwrap();
    let accepting = async {
        assert!(west.accept().await.unwrap().proved().is_none());
        let proved = west.accept().await.unwrap().proved().unwrap();
        proved.establish().await.unwrap()
    };
    let (dialled, accepted) = tokio::join!(east.dial(addr, Expect::Anybody), accepting);
    assert_eq!(dialled.unwrap().peer_id(), &id(WEST));
    assert_eq!(accepted.peer_id(), &id(EAST));
}

#[tokio::test]
async fn a_dead_peer_is_noticed_soon() {
    let world = World::new();
    let (east, west) = (endpoint_of(&world, EAST), endpoint_of(&world, WEST));
    let (addr, forwarding) = relay(west.local_addr().unwrap()).await;
    let (dialled, accepted) = linked(&east, &west, addr).await;
    let mut tunnel = dialled.open_tunnel().await.unwrap();
    forwarding.abort();
    let died = Instant::now();
    let ends = tokio::join!(dialled.closed(), accepted.closed());
    assert_eq!(ends, (LinkEnd::Silent, LinkEnd::Silent));
    let noticed = died.elapsed();
    assert!(noticed < Duration::from_millis(2500), "{noticed:?}");
    assert!(tunnel.read(&mut [0]).await.is_err());
    assert!(matches!(
        dialled.open_tunnel().await,
        Err(LinkError::Closed(LinkEnd::Silent))
    ));
}

#[tokio::test]
async fn an_idle_link_stays() {
    let world = World::new();
    let (east, west) = (endpoint_of(&world, EAST), endpoint_of(&world, WEST));
    let (dialled, _accepted) = linked(&east, &west, west.local_addr().unwrap()).await;
    let three_idle_timeouts = 3 * LinkSettings::default().idle_timeout;
    assert!(
        timeout(three_idle_timeouts, dialled.closed())
            .await
            .is_err()
    );
}

#[tokio::test]
async fn closing_tells_the_peer_why() {
    let world = World::new();
    let (east, west) = (endpoint_of(&world, EAST), endpoint_of(&world, WEST));
    let (dialled, accepted) = linked(&east, &west, west.local_addr().unwrap()).await;
    accepted.close("peer removed");
    assert_eq!(
        dialled.closed().await,
        LinkEnd::ByPeer("peer removed".to_owned())
    );
    assert_eq!(accepted.close_reason(), Some(LinkEnd::Here));
    west.close("stopping", AMPLE).await;
    assert!(west.accept().await.is_none());
}

#[tokio::test]
async fn another_root_is_refused() {
    let (world, strange) = (World::new(), World::new());
    let (east, west) = (endpoint_of(&world, EAST), endpoint_of(&strange, WEST));
    let accepted = establish_next(&west);
    let addr = west.local_addr().unwrap();
    let dialled = east.dial(addr, Expect::Anybody).await;
    assert!(matches!(dialled, Err(LinkError::Peer(_))));
    assert!(matches!(
        accepted.await.unwrap(),
        Err(LinkError::NotAccepted(_))
    ));
}

#[tokio::test]
async fn an_unexpected_peer_is_refused_by_whoever_dials() {
    let world = World::new();
    let (east, west) = (endpoint_of(&world, EAST), endpoint_of(&world, WEST));
    let accepted = establish_next(&west);
    let addr = west.local_addr().unwrap();
    let Err(LinkError::Peer(detail)) = east.dial(addr, gateway_of("north.set")).await else {
        panic!("accepted");
    };
    assert!(
        detail.contains(&format!("the peer is `{WEST}`")) && detail.contains("north.set"),
        "{detail}"
    );
    assert!(accepted.await.unwrap().is_err());
}

#[tokio::test]
async fn a_disallowed_caller_is_refused_and_told() {
    let world = World::new();
    let web = "spiffe://east.set/ns/shop/sa/web";
    for (caller, allowed) in [(EAST, false), (web, true)] {
        let east = endpoint_of(&world, caller);
        let west = endpoint_with(&world, WEST, move |_| allowed);
        let accepted = establish_next(&west);
        let addr = west.local_addr().unwrap();
        let dialled = east.dial(addr, Expect::Anybody).await;
        assert!(
            matches!(dialled, Err(LinkError::NotAccepted(_))),
            "{dialled:?}"
        );
        assert!(matches!(accepted.await.unwrap(), Err(LinkError::Peer(_))));
    }
}

#[tokio::test]
async fn nobody_there_is_a_timeout() {
    let world = World::new();
    let east = endpoint_of(&world, EAST);
    let deaf = tokio::net::UdpSocket::bind(ANY).await.unwrap();
    let dialled = east.dial(deaf.local_addr().unwrap(), Expect::Anybody).await;
    let silent = LinkError::Closed(LinkEnd::Silent).to_string();
    let error = dialled.unwrap_err();
    assert!(
        matches!(error, LinkError::Timeout { .. }) || error.to_string() == silent,
        "{error}"
    );
}

#[tokio::test]
async fn workers_share_an_address_and_dial_from_it_s_host() {
    let world = World::new();
    let west: Vec<_> = {
        let first = endpoint_of(&world, WEST);
        let addr = first.local_addr().unwrap();
        let context = world.context(WEST);
        let more = (0..3).map(|_| {
            LinkEndpoint::bind(addr, &context, LinkSettings::default(), |_| true).unwrap()
        });
        std::iter::once(first).chain(more).collect()
    };
    for endpoint in &west {
        let endpoint = endpoint.clone();
        tokio::spawn(async move {
            let mut links = Vec::new();
            while let Some(incoming) = endpoint.accept().await {
                links.push(incoming.establish().await);
            }
        });
    }
    // A worker's own links come back to it, whichever worker of the other side they reach.
    let addr = west[0].local_addr().unwrap();
    for _ in 0..8 {
        let east = endpoint_of(&world, EAST);
        let link = east.dial(addr, gateway_of("west.set")).await.unwrap();
        assert_eq!(link.peer_id(), &id(WEST));
        assert!(link.close_reason().is_none());
    }
}
