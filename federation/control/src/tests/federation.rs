//! Two clusters and what they know of each other.

use std::pin::Pin;
use std::time::Instant;

use futures_util::{StreamExt as _, stream};
use portolan_api::admin::StatusRequest;
use portolan_api::peering::peering_client::PeeringClient;
use portolan_api::peering::peering_server::{Peering, PeeringServer};
use portolan_api::peering::{CatalogueEntry, CatalogueUpdate, WatchRequest};
use portolan_api::resources::{Locality, LocalityHealth, Port};
use portolan_registry::{Precondition, Write};
use portolan_runtime::Shutdown;
use portolan_runtime::grpc::serve;
use portolan_transport::mtls::TlsContext;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio_stream::Stream;
use tonic::service::Routes;
use tonic::{Request, Response, Status};

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn an_export_appears_at_the_peer_and_goes_with_it() {
    let (world, directory) = (World::new(), Directory::default());
    let mut east = Cluster::start(&world, &directory, "us-east").await;
    let mut west = Cluster::start(&world, &directory, "us-west").await;
    east.declare(&peer("us-west")).await;
    west.declare(&peer("us-east")).await;
    east.declare(&orders()).await;
    let before = west
        .until("east is heard", |view| !view.catalogues.is_empty())
        .await;
    assert!(service(&before, "shop/orders").is_none());

    let begun = Instant::now();
    east.declare(export()).await;
    let imported = |view: &Arc<View>| {
        service(view, "shop/orders").is_some_and(|orders| {
            orders.imported && orders.remote.iter().any(|remote| remote.ready() == 1)
        })
    };
    west.until("orders is imported", imported).await;
    println!(
        "an export took {:?} to the peer's snapshot",
        begun.elapsed()
    );
    let imports = west.get("import").await;
    assert_eq!(imports.len(), 1, "{imports:?}");

    let begun = Instant::now();
    east.delete("export", "shop", "orders").await;
    west.until("orders is gone", |view| {
        service(view, "shop/orders").is_none()
    })
    .await;
    println!("an unexport took {:?}", begun.elapsed());
    east.stop().await;
    west.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_alone_keeps_imports_and_their_addresses() {
    let (world, directory) = (World::new(), Directory::default());
    let mut east = Cluster::start(&world, &directory, "us-east").await;
    let mut west = Cluster::start(&world, &directory, "us-west").await;
    east.declare(&(peer("us-west") + "---\n" + &orders() + "---\n" + export()))
        .await;
    west.declare(&peer("us-east")).await;
    let known = |view: &Arc<View>| service(view, "shop/orders").is_some();
    let view = west.until("orders is imported", known).await;
    let vips = service(&view, "shop/orders").unwrap().vips.clone();
    assert!(!vips.set.is_empty());

    east.stop().await;
    west.stop().await;
    let west = Cluster::start(&world, &directory, "us-west").await;
    let restarted = west.control.views.borrow().clone();
    let orders = service(&restarted, "shop/orders").expect("known before anything is served");
    assert_eq!(orders.vips, vips);
    assert!(restarted.generation > view.generation);
    assert_eq!(restarted.registry_id, view.registry_id);
    west.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_exports_nothing_is_live() {
    let (world, directory) = (World::new(), Directory::default());
    let mut east = Cluster::start(&world, &directory, "us-east").await;
    let mut west = Cluster::start(&world, &directory, "us-west").await;
    east.declare(&peer("us-west")).await;
    west.declare(&peer("us-east")).await;
    timeout(AMPLE, async {
        loop {
            let status = east.admin.status(StatusRequest {}).await.unwrap();
            if status.into_inner().peers[0].catalogue == "live" {
                return;
            }
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
    east.stop().await;
    west.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_no_peer_for_a_while_learns_what_is_gone() {
    let (world, directory) = (World::new(), Directory::default());
    let mut east = Cluster::start(&world, &directory, "us-east").await;
    east.declare(&peer("us-west")).await;
    east.declare(&orders()).await;
    east.declare(export()).await;
    let west = east.channel(&world, "us-west", "/portolan/control/us-west");
    let mut client = PeeringClient::new(west);
    let mut updates = client
        .watch(WatchRequest::default())
        .await
        .unwrap()
        .into_inner();
    let known = updates.message().await.unwrap().unwrap();
    assert_eq!(known.upserts.len(), 1);

    east.delete("peer", "", "us-west").await;
    east.delete("export", "shop", "orders").await;
    east.declare(&peer("us-west")).await;
    let request = WatchRequest {
        epoch: known.epoch,
        version: known.version,
    };
    let mut resumed = client.watch(request).await.unwrap().into_inner();
    let update = resumed.message().await.unwrap().unwrap();
    assert!(update.full && update.upserts.is_empty(), "{update:?}");
    assert!(update.version > known.version);
    east.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_is_deleted_and_declared_again_at_once_comes_back_whole() {
    let (world, directory) = (World::new(), Directory::default());
    let mut east = Cluster::start(&world, &directory, "us-east").await;
    let mut west = Cluster::start(&world, &directory, "us-west").await;
    west.declare(&peer("us-east")).await;
    west.declare(&orders()).await;
    west.declare(export()).await;
    east.declare(&peer("us-west")).await;
    let imported = |view: &Arc<View>| service(view, "shop/orders").is_some();
    east.until("orders is imported", imported).await;

    // Both changes in one turn of the loop: nobody sees the moment between them.
    let key = "peers/us-west";
    let entry = east.store.get(key).await.unwrap().unwrap();
    let mut document: Value = serde_json::from_slice(&entry.value).unwrap();
    document["metadata"]["creationTimestamp"] = "2040-01-01T00:00:00.000Z".into();
    let remove = Write::delete(key, Precondition::None);
    east.store.commit(vec![remove]).await.unwrap();
    let text = document.to_string().into_bytes();
    let again = Write::put(key, text, Precondition::None);
    let revision = east.store.commit(vec![again]).await.unwrap();
    east.until("the new Peer is there", |view| {
        let mut peers = view.documents.iter();
        peers.any(|(key, stored)| key.name == "us-west" && stored.version == revision)
    })
    .await;
    east.until("orders is imported again", imported).await;
    east.stop().await;
    west.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_declared_peers_get_the_catalogue() {
    let (world, directory) = (World::new(), Directory::default());
    let mut east = Cluster::start(&world, &directory, "us-east").await;
    east.declare(&peer("us-west")).await;
    for (cluster, path) in [
        ("eu-west", "/portolan/control/eu-west"),
        ("us-west", "/portolan/control/eu-west"),
        ("us-west", "/portolan/gateway/gw-0"),
        ("eu-west", "/portolan/control/us-west"),
        ("us-east", "/ns/shop/sa/orders"),
    ] {
        let mut client = PeeringClient::new(east.channel(&world, cluster, path));
        let refused = client.watch(WatchRequest::default()).await.unwrap_err();
        assert_eq!(
            refused.code(),
            tonic::Code::PermissionDenied,
            "{cluster} {path}"
        );
    }
    let west = east.channel(&world, "us-west", "/portolan/control/us-west");
    let mut client = PeeringClient::new(west);
    let request = WatchRequest::default();
    let mut updates = client.watch(request).await.unwrap().into_inner();
    let first = updates.message().await.unwrap().unwrap();
    assert!(first.full);
    let request = WatchRequest {
        epoch: first.epoch.clone(),
        version: first.version,
    };
    let mut resumed = client.watch(request).await.unwrap().into_inner();
    let update = resumed.message().await.unwrap().unwrap();
    assert!(!update.full && update.upserts.is_empty());

    east.delete("peer", "", "us-west").await;
    let ended = timeout(AMPLE, updates.message()).await.unwrap();
    assert_eq!(ended.unwrap_err().code(), tonic::Code::PermissionDenied);
    east.stop().await;
}

/// A peer that says what it may not, until it is corrected.
struct Liar {
    corrected: Arc<Notify>,
}

#[tonic::async_trait]
impl Peering for Liar {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<CatalogueUpdate, Status>> + Send>>;

    async fn watch(
        &self,
        _request: Request<WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let entry = |name: &str, identity: &str| CatalogueEntry {
            namespace: "shop".to_owned(),
            name: name.to_owned(),
            kind: 1,
            ports: vec![Port {
                name: "http".to_owned(),
                number: 80,
                protocol: 1,
            }],
            localities: vec![LocalityHealth {
                locality: Some(Locality {
                    region: "us".to_owned(),
                    zone: String::new(),
                }),
                ready: 1,
                total: 1,
            }],
            identities: vec![identity.to_owned()],
            exported_ms: 1,
            hosts: Vec::new(),
            client_ip_affinity_seconds: 0,
        };
        let update = CatalogueUpdate {
            epoch: "lies".to_owned(),
            version: 1,
            full: true,
            upserts: vec![
                entry("good", "spiffe://us-west.mesh/ns/shop/sa/good"),
                entry("stolen", "spiffe://us-east.mesh/ns/shop/sa/payments"),
                entry("N@me", "spiffe://us-west.mesh/ns/shop/sa/x"),
            ],
            removals: Vec::new(),
        };
        let corrected = self.corrected.clone();
        let correction = async move {
            corrected.notified().await;
            Ok(CatalogueUpdate {
                epoch: "lies".to_owned(),
                version: 2,
                full: false,
                upserts: Vec::new(),
                removals: vec!["shop/stolen".to_owned()],
            })
        };
        let updates = stream::iter([Ok(update)])
            .chain(stream::once(correction))
            .chain(stream::pending());
        Ok(Response::new(Box::pin(updates)))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hostile_catalogue_is_refused_in_part() {
    let (world, directory) = (World::new(), Directory::default());
    let mut east = Cluster::start(&world, &directory, "us-east").await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    directory.set("us-west", listener.local_addr().unwrap());
    let identity = world.identity("us-west", "/portolan/control/us-west");
    let tls = TlsContext::new(Some(identity), world.trust()).unwrap();
    let shutdown = Shutdown::new();
    let stop = shutdown.clone();
    let corrected = Arc::new(Notify::new());
    let told = corrected.clone();
    let liar = tokio::spawn(async move {
        let liar = Liar { corrected: told };
        serve(listener, &tls, Routes::new(PeeringServer::new(liar)), stop).await
    });
    east.declare(&peer("us-west")).await;
    let view = east
        .until("the good entry is in", |view| {
            service(view, "shop/good").is_some()
        })
        .await;
    assert!(service(&view, "shop/stolen").is_none());
    let name: ClusterName = "us-west".parse().unwrap();
    assert!(view.refused[&name].contains("stolen"), "{:?}", view.refused);
    let status = east.admin.status(StatusRequest {}).await;
    let peer = &status.unwrap().into_inner().peers[0];
    assert!(peer.detail.contains("stolen"), "{peer:?}");
    corrected.notify_one();
    east.until("nothing is refused any more", |view| {
        view.refused.is_empty()
    })
    .await;
    east.stop().await;
    shutdown.trigger();
    liar.await.unwrap().unwrap();
}
