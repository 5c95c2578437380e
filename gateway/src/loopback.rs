//! Two gateways on loopback: what must cross, what must not, and what happens when something dies.

mod fixture;
mod lines;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use portolan_model::Reason;
use portolan_model::declared::ExportTo;
use portolan_transport::mtls::{Expect, TlsError};
use portolan_transport::quic::{Link, LinkEndpoint, LinkError, LinkSettings};
use portolan_transport::tunnel::{read_answer, write_header};
use portolan_transport::wire::alert::Alert;
use portolan_transport::wire::header::{Answer, StreamHeader};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

pub(crate) use self::fixture::World;
use self::fixture::{
    AMPLE, Gateway, ORDERS, Wire, echoing_sidecar, greeting, imported, nobody, served, snapshot,
    soon,
};
use crate::config::LimitsConfig;

const FRONTEND: &str = "spiffe://a.set/ns/shop/sa/frontend";
const GATEWAY: &str = "spiffe://a.set/portolan/gateway/gw-0";

/// Two clusters; `a` dials `b`, and `b` cannot dial `a`.
struct Pair {
    world: World,
    a: Gateway,
    b: Gateway,
    wire: Wire,
}

impl Pair {
    async fn linked(endpoints: &[SocketAddr], exported: ExportTo) -> Self {
        let limits = LimitsConfig::default();
        Self::with_limits(limits, endpoints, exported).await
    }

    async fn with_limits(limits: LimitsConfig, endpoints: &[SocketAddr], to: ExportTo) -> Self {
        let world = World::new();
        Self::of(world, limits, endpoints, to).await
    }

    async fn of(
        world: World,
        limits: LimitsConfig,
        endpoints: &[SocketAddr],
        to: ExportTo,
    ) -> Self {
        let a = Gateway::start(&world, "a", LimitsConfig::default());
        let b = Gateway::start(&world, "b", limits);
        let wire = Wire::to(b.addresses.quic).await;
        b.publish(snapshot("b", &[("a", &[])], &[served(endpoints, to)]));
        a.publish(snapshot("a", &[("b", &[wire.address])], &[imported()]));
        a.links("b", 1).await;
        b.links("a", 1).await;
        Self { world, a, b, wire }
    }

    async fn refused(&self, sni: &str) -> Reason {
        match soon(self.world.call(&self.a, sni)).await {
            Err(TlsError::Refused(reason)) => reason,
            other => panic!("refused was expected, not {other:?}"),
        }
    }
}

async fn echoes(stream: &mut (impl AsyncReadExt + AsyncWriteExt + Unpin), bytes: &[u8]) {
    stream.write_all(bytes).await.unwrap();
    let mut back = vec![0; bytes.len()];
    soon(stream.read_exact(&mut back)).await.unwrap();
    assert!(back == bytes, "the bytes came back changed");
}

