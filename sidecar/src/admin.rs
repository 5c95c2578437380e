//! The admin port's own routes, and what workers publish for them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use axum::extract::{Query, State};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use portolan_model::snapshot::Snapshot;
use portolan_model::{ClusterName, ServiceKey, SpiffeId, WorkloadKey};
use portolan_policy::explain::{Asked as Request, explain_request};
use portolan_policy::failover::HealthView;
use serde::{Deserialize, Serialize};

use crate::balancer::Balancer;
use crate::upstreams::Upstreams;

/// What one worker knows, as of its last look.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct View {
    endpoints: Vec<EndpointView>,
    ejected_clusters: Vec<ClusterView>,
    clusters: Vec<SeenView>,
    upstreams: Vec<UpstreamView>,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
struct EndpointView {
    workload: WorkloadKey,
    /// What one more call would cost: the expected wait, times the calls under way.
    cost_ms: f64,
    under_way: u32,
    ejected_for_ms: Option<u64>,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
struct ClusterView {
    service: ServiceKey,
    cluster: ClusterName,
    ejected_for_ms: u64,
}

/// What was learned of a cluster as a backend of a service.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
struct SeenView {
    service: ServiceKey,
    cluster: ClusterName,
    /// Which part of its share it has regained since it came back, from 0 to 1.
    regained: f64,
    /// How long its answers took lately.
    latency_ms: Option<f64>,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
struct UpstreamView {
    target: String,
    port: u16,
    cluster: ClusterName,
    connections: usize,
    under_way: u32,
}

/// The views of all workers.
#[derive(Debug)]
pub(crate) struct Views(Vec<ArcSwap<View>>);

impl View {
    pub(crate) fn of(balancer: &Balancer, upstreams: &Upstreams) -> Self {
        let mut view = Self::default();
        let now = balancer.now();
        balancer.for_endpoints(|workload, state| {
            view.endpoints.push(EndpointView {
                workload: workload.clone(),
                cost_ms: state.cost(now) / 1e6,
                under_way: state.outstanding(),
                ejected_for_ms: state.ejected_for(now).map(|left| left.as_millis() as u64),
            });
        });
        balancer.for_ejected_clusters(|service, cluster, left| {
            view.ejected_clusters.push(ClusterView {
                service: service.clone(),
                cluster: cluster.clone(),
                ejected_for_ms: left.as_millis() as u64,
            });
        });
        balancer.for_clusters(|service, cluster, regained, latency| {
            view.clusters.push(SeenView {
                service: service.clone(),
                cluster: cluster.clone(),
                regained,
                latency_ms: latency.map(|latency| latency.as_secs_f64() * 1e3),
            });
        });
        upstreams.for_pools(|pool| {
            let target = pool.target();
            let (connections, under_way) = pool.load();
            view.upstreams.push(UpstreamView {
                target: target.to_string(),
                port: target.port,
                cluster: target.cluster().clone(),
                connections,
                under_way,
            });
        });
        view
    }
}

impl Views {
    pub(crate) fn new(workers: usize) -> Self {
        Self((0..workers).map(|_| ArcSwap::default()).collect())
    }

    /// Replaces a worker's view.
    pub(crate) fn put(&self, worker: usize, view: View) {
        if let Some(slot) = self.0.get(worker) {
            slot.store(Arc::new(view));
        }
    }

    /// What is ejected by any worker.
    fn ejected(&self) -> Ejected {
        let mut ejected = Ejected::default();
        for view in &self.0 {
            let view = view.load();
            let endpoints = view
                .endpoints
                .iter()
                .filter(|it| it.ejected_for_ms.is_some());
            ejected
                .endpoints
                .extend(endpoints.map(|it| it.workload.clone()));
            let clusters = view.ejected_clusters.iter();
            ejected
                .clusters
                .extend(clusters.map(|it| (it.service.clone(), it.cluster.clone())));
            for seen in &view.clusters {
                ejected.see(seen);
            }
        }
        ejected
    }
}

#[derive(Debug, Default)]
struct Ejected {
    endpoints: BTreeSet<WorkloadKey>,
    clusters: BTreeSet<(ServiceKey, ClusterName)>,
    /// The least part that any worker gives it, and the shortest latency that any measured.
    seen: BTreeMap<(ServiceKey, ClusterName), (f64, Option<Duration>)>,
}

impl Ejected {
    fn see(&mut self, seen: &SeenView) {
        let key = (seen.service.clone(), seen.cluster.clone());
        let latency = seen.latency_ms.map(|ms| Duration::from_secs_f64(ms / 1e3));
        let (regained, known) = self.seen.entry(key).or_insert((1.0, None));
        *regained = regained.min(seen.regained);
        *known = known.iter().copied().chain(latency).min();
    }
}

impl HealthView for Ejected {
    fn endpoint_ejected(&self, workload: &WorkloadKey) -> bool {
        self.endpoints.contains(workload)
    }

    fn cluster_ejected(&self, service: &ServiceKey, cluster: &ClusterName) -> bool {
        self.clusters.contains(&(service.clone(), cluster.clone()))
    }

