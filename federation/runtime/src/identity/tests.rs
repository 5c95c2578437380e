use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use portolan_model::SpiffeId;

use super::*;
use crate::fixture::{PROXY, World, soon};
use crate::grpc::{bind_unix, serve_unix};

const DAY: Duration = Duration::from_secs(86_400);

fn proxy() -> SpiffeId {
    PROXY.parse().unwrap()
}

#[tokio::test]
async fn a_token_joins_and_the_identity_survives_a_restart_without_control_plane() {
    let world = World::new();
    let mut control = world.control(DAY).await;
    let config = world.joining(vec![control.address], &world.token());
    let shutdown = Shutdown::new();
    let handle = soon(start(&config, proxy(), shutdown.clone()))
        .await
        .unwrap();
    assert_eq!(soon(control.certified.recv()).await, Some("token"));
    assert_eq!(handle.tls.identity().unwrap().id, proxy());
    let file = config.state_dir.join("identity.pem");
    assert_eq!(
        fs::metadata(&file).unwrap().permissions().mode() & 0o777,
        0o600
    );
    shutdown.trigger();
    control.shutdown.trigger();

    let again = soon(start(&config, proxy(), Shutdown::new()))
        .await
        .unwrap();
    assert_eq!(again.tls.identity().unwrap().id, proxy());
    assert!(control.certified.try_recv().is_err());
}

#[tokio::test]
async fn renewal_uses_the_current_certificate() {
    let world = World::new();
    let mut control = world.control(Duration::from_secs(4)).await;
    let config = world.joining(vec![control.address], &world.token());
    let shutdown = Shutdown::new();
    let mut handle = soon(start(&config, proxy(), shutdown.clone()))
        .await
        .unwrap();
    let first = handle.tls.identity().unwrap().chain[0].clone();
    assert_eq!(soon(control.certified.recv()).await, Some("token"));
    assert_eq!(soon(control.certified.recv()).await, Some("certificate"));
    soon(handle.not_after_s.changed()).await.unwrap();
    assert_ne!(handle.tls.identity().unwrap().chain[0], first);
    shutdown.trigger();
}

#[tokio::test]
async fn another_identity_or_a_damaged_file_means_joining_anew() {
    let world = World::new();
    let mut control = world.control(DAY).await;
    let config = world.joining(vec![control.address], &world.token());
    let other = world.identity("spiffe://us-east.set/ns/shop/sa/other");
    let file = config.state_dir.join("identity.pem");
    for content in [other.to_pem(), "junk".to_owned()] {
        fs::write(&file, content).unwrap();
        let handle = soon(start(&config, proxy(), Shutdown::new()))
            .await
            .unwrap();
        assert_eq!(handle.tls.identity().unwrap().id, proxy());
        assert_eq!(soon(control.certified.recv()).await, Some("token"));
    }
}

#[tokio::test]
async fn a_wrong_token_is_refused_and_tried_again_slowly() {
    let world = World::new();
    let mut control = world.control(DAY).await;
    let config = world.joining(vec![control.address], "wrong");
    let shutdown = Shutdown::new();
    let starting = tokio::spawn({
        let (config, shutdown) = (config.clone(), shutdown.clone());
        async move { start(&config, proxy(), shutdown).await }
    });
    assert_eq!(soon(control.certified.recv()).await, Some("refused"));
    shutdown.trigger();
    let ended = soon(starting).await.unwrap();
    assert!(matches!(ended, Err(StartError::Stopped)));

    let tls = TlsContext::new(None, world.bundle()).unwrap();
    let error = Certifier::new(&config, proxy(), tls)
        .certify()
        .await
        .err()
        .unwrap();
    assert!(error.is_refusal(), "{error}");
    assert!(
        error.to_string().contains("not for this identity"),
        "{error}"
    );
}

#[tokio::test]
async fn the_local_socket_joins() {
    let world = World::new();
    let mut control = world.control(DAY).await;
    let socket = world.folder.path().join("admin.sock");
    let listener = bind_unix(&socket, 0o600, "admin").unwrap();
    assert!(
        bind_unix(&socket, 0o600, "admin")
            .unwrap_err()
            .to_string()
            .contains("address in use")
    );
    tokio::spawn(serve_unix(
        listener,
        control.routes.clone(),
        control.shutdown.clone(),
    ));
    let mut config = world.config(vec![]);
    config.join.socket = Some(socket);
    let handle = soon(start(&config, proxy(), Shutdown::new()))
        .await
        .unwrap();
    assert_eq!(handle.tls.identity().unwrap().id, proxy());
    assert_eq!(soon(control.certified.recv()).await, Some("socket"));
}

#[tokio::test]
async fn no_way_to_join_and_no_bundle_are_said_clearly() {
    let world = World::new();
    let mut config = world.config(vec![]);
    let error = start(&config, proxy(), Shutdown::new()).await.unwrap_err();
    assert!(error.to_string().contains("join.tokenFile"), "{error}");
    config.trust_bundle = "/nowhere/bundle.pem".into();
    let error = start(&config, proxy(), Shutdown::new()).await.unwrap_err();
    assert!(error.to_string().contains("/nowhere/bundle.pem"), "{error}");
}

#[test]
fn renewal_comes_after_its_part_of_the_life() {
    assert_eq!(renewal_time(1_000, 1_100, 0.5), Duration::from_secs(1_050));
    assert_eq!(renewal_time(1_000, 900, 0.5), Duration::from_secs(1_000));
}
