use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use portolan_api::authority::CertifyRequest;
use portolan_api::authority::authority_client::AuthorityClient;
use portolan_transport::mtls::{self, ClientTls, Expect, TlsContext};
use portolan_trust::KeyRequest;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tonic::Status;

use super::server::serve_with;
use super::*;
use crate::connection::Leases;
use crate::fixture::{PROXY, World, soon};

const DAY: Duration = Duration::from_secs(86_400);

async fn certify(channel: tonic::transport::Channel) -> Result<(), Status> {
    let request = CertifyRequest {
        csr_der: KeyRequest::new().unwrap().csr_der,
        spiffe_id: PROXY.to_owned(),
        join_token: String::new(),
    };
    let mut client = AuthorityClient::new(channel);
    soon(Box::pin(client.certify(request))).await.map(drop)
}

#[tokio::test]
async fn only_the_control_plane_of_the_named_cluster_is_believed() {
    let world = World::new();
    let control = world.control(DAY).await;
    let mut target = ControlTarget::own(&world.config(vec![control.address]));
    target.cluster = "us-west".parse().unwrap();
    let error = certify(channel(
        &target,
        &world.tls(PROXY),
        Credentials::Certificate,
    ))
    .await;
    let words = describe(&error.unwrap_err());
    assert!(
        words.contains("no control plane of us-west answers"),
        "{words}"
    );
    assert!(words.contains("portolan/control/us-west"), "{words}");
}

#[tokio::test]
async fn addresses_are_tried_in_order_and_asked_anew() {
    let world = World::new();
    let control = world.control(DAY).await;
    let dead = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let dead_address = dead.local_addr().unwrap();
    drop(dead);
    let own = ControlTarget::own(&world.config(vec![dead_address, control.address]));
    certify(channel(&own, &world.tls(PROXY), Credentials::Certificate))
        .await
        .unwrap();

    let nowhere = ControlTarget {
        addresses: Arc::new(Vec::new),
        ..own
    };
    let error = certify(channel(&nowhere, &world.tls(PROXY), Credentials::None)).await;
    let words = describe(&error.unwrap_err());
    assert!(words.contains("no address is known"), "{words}");
}

#[tokio::test]
async fn callers_are_named_by_their_certificate_and_nobody_without_one() {
    let world = World::new();
    let mut control = world.control(DAY).await;
    let target = ControlTarget::own(&world.config(vec![control.address]));
    let tls = world.tls(PROXY);
    certify(channel(&target, &tls, Credentials::Certificate))
        .await
        .unwrap();
    assert_eq!(soon(control.certified.recv()).await, Some("certificate"));
    let error = certify(channel(&target, &tls, Credentials::None))
        .await
        .unwrap_err();
    assert_eq!(error.code(), tonic::Code::PermissionDenied);

    let stranger = World::new().tls(PROXY);
    assert!(
        certify(channel(&target, &stranger, Credentials::Certificate))
            .await
            .is_err()
    );
}

#[tokio::test]
async fn unix_sockets_know_their_callers_and_replace_what_the_dead_left() {
    let world = World::new();
    let control = world.control(DAY).await;
    let path = world.folder.path().join("admin.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let listener = bind_unix(&path, 0o660, "admin").unwrap();
    let metadata = std::fs::metadata(&path).unwrap();
    assert_eq!(metadata.mode() & 0o777, 0o660);
    let accepted = tokio::net::UnixStream::connect(&path);
    let (accepted, (stream, _)) = tokio::try_join!(accepted, listener.accept()).unwrap();
    assert_eq!(stream.peer_cred().unwrap().uid(), metadata.uid());
    drop((accepted, stream));
    tokio::spawn(serve_unix(
        listener,
        control.routes.clone(),
        control.shutdown.clone(),
    ));
    certify(connect_unix(&path).await.unwrap()).await.unwrap();

    let file = world.folder.path().join("bundle.pem");
    let error = bind_unix(&file, 0o600, "admin").unwrap_err().to_string();
    assert!(error.contains("no socket"), "{error}");
}

/// Begins HTTP/2 without a certificate: the connection, once the server has spoken on it.
async fn anonymous(world: &World, address: SocketAddr) -> Option<ClientTls> {
    let tls = TlsContext::new(None, world.bundle()).unwrap();
    let config = tls.client_config(Expect::Anybody, ALPN, false);
    let tcp = TcpStream::connect(address).await.unwrap();
    let name = "control.us-east.portolan.internal";
    let connected = mtls::connect(&config, name, tcp, Duration::from_secs(10)).await;
    let mut stream = connected.unwrap().stream;
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    stream.write_all(preface).await.ok()?;
    soon(stream.read_u8()).await.ok().map(|_| stream)
}

#[tokio::test]
async fn callers_without_certificate_are_few_and_do_not_stay() {
    let world = World::new();
    let control = world.control(DAY).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let tls = world.tls("spiffe://us-east.set/portolan/control/us-east");
    let (routes, shutdown) = (control.routes.clone(), control.shutdown.clone());
    let bounds = Leases::new(1, Duration::from_millis(500));
    tokio::spawn(async move { serve_with(listener, &tls, routes, bounds, shutdown).await });

    let mut first = anonymous(&world, address).await.unwrap();
    let began = Instant::now();
    assert!(anonymous(&world, address).await.is_none(), "one at a time");
    drop(soon(first.read_to_end(&mut Vec::new())).await);
    let lasted = began.elapsed();
    assert!(lasted < KEEP_ALIVE_TIMEOUT, "{lasted:?}");
    assert!(anonymous(&world, address).await.is_some());
}