    fn regained(&self, service: &ServiceKey, cluster: &ClusterName, _: bool, _: Duration) -> f64 {
        let seen = self.seen.get(&(service.clone(), cluster.clone()));
        seen.map_or(1.0, |(regained, _)| *regained)
    }

    fn latency(&self, service: &ServiceKey, cluster: &ClusterName) -> Option<Duration> {
        self.seen.get(&(service.clone(), cluster.clone()))?.1
    }
}

/// What the routes answer from. Clones share it.
#[derive(Clone)]
pub(crate) struct Sources {
    caller: SpiffeId,
    views: Arc<Views>,
    /// Empty until the sidecar knows who it is.
    snapshot: Arc<OnceLock<Arc<ArcSwap<Snapshot>>>>,
}

impl Sources {
    pub(crate) fn new(caller: SpiffeId, workers: usize) -> Self {
        Self {
            caller,
            views: Arc::new(Views::new(workers)),
            snapshot: Arc::default(),
        }
    }

    /// Where workers publish what they know.
    pub(crate) fn views(&self) -> Arc<Views> {
        Arc::clone(&self.views)
    }

    /// Answers from these snapshots from now on.
    pub(crate) fn follow(&self, snapshot: &Arc<ArcSwap<Snapshot>>) {
        // It happens once, and a second time would change nothing.
        let _ = self.snapshot.set(Arc::clone(snapshot));
    }

    fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot
            .get()
            .map(|snapshot| snapshot.load_full())
            .unwrap_or_default()
    }
}

/// `GET /explain?host=…[&port=…][&method=…][&path=…][&headers=…][&sni=…]`, `GET /snapshot`, `GET /endpoints`.
pub(crate) fn routes(sources: Sources) -> Router {
    Router::new()
        .route("/explain", get(explained))
        .route("/snapshot", get(summary))
        .route("/endpoints", get(endpoints))
        .with_state(sources)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    host: String,
    port: Option<u16>,
    method: Option<String>,
    path: Option<String>,
    /// `name: value`, a line each.
    headers: Option<String>,
    sni: Option<String>,
}

impl Asked {
    /// The request that is asked for.
    fn request(&self) -> Result<Request, String> {
        let mut request = Request::default().on_path(self.path.as_deref().unwrap_or("/"));
        if let Some(method) = &self.method {
            let parsed = method.parse();
            request.method = parsed.map_err(|_| format!("`{method}` is no method\n"))?;
        }
        for line in self.headers.iter().flat_map(|lines| lines.lines()) {
            let pair = line.split_once(':').and_then(|(name, value)| {
                let name: HeaderName = name.trim().parse().ok()?;
                Some((name, HeaderValue::try_from(value.trim()).ok()?))
            });
            let Some((name, value)) = pair else {
                return Err(format!("`{line}` is no header; write `name: value`\n"));
            };
            request.headers.append(name, value);
        }
        request.server_name.clone_from(&self.sni);
        Ok(request)
    }
}

async fn explained(State(sources): State<Sources>, Query(asked): Query<Asked>) -> Response {
    if asked.host.is_empty() {
        return (StatusCode::BAD_REQUEST, "name a host: /explain?host=…\n").into_response();
    }
    let snapshot = sources.snapshot();
    let ejected = sources.views.ejected();
    let request = match asked.request() {
        Ok(request) => request,
        Err(why) => return (StatusCode::BAD_REQUEST, why).into_response(),
    };
    let host = (asked.host.as_str(), asked.port);
    let told = explain_request(&snapshot, &ejected, &sources.caller, host, &request);
    Json(told).into_response()
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Summary {
    generation: u64,
    cluster: Option<ClusterName>,
    gateways: Vec<SocketAddr>,
    services: BTreeMap<ServiceKey, ServiceSummary>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ServiceSummary {
    ports: Vec<u16>,
    imported: bool,
    local_ready: usize,
    local_total: usize,
    /// Ready endpoints in each other cluster.
    remote_ready: BTreeMap<ClusterName, u32>,
}

async fn summary(State(sources): State<Sources>) -> Json<Summary> {
    let snapshot = sources.snapshot();
    let mesh = snapshot.mesh.as_deref();
    let services = snapshot.services.iter().map(|(key, service)| {
        let endpoints = || service.local.iter().flat_map(|local| &local.endpoints);
        let remote = service.remote.iter();
        let summary = ServiceSummary {
            ports: service.ports.iter().map(|port| port.number).collect(),
            imported: service.imported,
            local_ready: endpoints().filter(|endpoint| endpoint.ready).count(),
            local_total: endpoints().count(),
            remote_ready: remote.map(|it| (it.cluster.clone(), it.ready())).collect(),
        };
        (key.clone(), summary)
    });
    Json(Summary {
        generation: snapshot.generation,
        cluster: mesh.map(|mesh| mesh.cluster.name.clone()),
        gateways: mesh
            .iter()
            .flat_map(|mesh| &mesh.gateways)
            .map(|it| it.tcp)
            .collect(),
        services: services.collect(),
    })
}

/// What each worker knows.
async fn endpoints(State(sources): State<Sources>) -> Json<Vec<View>> {
    let views = sources.views.0.iter();
    Json(views.map(|view| View::clone(&view.load())).collect())
}
