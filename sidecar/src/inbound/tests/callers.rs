//! Who may call, and what happens when they may no more.

use super::*;

#[tokio::test(flavor = "local")]
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

#[tokio::test(flavor = "local")]
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

#[tokio::test(flavor = "local")]
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

#[tokio::test(flavor = "local")]
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

#[tokio::test(flavor = "local")]
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
