//! Proxies' streams: discovery and presence.

use portolan_api::admin::StatusRequest;
use portolan_api::discovery::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use portolan_api::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use portolan_api::presence::presence_client::PresenceClient;
use portolan_api::presence::report::Report as Said;
use portolan_api::presence::{AppHealth, GatewayRegistration, Reply, Report, WorkloadRegistration};
use portolan_api::{INBOUND, MESH, SERVICE, rpc};
use portolan_registry::Listing;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Streaming};

use super::*;

struct Discovery {
    requests: mpsc::Sender<DeltaDiscoveryRequest>,
    responses: Streaming<DeltaDiscoveryResponse>,
}

impl Discovery {
    async fn open(channel: Channel, first: DeltaDiscoveryRequest) -> Result<Self, tonic::Status> {
        let (requests, receiver) = mpsc::channel(8);
        requests.send(first).await.unwrap();
        let mut client = AggregatedDiscoveryServiceClient::new(channel);
        let call = client.delta_aggregated_resources(ReceiverStream::new(receiver));
        let responses = call.await?.into_inner();
        Ok(Self {
            requests,
            responses,
        })
    }

    async fn next(&mut self) -> Result<DeltaDiscoveryResponse, tonic::Status> {
        let next = timeout(AMPLE, self.responses.message()).await.unwrap();
        Ok(next?.expect("the stream goes on"))
    }
}

fn subscribe(type_url: &str, names: &[&str]) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: type_url.to_owned(),
        resource_names_subscribe: names.iter().map(|name| (*name).to_owned()).collect(),
        ..DeltaDiscoveryRequest::default()
    }
}

