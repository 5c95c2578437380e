use std::time::Duration;

use portolan_model::{Reason, TrustDomain};
use portolan_trust::TrustBundle;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use super::*;
use crate::fixtures::{World, id};
use crate::hello;
use crate::wire::alert::Alert;

const AMPLE: Duration = Duration::from_secs(10);
const WEB: &str = "spiffe://a.set/ns/shop/sa/web";
const DB: &str = "spiffe://b.set/ns/shop/sa/db";
const SNI: &str = "p80.db.shop.b.portolan.internal";

type Ends = (
    Result<Connected<DuplexStream>, TlsError>,
    Result<Accepted<DuplexStream>, TlsError>,
);

async fn handshake(
    client: &std::sync::Arc<ClientConfig>,
    server: &std::sync::Arc<ServerConfig>,
) -> Ends {
    let (near, far) = duplex(64 * 1024);
    tokio::join!(
        connect(client, SNI, near, AMPLE),
        accept(server, far, AMPLE)
    )
}

#[tokio::test]
async fn both_sides_learn_who_the_other_is() {
    let world = World::new();
    let (web, db) = (world.context(WEB), world.context(DB));
    let client = web.client_config(Expect::Exact(id(DB)), &[ALPN_H2, ALPN_TCP], true);
    let server = db.server_config(&[ALPN_TCP], ClientAuth::Required);
    let (connected, accepted) = handshake(&client, &server).await;
    let (mut connected, mut accepted) = (connected.unwrap(), accepted.unwrap());
    assert_eq!((connected.peer, accepted.peer), (id(DB), Some(id(WEB))));
    assert_eq!(accepted.chain, web.identity().unwrap().chain);
    assert_eq!(accepted.sni.as_deref(), Some(SNI));
    assert_eq!(connected.alpn.as_deref(), Some(ALPN_TCP));
    assert_eq!(accepted.alpn.as_deref(), Some(ALPN_TCP));
    let state = connected.stream.get_ref().1;
    let group = state.negotiated_key_exchange_group().unwrap().name();
    assert_eq!(group, rustls::NamedGroup::X25519MLKEM768);
    assert_eq!(
        state.protocol_version(),
        Some(rustls::ProtocolVersion::TLSv1_3)
    );
    connected.stream.write_all(b"hello").await.unwrap();
    let mut got = [0; 5];
    accepted.stream.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"hello");
}

#[tokio::test]
async fn somebody_else_is_refused() {
    let world = World::new();
    let (web, db) = (world.context(WEB), world.context(DB));
    let server = db.server_config(&[], ClientAuth::Optional);
    let domain = |text| TrustDomain::parse(text).unwrap();
    let unexpected = [
        Expect::Exact(id(WEB)),
        Expect::AnyOf(vec![id(WEB)]),
        Expect::TrustDomain(domain("a.set")),
        Expect::Gateway(domain("b.set")),
        Expect::Where(std::sync::Arc::new(|_| false)),
    ];
    for expect in unexpected {
        let (connected, accepted) =
            handshake(&web.client_config(expect, &[], false), &server).await;
        let error = connected.unwrap_err();
        assert_eq!(error.reason(), Reason::IdentityMismatch);
        let TlsError::Peer(cause) = error else {
            panic!("{error}");
        };
        assert!(cause.to_string().contains(DB), "{cause}");
        assert!(matches!(accepted, Err(TlsError::NotAccepted(_))));
    }
    for expect in [
        Expect::AnyOf(vec![id(WEB), id(DB)]),
        Expect::TrustDomain(domain("b.set")),
        Expect::Anybody,
    ] {
        let (connected, _) = handshake(&web.client_config(expect, &[], false), &server).await;
        assert!(connected.is_ok());
    }
}

#[tokio::test]
async fn another_root_is_refused() {
    let (world, strange) = (World::new(), World::new());
    let (web, db) = (world.context(WEB), strange.context(DB));
    let client = web.client_config(Expect::Anybody, &[], true);
    let server = db.server_config(&[], ClientAuth::Required);
    let (connected, accepted) = handshake(&client, &server).await;
    assert!(matches!(connected, Err(TlsError::Peer(_))));
    assert!(matches!(accepted, Err(TlsError::NotAccepted(_))));
}

