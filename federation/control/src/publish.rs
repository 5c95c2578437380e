//! Discovery: what proxies subscribed to, as soon as it changes. A stream holds no queue: whenever
//! the proxy can take more, it gets the difference between the latest view and what it has.

mod subscription;

use std::collections::{BTreeMap, VecDeque};
use std::pin::Pin;
use std::sync::Arc;

use futures_util::stream;
use portolan_api::discovery::aggregated_discovery_service_server::AggregatedDiscoveryService;
use portolan_api::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use portolan_api::resource::Encoded;
use portolan_model::{IdentityKind, WorkloadKey};
use portolan_runtime::Shutdown;
use prometheus_client::metrics::gauge::Gauge;
use tokio_stream::Stream;
use tonic::{Request, Response, Status, Streaming};

use crate::caller::{Admitted, Callers};
use crate::metrics::{ControlMetrics, label};
use crate::open_streams::{OpenStreams, Place};
use crate::view::{ResourceType, View, Views};
use subscription::{Subscription, Update};

/// The most discovery streams at once.
const STREAMS_MAX: usize = 20_000;
/// The most of them that one identity may open: as many instances as one service account may have.
const STREAMS_OF_ONE_MAX: usize = 5_000;
/// A response is sent when it has this many bytes of resources; one larger resource goes alone.
const RESPONSE_BYTES: usize = 1024 * 1024;
/// How much of a proxy's reason for a refusal is logged, in bytes.
const REASON_BYTES_MAX: usize = 300;

/// The discovery service.
pub(crate) struct DiscoveryService {
    pub(crate) callers: Callers,
    pub(crate) views: Views,
    pub(crate) metrics: ControlMetrics,
    pub(crate) shutdown: Shutdown,
    streams: OpenStreams,
}

impl DiscoveryService {
    pub(crate) fn new(
        callers: Callers,
        views: Views,
        metrics: ControlMetrics,
        shutdown: Shutdown,
    ) -> Self {
        Self {
            callers,
            views,
            metrics,
            shutdown,
            streams: OpenStreams::new("discovery", STREAMS_MAX, STREAMS_OF_ONE_MAX),
        }
    }
}

type Responses = Pin<Box<dyn Stream<Item = Result<DeltaDiscoveryResponse, Status>> + Send>>;

#[tonic::async_trait]
impl AggregatedDiscoveryService for DiscoveryService {
    type DeltaAggregatedResourcesStream = Responses;

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Responses>, Status> {
        let caller = self.callers.proxy(&request)?;
        let place = self.streams.admit(&caller.id)?;
        tracing::info!(proxy = %caller.id, "a proxy subscribes");
        let subscriber = Subscriber {
            caller,
            requests: request.into_inner(),
            views: self.views.clone(),
            subscriptions: BTreeMap::new(),
            pending: VecDeque::new(),
            nonce: 0,
            ended: false,
            _counted: Counted::new(&self.metrics.proxies),
            metrics: self.metrics.clone(),
            shutdown: self.shutdown.clone(),
            _place: place,
        };
        let responses = stream::unfold(subscriber, |mut subscriber| async move {
            let next = subscriber.next().await.transpose()?;
            Some((next, subscriber))
        });
        Ok(Response::new(Box::pin(responses)))
    }
}

/// One proxy's stream.
struct Subscriber {
    caller: Admitted,
    requests: Streaming<DeltaDiscoveryRequest>,
    views: Views,
    subscriptions: BTreeMap<ResourceType, Subscription>,
    /// One update, cut into responses.
    pending: VecDeque<Pending>,
    nonce: u64,
    /// Nothing more is sent.
    ended: bool,
    _counted: Counted,
    metrics: ControlMetrics,
    shutdown: Shutdown,
    _place: Place,
}

struct Pending {
    kind: ResourceType,
    system_version: String,
    resources: Vec<Arc<Encoded>>,
    removed: Vec<String>,
}

impl Subscriber {
    /// The next response, as soon as there is something to say; `None` when the stream is over.
    async fn next(&mut self) -> Result<Option<DeltaDiscoveryResponse>, Status> {
        if self.ended {
            return Ok(None);
        }
        loop {
            if self.pending.is_empty() {
                self.prepare()?;
            }
            if let Some(pending) = self.pending.pop_front() {
                return Ok(Some(self.respond(pending)));
            }
            let request = tokio::select! {
                () = self.shutdown.triggered() => {
                    self.ended = true;
                    return Err(Status::unavailable("the control plane is stopping"));
                }
                changed = self.views.changed() => match changed {
                    Ok(()) => continue,
                    Err(_) => return Ok(None),
                },
                request = self.requests.message() => request,
            };
            match request {
                Ok(Some(request)) => self.hear(request)?,
                // A broken stream and an ended one mean the same: the proxy is gone.
                Ok(None) | Err(_) => return Ok(None),
            }
        }
    }

