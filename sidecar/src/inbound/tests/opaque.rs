//! Opaque bytes and upgraded connections.

use super::*;

#[tokio::test(flavor = "local")]
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

#[tokio::test(flavor = "local")]
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

#[tokio::test(flavor = "local")]
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
