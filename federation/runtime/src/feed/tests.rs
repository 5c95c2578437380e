use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use portolan_api::discovery::{DeltaDiscoveryResponse, Resource};
use portolan_api::resource::ResourceBody;
use portolan_api::{INBOUND, MESH, SERVICE, TRUST};
use portolan_model::ServiceKind;
use portolan_model::names::ServiceKey;
use portolan_model::snapshot::{Service, Snapshot, Trust, Vips};
use tokio::net::{TcpListener, TcpStream};

use super::assembly::Assembly;
use super::*;
use crate::fixture::{DiscoveryStream, PROXY, World, soon};

const DAY: Duration = Duration::from_secs(86_400);

fn service(name: &str, imported: bool) -> Resource {
    let service = Service {
        key: format!("shop/{name}").parse().unwrap(),
        kind: ServiceKind::Virtual,
        ports: vec![],
        vips: Vips {
            set: vec!["240.241.0.1".parse().unwrap()],
            ..Vips::default()
        },
        imported,
        local: None,
        remote: vec![],
        traffic: portolan_model::traffic::Traffic::default(),
    };
    ResourceBody::Service(Arc::new(service))
        .encode()
        .to_discovery()
}

fn broken(name: &str) -> Resource {
    let mut resource = service(name, true);
    resource.resource.as_mut().unwrap().value = vec![0xff; 5];
    resource
}

fn response(type_url: &str, version: &str, resources: Vec<Resource>) -> DeltaDiscoveryResponse {
    DeltaDiscoveryResponse {
        system_version_info: version.to_owned(),
        resources,
        type_url: type_url.to_owned(),
        nonce: format!("nonce of {version}"),
        removed_resources: vec![],
    }
}

fn removal(version: &str, name: &str) -> DeltaDiscoveryResponse {
    DeltaDiscoveryResponse {
        removed_resources: vec![name.to_owned()],
        ..response(SERVICE, version, vec![])
    }
}

fn key(name: &str) -> ServiceKey {
    format!("shop/{name}").parse().unwrap()
}

async fn until(handle: &mut FeedHandle, holds: impl Fn(&Snapshot) -> bool) -> Arc<Snapshot> {
    loop {
        let snapshot = handle.snapshot.load_full();
        if holds(&snapshot) {
            return snapshot;
        }
        soon(handle.changed.changed()).await.unwrap();
    }
}

/// Reads the subscriptions; the versions that the proxy says to hold of services.
async fn subscriptions(stream: &mut DiscoveryStream, types: &[&str]) -> Vec<String> {
    let mut held = vec![];
    for type_url in types {
        let request = stream.request().await;
        assert_eq!(request.type_url, *type_url);
        assert_eq!(request.resource_names_subscribe.len(), 1);
        if *type_url == SERVICE {
            assert_eq!(request.resource_names_subscribe, ["*"]);
            held.extend(request.initial_resource_versions.into_keys());
        }
    }
    held
}

#[tokio::test]
async fn snapshots_arrive_and_another_control_plane_resumes_them() {
    let world = World::new();
    let (mut first, mut second) = (world.control(DAY).await, world.control(DAY).await);
    let config = world.config(vec![first.address, second.address]);
    let subscription = Subscription {
        inbound: Some("shop/orders-1".parse().unwrap()),
    };
    let mut feed = start(&config, &world.tls(PROXY), subscription, Shutdown::new());
    let types = [TRUST, MESH, SERVICE, INBOUND];

    let mut stream = first.discovery().await;
    assert_eq!(stream.caller.to_string(), PROXY);
    assert!(subscriptions(&mut stream, &types).await.is_empty());
    stream
        .send(response(SERVICE, "r/5", vec![service("orders", true)]))
        .await;
    let ack = stream.request().await;
    assert_eq!(
        (ack.response_nonce.as_str(), ack.error_detail),
        ("nonce of r/5", None)
    );
    let snapshot = until(&mut feed, |snapshot| snapshot.generation == 5).await;
    assert!(snapshot.services[&key("orders")].imported);
    assert_eq!(snapshot.addresses.len(), 1);
    assert!(*feed.live.borrow());

    first.shutdown.trigger();
    drop(stream);
    let mut stream = second.discovery().await;
    assert_eq!(subscriptions(&mut stream, &types).await, ["shop/orders"]);
    stream.send(removal("r/6", "shop/orders")).await;
    until(&mut feed, |snapshot| snapshot.services.is_empty()).await;
}