#[tokio::test]
async fn trust_and_identity_are_looked_up_in_each_handshake() {
    let world = World::new();
    let (web, db) = (world.context(WEB), world.context(DB));
    let client = web.client_config(Expect::Anybody, &[], true);
    let server = db.server_config(&[], ClientAuth::Required);
    assert!(handshake(&client, &server).await.0.is_ok());

    let renamed = "spiffe://b.set/ns/shop/sa/renamed";
    db.swap_identity(world.identity(renamed)).unwrap();
    let (connected, _) = handshake(&client, &server).await;
    assert_eq!(connected.unwrap().peer, id(renamed));

    web.swap_trust(TrustBundle::default());
    let (connected, _) = handshake(&client, &server).await;
    assert!(matches!(connected, Err(TlsError::Peer(_))));
    web.swap_trust(world.bundle());
    assert!(handshake(&client, &server).await.0.is_ok());

    db.swap_trust(TrustBundle::default());
    let (connected, accepted) = handshake(&client, &server).await;
    assert!(matches!(accepted, Err(TlsError::Peer(_))));
    let mut stream = connected.unwrap().stream;
    let error = stream.read(&mut [0]).await.unwrap_err();
    assert!(matches!(TlsError::from_io(error), TlsError::NotAccepted(_)));
}

#[tokio::test]
async fn sessions_are_never_resumed() {
    let world = World::new();
    let (web, db) = (world.context(WEB), world.context(DB));
    let client = web.client_config(Expect::Anybody, &[], true);
    let server = db.server_config(&[], ClientAuth::Required);
    for _ in 0..2 {
        let (connected, accepted) = handshake(&client, &server).await;
        let (mut connected, mut accepted) = (connected.unwrap().stream, accepted.unwrap().stream);
        // Tickets would come before the first byte.
        accepted.write_all(b"x").await.unwrap();
        connected.read_exact(&mut [0]).await.unwrap();
        let state = connected.get_ref().1;
        assert_eq!(state.tls13_tickets_received(), 0);
        assert_eq!(state.handshake_kind(), Some(rustls::HandshakeKind::Full));
    }
}

#[tokio::test]
async fn a_client_without_identity_is_served_only_where_that_is_optional() {
    let world = World::new();
    let db = world.context(DB);
    let stranger = TlsContext::new(None, world.bundle()).unwrap();
    let client = stranger.client_config(Expect::Exact(id(DB)), &[], true);
    let optional = db.server_config(&[], ClientAuth::Optional);
    let (connected, accepted) = handshake(&client, &optional).await;
    assert!(connected.is_ok());
    let accepted = accepted.unwrap();
    assert!(accepted.peer.is_none() && accepted.chain.is_empty());
    let required = db.server_config(&[], ClientAuth::Required);
    let (_, accepted) = handshake(&client, &required).await;
    assert_eq!(accepted.unwrap_err().reason(), Reason::IdentityMismatch);
    let only = ClientAuth::Only(Expect::Exact(id(DB)));
    let web = world.context(WEB).client_config(Expect::Anybody, &[], true);
    let (_, accepted) = handshake(&web, &db.server_config(&[], only)).await;
    assert!(matches!(accepted, Err(TlsError::Peer(_))));
}

#[tokio::test]
async fn a_gateway_s_alert_tells_its_reason() {
    let world = World::new();
    let client = world.context(WEB).client_config(Expect::Anybody, &[], true);
    for reason in [
        Reason::NotExported,
        Reason::NoHealthyUpstream,
        Reason::Denied,
    ] {
        let (near, mut far) = duplex(64 * 1024);
        let gateway = async {
            let hello = hello::read(&mut far, AMPLE).await.unwrap();
            hello::refuse(&mut far, Alert::for_reason(reason))
                .await
                .unwrap();
            hello.server_name
        };
        let (connected, name) = tokio::join!(connect(&client, SNI, near, AMPLE), gateway);
        assert_eq!(name.as_deref(), Some(SNI));
        assert!(matches!(connected, Err(TlsError::Refused(got)) if got == reason));
    }
}

#[tokio::test]
async fn silence_and_closing_are_told_apart() {
    let world = World::new();
    let client = world.context(WEB).client_config(Expect::Anybody, &[], true);
    let (near, _far) = duplex(64 * 1024);
    let silent = connect(&client, SNI, near, Duration::from_millis(20)).await;
    assert!(matches!(silent, Err(TlsError::Timeout(_))));
    let (near, far) = duplex(64 * 1024);
    drop(far);
    let closed = connect(&client, SNI, near, AMPLE).await.unwrap_err();
    assert_eq!(closed.reason(), Reason::ConnectFailed);
    let (near, _far) = duplex(64 * 1024);
    let name = connect(&client, "no name!", near, AMPLE).await;
    assert!(matches!(name, Err(TlsError::Name(_))));
}

#[test]
fn the_post_quantum_hybrid_goes_first() {
    let provider = context::provider();
    assert_eq!(
        provider.kx_groups[0].name(),
        rustls::NamedGroup::X25519MLKEM768
    );
}