macro_rules! on_loopback {
    ($($(#[$doc:meta])* async fn $name:ident() $body:block)*) => {
        $($(#[$doc])* #[tokio::test(flavor = "local")] async fn $name() $body)*
    };
}

on_loopback! {
    async fn a_stream_arrives_and_the_callers_identity_with_it() {
        let world = World::new();
        let sidecar = echoing_sidecar(&world).await;
        let limits = LimitsConfig::default();
        let pair = Pair::of(world, limits, &[sidecar], ExportTo::Everyone).await;
        let mut call = soon(pair.world.call(&pair.a, ORDERS)).await.unwrap();
        assert_eq!(greeting(&mut call).await, FRONTEND);
        echoes(&mut call.stream, &vec![7; 200_000]).await;
        call.stream.shutdown().await.unwrap();
        let mut rest = Vec::new();
        soon(call.stream.read_to_end(&mut rest)).await.unwrap();
        assert!(rest.is_empty());
    }

    async fn both_gateways_call_a_tunnel_by_the_same_name() {
        let (lines, _subscribed) = lines::Lines::gather();
        let world = World::new();
        let sidecar = echoing_sidecar(&world).await;
        let limits = LimitsConfig::default();
        let pair = Pair::of(world, limits, &[sidecar], ExportTo::Everyone).await;
        for _ in 0..2 {
            let mut call = soon(pair.world.call(&pair.a, ORDERS)).await.unwrap();
            greeting(&mut call).await;
        }
        soon(async {
            while lines.tunnels("egress").len() < 2 || lines.tunnels("ingress").len() < 2 {
                tokio::task::yield_now().await;
            }
        }).await;
        let names = lines.tunnels("egress");
        assert_eq!(names, lines.tunnels("ingress"));
        assert_eq!(names.len(), 2, "each has its own");
        let hexadecimal = |name: &String| name.len() == 32 && name.bytes().all(|it| it.is_ascii_hexdigit());
        assert!(names.iter().all(hexadecimal), "{names:?}");

        // What a peer makes up is not shown.
        let link = soon(dial(&pair, &pair.world.tls(GATEWAY))).await.unwrap();
        let mut tunnel = link.open_tunnel().await.unwrap();
        let header = StreamHeader {
            target: ORDERS.parse().unwrap(),
            hops: vec!["a".parse().unwrap()],
            trace: Some("00-anything".to_owned()),
        };
        write_header(&mut tunnel, &header).await.unwrap();
        assert_eq!(read_answer(&mut tunnel, AMPLE).await.unwrap(), Answer::Accepted);
        drop((tunnel, link));
        soon(async {
            while lines.count("ingress") < 3 {
                tokio::task::yield_now().await;
            }
        }).await;
        assert_eq!(lines.tunnels("ingress"), names);
    }

    async fn both_ends_of_a_link_open_tunnels() {
        let world = World::new();
        let a = Gateway::start(&world, "a", LimitsConfig::default());
        let b = Gateway::start(&world, "b", LimitsConfig::default());
        let sidecar = echoing_sidecar(&world).await;
        // Only the serving side dials.
        b.publish(snapshot("b", &[("a", &[a.addresses.quic])], &[served(&[sidecar], ExportTo::Everyone)]));
        a.publish(snapshot("a", &[("b", &[])], &[imported()]));
        a.links("b", 1).await;
        let mut call = soon(world.call(&a, ORDERS)).await.unwrap();
        assert_eq!(greeting(&mut call).await, FRONTEND);
    }

    async fn what_is_not_exported_is_refused_even_by_hand() {
        let pair = Pair::linked(&[nobody()], ExportTo::Nobody).await;
        assert_eq!(pair.refused(ORDERS).await, Reason::NotExported);
        for name in [
            "p80.inventory.shop.b.portolan.internal",
            "p80.orders.shop.a.portolan.internal",
            "p80.orders.shop.nowhere.portolan.internal",
            "control.nowhere.portolan.internal",
            "www.example.com",
        ] {
            assert_eq!(pair.refused(name).await, Reason::NotExported, "{name}");
        }
    }

    async fn the_control_plane_is_reached_through_the_gateways() {
        let pair = Pair::linked(&[], ExportTo::Nobody).await;
        let sidecar = echoing_sidecar(&pair.world).await;
        let mut snapshot = snapshot("b", &[("a", &[])], &[]);
        let mut mesh = (*snapshot.mesh.take().unwrap()).clone();
        mesh.control = vec![nobody(), sidecar];
        snapshot.mesh = Some(mesh.into());
        pair.b.publish(snapshot);
        let call = pair.world.call(&pair.a, "control.b.portolan.internal");
        let mut call = soon(call).await.unwrap();
        assert_eq!(greeting(&mut call).await, FRONTEND);
    }

    async fn a_dead_endpoint_costs_no_call() {
        let world = World::new();
        let sidecar = echoing_sidecar(&world).await;
        let endpoints = [nobody(), sidecar, nobody()];
        let limits = LimitsConfig::default();
        let pair = Pair::of(world, limits, &endpoints, ExportTo::Everyone).await;
        for _ in 0..6 {
            let mut call = soon(pair.world.call(&pair.a, ORDERS)).await.unwrap();
            assert_eq!(greeting(&mut call).await, FRONTEND);
        }
    }

    async fn nobody_healthy_is_told() {
        let pair = Pair::linked(&[nobody(), nobody()], ExportTo::Everyone).await;
        assert_eq!(pair.refused(ORDERS).await, Reason::NoHealthyUpstream);
    }

    async fn a_cut_path_breaks_tunnels_and_refuses_calls_soon_and_heals() {
        let world = World::new();
        let sidecar = echoing_sidecar(&world).await;
        let limits = LimitsConfig::default();
        let pair = Pair::of(world, limits, &[sidecar], ExportTo::Everyone).await;
        let mut call = soon(pair.world.call(&pair.a, ORDERS)).await.unwrap();
        greeting(&mut call).await;
        pair.wire.cut();
        let began = Instant::now();
        let reason = pair.refused(ORDERS).await;
        let waited = began.elapsed();
        assert_eq!(reason, Alert::InternalError.reason());
        assert!(waited < Duration::from_millis(5_500), "{waited:?}");
        let broken = soon(call.stream.read_u8()).await;
        assert!(broken.is_err(), "the open tunnel breaks");
        pair.a.links("b", 0).await;
        let began = Instant::now();
        assert_eq!(pair.refused(ORDERS).await, Reason::NoHealthyUpstream);
        assert!(began.elapsed() >= Duration::from_secs(2), "nobody else could serve it");
        pair.wire.mend();
        pair.a.links("b", 1).await;
        let mut call = soon(pair.world.call(&pair.a, ORDERS)).await.unwrap();
        assert_eq!(greeting(&mut call).await, FRONTEND);
    }

    async fn a_call_waits_for_a_link_that_is_dialled_again_unless_another_cluster_serves() {
        let world = World::new();
        let sidecar = echoing_sidecar(&world).await;
        let limits = LimitsConfig::default();
        let pair = Pair::of(world, limits, &[sidecar], ExportTo::Everyone).await;
        for live in pair.a.shared.table.all().values().flatten() {
            live.link.close("for a test");
        }
        pair.a.links("b", 0).await;
        let mut call = soon(pair.world.call(&pair.a, ORDERS)).await.unwrap();
        assert_eq!(greeting(&mut call).await, FRONTEND);

        pair.wire.cut();
        pair.a.links("b", 0).await;
        let mut own = imported();
        own.local = served(&[sidecar], ExportTo::Everyone).local;
        pair.a.publish(snapshot("a", &[("b", &[pair.wire.address])], &[own]));
        let began = Instant::now();
        assert_eq!(pair.refused(ORDERS).await, Reason::NoHealthyUpstream);
        assert!(began.elapsed() < Duration::from_millis(1_500), "the own cluster serves it");
    }

    async fn a_withdrawn_export_closes_its_tunnels() {
        let world = World::new();
        let sidecar = echoing_sidecar(&world).await;
        let limits = LimitsConfig::default();
        let pair = Pair::of(world, limits, &[sidecar], ExportTo::Everyone).await;
        let mut call = soon(pair.world.call(&pair.a, ORDERS)).await.unwrap();
        greeting(&mut call).await;
        let mut unready = served(&[sidecar], ExportTo::Everyone);
        unready.local.as_mut().unwrap().endpoints[0].ready = false;
        pair.b.publish(snapshot("b", &[("a", &[])], &[unready]));
        assert_eq!(pair.refused(ORDERS).await, Reason::NoHealthyUpstream);
        echoes(&mut call.stream, b"an unready endpoint keeps its tunnels").await;
        pair.b.publish(snapshot("b", &[("a", &[])], &[served(&[sidecar], ExportTo::Nobody)]));
        assert!(soon(call.stream.read_u8()).await.is_err());
        assert_eq!(pair.refused(ORDERS).await, Reason::NotExported);
    }

    async fn an_address_that_is_withdrawn_takes_no_more_tunnels_and_ends_with_its_last() {
        let world = World::new();
        let sidecar = echoing_sidecar(&world).await;
        let limits = LimitsConfig::default();
        let pair = Pair::of(world, limits, &[sidecar], ExportTo::Everyone).await;
        let mut call = soon(pair.world.call(&pair.a, ORDERS)).await.unwrap();
        greeting(&mut call).await;
        pair.a.publish(snapshot("a", &[("b", &[])], &[imported()]));
        assert_eq!(pair.refused(ORDERS).await, Reason::NoHealthyUpstream);
        pair.a.links("b", 0).await;
        echoes(&mut call.stream, b"still open").await;
        pair.b.links("a", 1).await;
        drop(call);
        pair.b.links("a", 0).await;
    }

    async fn a_removed_peer_loses_its_links_at_once() {
        let pair = Pair::linked(&[nobody()], ExportTo::Everyone).await;
        pair.b.publish(snapshot("b", &[], &[]));
        pair.b.links("a", 0).await;
        pair.a.links("b", 0).await;
        assert_eq!(pair.refused(ORDERS).await, Reason::NoHealthyUpstream);
    }

    async fn a_root_that_is_trusted_no_more_takes_its_links_along() {
        let pair = Pair::linked(&[nobody()], ExportTo::Everyone).await;
        let own = pair.world.tls(GATEWAY).trust();
        pair.b.shared.tls.swap_trust((*own).clone());
        assert_eq!(pair.refused(ORDERS).await, Reason::NoHealthyUpstream);
        pair.b.links("a", 1).await;
        let other = World::new().tls(GATEWAY).trust();
        pair.b.shared.tls.swap_trust((*other).clone());
        pair.b.links("a", 0).await;
        pair.a.links("b", 0).await;
    }

    async fn only_gateways_of_declared_peers_are_let_in() {
        let pair = Pair::linked(&[], ExportTo::Nobody).await;
        let stranger = World::new();
        for tls in [
            stranger.tls(GATEWAY),
            pair.world.tls("spiffe://c.set/portolan/gateway/gw-0"),
            pair.world.tls(FRONTEND),
            pair.world.tls("spiffe://b.set/portolan/gateway/gw-1"),
        ] {
            let refused = soon(dial(&pair, &tls)).await;
            assert!(matches!(refused, Err(LinkError::NotAccepted(_) | LinkError::Peer(_))), "{refused:?}");
        }
        pair.b.links("a", 1).await;
    }

    async fn garbage_is_answered_and_harms_nobody() {
        let world = World::new();
        let sidecar = echoing_sidecar(&world).await;
        let limits = LimitsConfig::default();
        let pair = Pair::of(world, limits, &[sidecar], ExportTo::Everyone).await;
        let mut stream = TcpStream::connect(pair.a.addresses.tcp).await.unwrap();
        stream.write_all(&[b'x'; 9_000]).await.unwrap();
        let mut alert = [0; 7];
        soon(stream.read_exact(&mut alert)).await.unwrap();
        assert_eq!(alert, Alert::DecodeError.record());

        let link = soon(dial(&pair, &pair.world.tls(GATEWAY))).await.unwrap();
        let mut garbage = link.open_tunnel().await.unwrap();
        garbage.write_all(&[255; 4_000]).await.unwrap();
        let answer = read_answer(&mut garbage, AMPLE).await.unwrap();
        assert_eq!(answer, Answer::Refused(Reason::BadRequest));
        for (target, hops, reason) in [
            (ORDERS, "b", Reason::Loop),
            ("p80.orders.shop.c.portolan.internal", "a", Reason::NoRoute),
            ("p81.orders.shop.b.portolan.internal", "a", Reason::NoRoute),
            ("p80.secret.shop.b.portolan.internal", "a", Reason::NotExported),
        ] {
            assert_eq!(ask(&link, target, hops).await, Answer::Refused(reason), "{target}");
        }
        assert_eq!(ask(&link, ORDERS, "a").await, Answer::Accepted);
    }

    async fn bounds_refuse_at_once() {
        let world = World::new();
        let sidecar = echoing_sidecar(&world).await;
        let limits = LimitsConfig { tunnels: 1, ..LimitsConfig::default() };
        let pair = Pair::of(world, limits, &[sidecar], ExportTo::Everyone).await;
        let mut call = soon(pair.world.call(&pair.a, ORDERS)).await.unwrap();
        greeting(&mut call).await;
        let link = soon(dial(&pair, &pair.world.tls(GATEWAY))).await.unwrap();
        assert_eq!(ask(&link, ORDERS, "a").await, Answer::Refused(Reason::Overloaded));
        assert_eq!(pair.refused(ORDERS).await, Reason::NoHealthyUpstream);
    }

    async fn a_stopping_gateway_lets_tunnels_end() {
        let world = World::new();
        let sidecar = echoing_sidecar(&world).await;
        let limits = LimitsConfig::default();
        let mut pair = Pair::of(world, limits, &[sidecar], ExportTo::Everyone).await;
        let mut call = soon(pair.world.call(&pair.a, ORDERS)).await.unwrap();
        greeting(&mut call).await;
        pair.b.shutdown.trigger();
        let (reason, ()) =
            tokio::join!(pair.refused(ORDERS), echoes(&mut call.stream, b"still open"));
        assert_eq!(reason, Reason::NoHealthyUpstream);
        assert!(soon(dial(&pair, &pair.world.tls(GATEWAY))).await.is_err(), "no more links");
        assert!(soon(call.stream.read_u8()).await.is_err(), "cut when the drain time is over");
        soon(&mut pair.b.running).await.unwrap().unwrap();
        pair.a.links("b", 0).await;
    }
}

/// Dials `b` as somebody.
async fn dial(pair: &Pair, tls: &portolan_transport::mtls::TlsContext) -> Result<Link, LinkError> {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let endpoint = LinkEndpoint::bind(any, tls, LinkSettings::default(), |_| false)?;
    endpoint.dial(pair.b.addresses.quic, Expect::Anybody).await
}

async fn ask(link: &Link, target: &str, hop: &str) -> Answer {
    let mut tunnel = link.open_tunnel().await.unwrap();
    let header = StreamHeader {
        target: target.parse().unwrap(),
        hops: vec![hop.parse().unwrap()],
        trace: None,
    };
    write_header(&mut tunnel, &header).await.unwrap();
    read_answer(&mut tunnel, AMPLE).await.unwrap()
}