#[tokio::test]
async fn what_cannot_be_read_is_refused_and_the_previous_version_stays() {
    let world = World::new();
    let mut control = world.control(DAY).await;
    let config = world.config(vec![control.address]);
    let mut feed = start(
        &config,
        &world.tls(PROXY),
        Subscription::default(),
        Shutdown::new(),
    );
    let mut stream = control.discovery().await;
    subscriptions(&mut stream, &[TRUST, MESH, SERVICE]).await;
    stream
        .send(response(SERVICE, "r/1", vec![service("orders", true)]))
        .await;
    stream.request().await;

    let mixed = vec![broken("orders"), service("payments", true)];
    stream.send(response(SERVICE, "r/2", mixed)).await;
    let nack = stream.request().await;
    let refusal = nack.error_detail.unwrap().message;
    assert!(
        refusal.contains("shop/orders") && !refusal.contains("payments"),
        "{refusal}"
    );
    let snapshot = until(&mut feed, |snapshot| snapshot.generation == 2).await;
    assert_eq!(snapshot.services.len(), 2);

    stream
        .send(response(SERVICE, "no generation", vec![]))
        .await;
    assert!(stream.request().await.error_detail.is_some());
}

#[tokio::test]
async fn new_roots_are_trusted_and_kept_and_unusable_ones_refused() {
    let world = World::new();
    let other = World::new();
    let mut control = world.control(DAY).await;
    let config = world.config(vec![control.address]);
    let tls = world.tls(PROXY);
    let mut feed = start(&config, &tls, Subscription::default(), Shutdown::new());
    let mut stream = control.discovery().await;
    subscriptions(&mut stream, &[TRUST, MESH, SERVICE]).await;
    let roots = |roots| {
        ResourceBody::Trust(Arc::new(Trust { roots }))
            .encode()
            .to_discovery()
    };

    for useless in [roots(vec![]), roots(vec![vec![1, 2, 3]])] {
        stream.send(response(TRUST, "r/1", vec![useless])).await;
        assert!(stream.request().await.error_detail.is_some());
        assert_eq!(*tls.trust(), world.bundle());
    }
    let both = [world.bundle(), other.bundle()];
    let both = both
        .iter()
        .flat_map(|bundle| bundle.roots())
        .map(|der| der.to_vec());
    stream
        .send(response(TRUST, "r/2", vec![roots(both.collect())]))
        .await;
    assert_eq!(stream.request().await.error_detail, None);
    until(&mut feed, |snapshot| snapshot.trust.is_some()).await;
    assert_eq!(tls.trust().roots().len(), 2);
    let saved = fs::read_to_string(config.state_dir.join("roots.pem")).unwrap();
    assert_eq!(saved.matches("BEGIN CERTIFICATE").count(), 2);
}

#[tokio::test]
async fn a_proxy_starts_from_its_last_good_file_without_a_control_plane() {
    let world = World::new();
    let config = world.config(vec![]);
    let file = last_good::path(&config.state_dir);
    let mut assembly = Assembly::default();
    assembly.apply(response(SERVICE, "r/9", vec![service("orders", true)]));
    let (changed, changes) = watch::channel(0);
    changed.send_replace(9);
    let stopping = Shutdown::new();
    stopping.trigger();
    last_good::keep_saved(
        file.clone(),
        Arc::new(Mutex::new(assembly)),
        changes,
        stopping,
    )
    .await;

    let feed = start(
        &config,
        &world.tls(PROXY),
        Subscription::default(),
        Shutdown::new(),
    );
    let snapshot = feed.snapshot.load_full();
    assert_eq!(snapshot.generation, 9);
    assert!(snapshot.services.contains_key(&key("orders")));
    assert_eq!(snapshot.addresses.len(), 1);

    let mut bytes = fs::read(&file).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&file, bytes).unwrap();
    let feed = start(
        &config,
        &world.tls(PROXY),
        Subscription::default(),
        Shutdown::new(),
    );
    assert!(feed.snapshot.load().services.is_empty());
}

