//! A registry that cannot write any more.

use std::sync::atomic::{AtomicBool, Ordering};

use portolan_api::presence::presence_client::PresenceClient;
use portolan_api::presence::report::Report as Said;
use portolan_api::presence::{AppHealth, GatewayRegistration, Report};
use portolan_registry::{
    Entry, Limits, Listing, RegistryConfig, Revision, Store, StoreFuture, WatchStream, Write,
};
use tonic::Code;

use super::streams::{hold, registration, report};
use super::*;

/// A registry whose disk can fill up, and that can stop answering.
#[derive(Debug)]
struct Disk {
    inner: Arc<dyn Store>,
    full: AtomicBool,
    away: AtomicBool,
}

impl Disk {
    async fn new() -> Arc<Self> {
        let inner = portolan_registry::open(&RegistryConfig::Memory {}).await;
        Arc::new(Self {
            inner: inner.unwrap(),
            full: AtomicBool::new(false),
            away: AtomicBool::new(false),
        })
    }
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
        if self.away.load(Ordering::Relaxed) {
            return Box::pin(std::future::pending());
        }
        self.inner.get(key)
    }

    fn list<'a>(&'a self, prefix: &'a str) -> StoreFuture<'a, Listing> {
        self.inner.list(prefix)
    }

    fn commit(&self, writes: Vec<Write>) -> StoreFuture<'_, Revision> {
        if self.away.load(Ordering::Relaxed) {
            return Box::pin(std::future::pending());
        }
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
    let disk = Disk::new().await;
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

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_is_away_makes_nobody_unready() {
    const SIDECARS: usize = 20;
    const RETURNING: usize = 4;
    let (world, directory) = (World::new(), Directory::default());
    let config = world.config("us-east");
    let disk = Disk::new().await;
    let mut east = Cluster::start_on(disk.clone(), &config, &directory).await;
    east.declare(orders().split("---").next().unwrap()).await;
    let channel = east.channel(&world, "us-east", "/ns/shop/sa/orders");
    let named = |at: usize| {
        let mut said = registration("orders");
        if let Said::Workload(workload) = &mut said {
            workload.name = format!("orders-{at}");
        }
        said
    };
    let says = |ready| {
        let detail = String::new();
        report(Said::App(AppHealth { ready, detail }))
    };
    let ready = |wanted: usize| {
        move |view: &Arc<View>| {
            let orders = service(view, "shop/orders").and_then(|orders| orders.local.as_ref());
            let endpoints = orders.iter().flat_map(|local| &local.endpoints);
            endpoints.filter(|endpoint| endpoint.ready).count() == wanted
        }
    };
    let mut held = Vec::new();
    for at in 0..SIDECARS {
        let (reports, replies) = hold(channel.clone(), named(at)).await.unwrap();
        reports.send(says(true)).await.unwrap();
        held.push((reports, replies));
    }
    east.until("all are ready", ready(SIDECARS)).await;

    disk.away.store(true, Ordering::Relaxed);
    let begun = std::time::Instant::now();
    for (reports, _) in &held {
        reports.send(says(false)).await.unwrap();
    }
    east.until("none is ready", ready(0)).await;
    for (at, stream) in held.iter_mut().enumerate().take(RETURNING) {
        let (reports, replies) = hold(channel.clone(), named(at)).await.unwrap();
        reports.send(says(true)).await.unwrap();
        *stream = (reports, replies);
        if at == 0 {
            east.until("the first is back", ready(1)).await;
            assert!(
                begun.elapsed() < Duration::from_secs(3),
                "{:?}",
                begun.elapsed()
            );
        }
    }
    east.until("all are back", ready(RETURNING)).await;
    let unknown = hold(channel.clone(), named(SIDECARS)).await.unwrap_err();
    assert_eq!(unknown.code(), Code::Unavailable);

    disk.away.store(false, Ordering::Relaxed);
    drop(held);
    east.stop().await;
}