    fn hear(&mut self, request: DeltaDiscoveryRequest) -> Result<(), Status> {
        let Some(kind) = ResourceType::parse(&request.type_url) else {
            return Err(self.refuse(Status::invalid_argument(format!(
                "there are no resources of type `{}`",
                request.type_url
            ))));
        };
        if let Some(refusal) = &request.error_detail {
            let end = refusal.message.floor_char_boundary(REASON_BYTES_MAX);
            let reason = &refusal.message[..end];
            tracing::warn!(proxy = %self.caller.id, kind = ?kind, nonce = request.response_nonce, reason,
                "a proxy refused an update and keeps what it had");
            self.metrics
                .nacks
                .get_or_create(&label("type", format!("{kind:?}")))
                .inc();
        }
        for name in &request.resource_names_subscribe {
            may_subscribe(&self.caller, kind, name).map_err(|status| self.refuse(status))?;
        }
        let subscription = self
            .subscriptions
            .entry(kind)
            .or_insert_with(|| Subscription::new(kind));
        let heard = subscription.hear(
            request.resource_names_subscribe,
            &request.resource_names_unsubscribe,
            request.initial_resource_versions,
        );
        if subscription.is_wildcard() {
            may_subscribe(&self.caller, kind, "*").map_err(|status| self.refuse(status))?;
        }
        heard.map_err(|problem| self.refuse(Status::resource_exhausted(problem)))
    }

    /// Makes the responses that bring the proxy from what it has to the latest view.
    fn prepare(&mut self) -> Result<(), Status> {
        let view = self.views.borrow_and_update().clone();
        for (kind, subscription) in &mut self.subscriptions {
            let table = view.resources.of(*kind);
            let caller = &self.caller;
            let update = subscription.next(table, &|name| may_see(&view, caller, *kind, name));
            match update {
                Ok(Some(update)) => {
                    let system_version = view.system_version();
                    self.pending.extend(cut(*kind, &system_version, update));
                }
                Ok(None) => {}
                Err(behind) => {
                    self.ended = true;
                    return Err(Status::aborted(behind.to_string()));
                }
            }
        }
        Ok(())
    }

    fn respond(&mut self, pending: Pending) -> DeltaDiscoveryResponse {
        self.nonce += 1;
        let sent = u64::try_from(pending.resources.len()).unwrap_or(u64::MAX);
        self.metrics
            .resources_sent
            .get_or_create(&label("type", format!("{:?}", pending.kind)))
            .inc_by(sent);
        DeltaDiscoveryResponse {
            system_version_info: pending.system_version,
            resources: pending
                .resources
                .iter()
                .map(|resource| resource.to_discovery())
                .collect(),
            type_url: pending.kind.type_url().to_owned(),
            nonce: self.nonce.to_string(),
            removed_resources: pending.removed,
        }
    }

    fn refuse(&mut self, status: Status) -> Status {
        self.ended = true;
        tracing::warn!(proxy = %self.caller.id, reason = status.message(), "refused a subscription");
        status
    }
}

/// Whether the caller may ask for this at all. Gateways see everything but what single workloads accept.
fn may_subscribe(caller: &Admitted, kind: ResourceType, name: &str) -> Result<(), Status> {
    if kind != ResourceType::Inbound {
        return Ok(());
    }
    let own = match &caller.kind {
        IdentityKind::Workload { namespace, .. } => {
            WorkloadKey::parse(name).is_ok_and(|workload| &workload.namespace == namespace)
        }
        IdentityKind::Gateway { .. }
        | IdentityKind::Control { .. }
        | IdentityKind::Authority
        | IdentityKind::Other => false,
    };
    if own {
        return Ok(());
    }
    Err(Status::permission_denied(format!(
        "`{}` may not subscribe to the inbound resource `{name}`: a sidecar subscribes to its own workload's",
        caller.id
    )))
}

/// Whether a resource is shown to the caller. What it may not see does not exist for it.
fn may_see(view: &View, caller: &Admitted, kind: ResourceType, name: &str) -> bool {
    if kind != ResourceType::Inbound {
        return true;
    }
    let Ok(workload) = WorkloadKey::parse(name) else {
        return false;
    };
    match &caller.kind {
        IdentityKind::Workload {
            namespace,
            service_account,
        } => {
            namespace == &workload.namespace && view.account_of(&workload) == Some(service_account)
        }
        IdentityKind::Gateway { .. }
        | IdentityKind::Control { .. }
        | IdentityKind::Authority
        | IdentityKind::Other => false,
    }
}

fn cut(kind: ResourceType, system_version: &str, update: Update) -> Vec<Pending> {
    let piece = |resources, removed| Pending {
        kind,
        system_version: system_version.to_owned(),
        resources,
        removed,
    };
    let mut pieces = Vec::new();
    let (mut resources, mut bytes) = (Vec::new(), 0);
    for resource in update.resources {
        if bytes + resource.value.len() > RESPONSE_BYTES && !resources.is_empty() {
            pieces.push(piece(std::mem::take(&mut resources), Vec::new()));
            bytes = 0;
        }
        bytes += resource.value.len();
        resources.push(resource);
    }
    pieces.push(piece(resources, update.removed));
    pieces
}

/// One of the open streams, for as long as it lives.
struct Counted(Gauge);

impl Counted {
    fn new(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}
