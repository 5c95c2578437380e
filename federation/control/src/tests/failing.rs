//! A registry that cannot write any more.

use std::sync::atomic::{AtomicBool, Ordering};

use portolan_api::presence::presence_client::PresenceClient;
use portolan_api::presence::report::Report as Said;
use portolan_api::presence::{GatewayRegistration, Report};
use portolan_registry::{
    Entry, Limits, Listing, RegistryConfig, Revision, Store, StoreFuture, WatchStream, Write,
};
use tonic::Code;

use super::*;

/// A registry whose disk can fill up.
#[derive(Debug)]
struct Disk {
    inner: Arc<dyn Store>,
    full: AtomicBool,
}

impl Store for Disk {
    fn id(&self) -> &str {
        self.inner.id()
    }

    fn limits(&self) -> Limits {
        self.inner.limits()
    }

    fn describe(&self) -> String {
        self.inner.describe()
    }

    fn get<'a>(&'a self, key: &'a str) -> StoreFuture<'a, Option<Entry>> {
        self.inner.get(key)
    }

    fn list<'a>(&'a self, prefix: &'a str) -> StoreFuture<'a, Listing> {
        self.inner.list(prefix)
    }

    fn commit(&self, writes: Vec<Write>) -> StoreFuture<'_, Revision> {
        if self.full.load(Ordering::Relaxed) {
            return Box::pin(async {
                Err(StoreError::Full {
                    path: "/data/registry.redb".into(),
                    source: "no space left on device".into(),
                })
            });
        }
        self.inner.commit(writes)
    }

    fn watch<'a>(&'a self, prefix: &'a str, after: Revision) -> StoreFuture<'a, WatchStream> {
        self.inner.watch(prefix, after)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_fails_changes_clearly_and_stops_nothing_else() {
    let (world, directory) = (World::new(), Directory::default());
    let config = world.config("us-east");
    let disk = Arc::new(Disk {
        inner: portolan_registry::open(&RegistryConfig::Memory {})
            .await
            .unwrap(),
        full: AtomicBool::new(false),
    });
    let mut east = Cluster::start_on(disk.clone(), &config, &directory).await;
    east.declare(&orders()).await;

    disk.full.store(true, Ordering::Relaxed);
    let request = ApplyRequest {
        documents: vec![Document {
            file: "peer.yaml".to_owned(),
            text: peer("us-west"),
        }],
        ..ApplyRequest::default()
    };
    let failed = east.admin.apply(request).await.unwrap_err();
    assert_eq!(failed.code(), Code::ResourceExhausted);
    assert!(failed.message().contains("free some space"), "{failed}");
    assert!(east.get("peer").await.is_empty());

    // Facts that need no registry still get through.
    let channel = east.channel(&world, "us-east", "/portolan/gateway/gw-0");
    let registration = Report {
        report: Some(Said::Gateway(GatewayRegistration {
            name: "gw-0".to_owned(),
            tcp: "127.0.0.1:15443".to_owned(),
            quic: "127.0.0.1:15443".to_owned(),
        })),
    };
    let reports =
        tokio_stream::StreamExt::chain(tokio_stream::once(registration), tokio_stream::pending());
    let _held = PresenceClient::new(channel).hold(reports).await.unwrap();
    east.until("the gateway is known", |view| {
        let mesh = view.snapshot.mesh.as_ref();
        mesh.is_some_and(|mesh| mesh.gateways.len() == 1)
    })
    .await;

    disk.full.store(false, Ordering::Relaxed);
    east.declare(&peer("us-west")).await;
    east.stop().await;
}