#[tokio::test]
async fn changes_are_saved_while_running() {
    let world = World::new();
    let config = world.config(vec![]);
    let shutdown = Shutdown::new();
    let (changed, changes) = watch::channel(0_u64);
    let assembly = Arc::new(Mutex::new(Assembly::default()));
    assembly
        .lock()
        .unwrap()
        .apply(response(SERVICE, "r/1", vec![service("orders", true)]));
    let file = last_good::path(&config.state_dir);
    let saving = last_good::keep_saved(
        file.clone(),
        Arc::clone(&assembly),
        changes,
        shutdown.clone(),
    );
    let saving = tokio::spawn(saving);
    tokio::task::yield_now().await;
    changed.send_replace(1);
    shutdown.trigger();
    soon(saving).await.unwrap();
    assert_eq!(last_good::load(&file).snapshot().services.len(), 1);
}

/// Forwards one connection until frozen, then answers nothing and closes nothing.
async fn freezable(target: SocketAddr) -> (SocketAddr, Shutdown) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let frozen = Shutdown::new();
    let freeze = frozen.clone();
    tokio::spawn(async move {
        let (mut inner, _) = listener.accept().await.unwrap();
        let mut outer = TcpStream::connect(target).await.unwrap();
        let copying = tokio::io::copy_bidirectional(&mut inner, &mut outer);
        freeze.unless_triggered(copying).await;
        std::future::pending::<()>().await;
    });
    (address, frozen)
}

#[tokio::test]
async fn a_control_plane_that_falls_silent_is_noticed() {
    let world = World::new();
    let mut control = world.control(DAY).await;
    let (address, frozen) = freezable(control.address).await;
    let config = world.config(vec![address]);
    let mut feed = start(
        &config,
        &world.tls(PROXY),
        Subscription::default(),
        Shutdown::new(),
    );
    let mut stream = control.discovery().await;
    subscriptions(&mut stream, &[TRUST, MESH, SERVICE]).await;
    stream.send(response(SERVICE, "r/1", vec![])).await;
    soon(feed.live.wait_for(|live| *live)).await.unwrap();
    let since = Instant::now();
    frozen.trigger();
    soon(feed.live.wait_for(|live| !*live)).await.unwrap();
    let noticed_after = since.elapsed();
    assert!(noticed_after < Duration::from_secs(6), "{noticed_after:?}");
}

#[test]
fn older_generations_of_the_same_registry_are_ignored() {
    let mut assembly = Assembly::default();
    let new = response(SERVICE, "r/7", vec![service("orders", true)]);
    assert!(assembly.apply(new).snapshot.is_some());
    let older = assembly.apply(response(SERVICE, "r/6", vec![service("orders", false)]));
    assert!(older.snapshot.is_none() && older.faults.is_empty() && older.notes.len() == 1);
    assert!(assembly.snapshot().services[&key("orders")].imported);

    let other = assembly.apply(response(SERVICE, "other/1", vec![service("orders", false)]));
    assert!(
        other.notes[0].contains("another registry"),
        "{:?}",
        other.notes
    );
    assert_eq!(other.snapshot.unwrap().generation, 1);
}

#[test]
fn nobody_removes_mesh_or_trust_and_types_are_checked() {
    let mut assembly = Assembly::default();
    for type_url in [MESH, TRUST] {
        let mut removal = removal("r/1", "mesh");
        removal.type_url = type_url.to_owned();
        assert_eq!(assembly.apply(removal).faults.len(), 1);
    }
    let disguised = response(INBOUND, "r/1", vec![service("orders", true)]);
    assert_eq!(assembly.apply(disguised).faults.len(), 1);
    assert_eq!(assembly.apply(response("x", "r/1", vec![])).faults.len(), 1);
}