const GATEWAY: &str = "/portolan/gateway/gw-0";

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_gets_what_changes_and_resumes_where_it_was() {
    let (world, directory) = (World::new(), Directory::default());
    let mut east = Cluster::start(&world, &directory, "us-east").await;
    east.declare(&orders()).await;
    let channel = east.channel(&world, "us-east", GATEWAY);
    let mut stream = Discovery::open(channel.clone(), subscribe(SERVICE, &["*"]))
        .await
        .unwrap();
    let first = stream.next().await.unwrap();
    assert_eq!(first.resources.len(), 1);
    assert!(first.system_version_info.contains('/'));
    let refusal = DeltaDiscoveryRequest {
        type_url: SERVICE.to_owned(),
        response_nonce: first.nonce.clone(),
        error_detail: Some(rpc::Status {
            code: 3,
            message: "no".to_owned(),
        }),
        ..DeltaDiscoveryRequest::default()
    };
    stream.requests.send(refusal).await.unwrap();
    stream.requests.send(subscribe(MESH, &[])).await.unwrap();
    let mesh = stream.next().await.unwrap();
    assert_eq!((mesh.type_url.as_str(), mesh.resources.len()), (MESH, 1));
    east.declare(&orders().replace("orders", "payments")).await;
    let second = stream.next().await.unwrap();
    assert_eq!(second.resources[0].name, "shop/payments");
    assert_ne!(second.nonce, first.nonce);

    let mut resume = subscribe(SERVICE, &["*"]);
    let held = first.resources.iter().chain(&second.resources);
    resume.initial_resource_versions = held
        .map(|resource| (resource.name.clone(), resource.version.clone()))
        .collect();
    let gone = ("shop/gone".to_owned(), "1".to_owned());
    resume.initial_resource_versions.extend([gone]);
    let mut stream = Discovery::open(channel, resume).await.unwrap();
    let resumed = stream.next().await.unwrap();
    assert!(resumed.resources.is_empty(), "{resumed:?}");
    assert_eq!(resumed.removed_resources, ["shop/gone"]);
    east.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn inbound_resources_are_for_their_own_workload() {
    let (world, directory) = (World::new(), Directory::default());
    let mut east = Cluster::start(&world, &directory, "us-east").await;
    east.declare(&orders()).await;
    let inbound = || subscribe(INBOUND, &["shop/orders-0"]);
    let own = east.channel(&world, "us-east", "/ns/shop/sa/orders");
    let mut stream = Discovery::open(own, inbound()).await.unwrap();
    assert_eq!(stream.next().await.unwrap().resources.len(), 1);

    let sibling = east.channel(&world, "us-east", "/ns/shop/sa/payments");
    let mut stream = Discovery::open(sibling, inbound()).await.unwrap();
    let nothing = stream.next().await.unwrap();
    assert!(nothing.resources.is_empty());
    assert_eq!(nothing.removed_resources, ["shop/orders-0"]);

    for (cluster, path, request) in [
        ("us-east", "/ns/bank/sa/orders", inbound()),
        ("us-east", GATEWAY, inbound()),
        ("us-east", "/ns/shop/sa/orders", subscribe(INBOUND, &["*"])),
        ("us-west", "/ns/shop/sa/orders", inbound()),
        ("us-west", GATEWAY, subscribe(SERVICE, &["*"])),
        (
            "us-east",
            "/portolan/control/us-east",
            subscribe(SERVICE, &["*"]),
        ),
    ] {
        let channel = east.channel(&world, cluster, path);
        let refused = match Discovery::open(channel, request).await {
            Ok(mut stream) => stream.next().await.unwrap_err(),
            Err(status) => status,
        };
        assert_eq!(refused.code(), Code::PermissionDenied, "{cluster}{path}");
    }
    east.stop().await;
}

pub(super) fn registration(account: &str) -> Said {
    Said::Workload(WorkloadRegistration {
        namespace: "shop".to_owned(),
        name: "orders-1".to_owned(),
        service_account: account.to_owned(),
        address: "127.0.0.8".to_owned(),
        ports: BTreeMap::from([("http".to_owned(), 8080)]),
        labels: BTreeMap::from([("app".to_owned(), "orders".to_owned())]),
        weight: 100,
        inbound_port: 15_008,
        ..WorkloadRegistration::default()
    })
}

pub(super) fn report(said: Said) -> Report {
    Report { report: Some(said) }
}

pub(super) async fn hold(
    channel: Channel,
    first: Said,
) -> Result<(mpsc::Sender<Report>, Streaming<Reply>), tonic::Status> {
    let (reports, receiver) = mpsc::channel(8);
    reports.send(report(first)).await.unwrap();
    let mut client = PresenceClient::new(channel);
    let mut replies = client
        .hold(ReceiverStream::new(receiver))
        .await?
        .into_inner();
    replies.message().await?;
    Ok((reports, replies))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_s_workload_lives_while_its_stream_does() {
    let (world, directory) = (World::new(), Directory::default());
    let mut east = Cluster::start(&world, &directory, "us-east").await;
    let service_alone = orders().split("---").next().unwrap().to_owned();
    east.declare(&service_alone).await;
    let ready = |wanted: bool| {
        move |view: &Arc<View>| {
            let orders = service(view, "shop/orders").and_then(|orders| orders.local.as_ref());
            orders.is_some_and(|local| {
                local.endpoints.len() == 1 && local.endpoints[0].ready == wanted
            })
        }
    };
    let own = east.channel(&world, "us-east", "/ns/shop/sa/orders");
    let (reports, replies) = hold(own, registration("orders")).await.unwrap();
    east.until("orders-1 is declared", ready(false)).await;
    let healthy = AppHealth {
        ready: true,
        detail: String::new(),
    };
    reports.send(report(Said::App(healthy))).await.unwrap();
    east.until("orders-1 is ready", ready(true)).await;
    let documents = east.get("workload").await;
    assert_eq!(documents[0]["spec"]["leased"], true);

    drop((reports, replies));
    let begun = std::time::Instant::now();
    east.until("orders-1 is not ready", ready(false)).await;
    assert!(
        begun.elapsed() >= Duration::from_millis(900),
        "{:?}",
        begun.elapsed()
    );
    assert_eq!(
        east.get("workload").await.len(),
        1,
        "the lease outlives the stream"
    );
    east.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workload_that_only_calls_others_counts_as_ready() {
    let (world, directory) = (World::new(), Directory::default());
    let mut east = Cluster::start(&world, &directory, "us-east").await;
    let own = east.channel(&world, "us-east", "/ns/shop/sa/orders");
    let (reports, _replies) = hold(own, registration("orders")).await.unwrap();
    let healthy = AppHealth {
        ready: true,
        detail: String::new(),
    };
    reports.send(report(Said::App(healthy))).await.unwrap();
    let ready = |view: &Arc<View>| {
        let mut conditions = view
            .statuses
            .values()
            .map(|status| &status["conditions"][0]);
        conditions
            .any(|condition| condition["reason"] == "Reported" && condition["status"] == "True")
    };
    east.until("orders-1 is ready", ready).await;
    let status = east.admin.status(StatusRequest {}).await.unwrap();
    let status = status.into_inner();
    assert_eq!((status.workloads, status.workloads_ready), (1, 1));
    east.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_of_the_control_plane_moves_no_traffic() {
    let (world, directory) = (World::new(), Directory::default());
    let mut east = Cluster::start(&world, &directory, "us-east").await;
    east.declare(orders().split("---").next().unwrap()).await;
    let ready = |view: &Arc<View>| {
        let orders = service(view, "shop/orders").and_then(|orders| orders.local.as_ref());
        orders.map(|local| {
            local
                .endpoints
                .iter()
                .filter(|endpoint| endpoint.ready)
                .count()
        })
    };
    let sidecar = east.channel(&world, "us-east", "/ns/shop/sa/orders");
    let gateway = east.channel(&world, "us-east", GATEWAY);
    let (reports, _replies) = hold(sidecar, registration("orders")).await.unwrap();
    let gateway_registration = Said::Gateway(GatewayRegistration {
        name: "gw-0".to_owned(),
        tcp: "127.0.0.1:15443".to_owned(),
        quic: "127.0.0.1:15443".to_owned(),
    });
    let _gateway = hold(gateway, gateway_registration).await.unwrap();
    let healthy = AppHealth {
        ready: true,
        detail: String::new(),
    };
    reports.send(report(Said::App(healthy))).await.unwrap();
    east.until("all is alive", |view| {
        let mesh = view.snapshot.mesh.as_ref();
        ready(view) == Some(1) && mesh.is_some_and(|mesh| mesh.gateways.len() == 1)
    })
    .await;
    // What a restart should know is written down right after it is published.
    let noted = |store: &Listing| {
        let has = |prefix: &str| {
            store
                .entries
                .iter()
                .any(|entry| entry.key.starts_with(prefix))
        };
        has("internal/gateways/") && !has("internal/unready/")
    };
    let store = east.store.clone();
    timeout(AMPLE, async {
        while !noted(&store.list("").await.unwrap()) {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
    drop(store);
    east.stop().await;

    let east = Cluster::start(&world, &directory, "us-east").await;
    let view = east.control.views.borrow().clone();
    assert_eq!(ready(&view), Some(1));
    assert_eq!(view.snapshot.mesh.as_ref().unwrap().gateways.len(), 1);
    east.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_registers_for_somebody_else() {
    let (world, directory) = (World::new(), Directory::default());
    let mut east = Cluster::start(&world, &directory, "us-east").await;
    let other = east.channel(&world, "us-east", "/ns/shop/sa/payments");
    let refused = hold(other.clone(), registration("orders"))
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    let foreign = east.channel(&world, "us-west", "/ns/shop/sa/orders");
    let refused = hold(foreign, registration("orders")).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);

    let own = east.channel(&world, "us-east", "/ns/shop/sa/orders");
    let held = hold(own, registration("orders")).await.unwrap();
    let taken = hold(other, registration("payments")).await.unwrap_err();
    assert_eq!(taken.code(), Code::AlreadyExists);
    assert_eq!(east.get("workload").await.len(), 1);
    drop(held);
    east.stop().await;
}
