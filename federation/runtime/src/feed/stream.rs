//! The discovery stream: incremental xDS with resume, ACK and NACK.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use portolan_api::core::Node;
use portolan_api::discovery::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use portolan_api::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use portolan_api::resource::{MESH_NAME, TRUST_NAME};
use portolan_api::rpc;
use portolan_api::{INBOUND, MESH, MESSAGE_BYTES_MAX, SERVICE, TRUST};
use portolan_transport::mtls::TlsContext;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::assembly::{Applied, Assembly};
use super::{Publish, Subscription};
use crate::backoff::Backoff;
use crate::grpc::{self, ControlTarget, Credentials, describe};
use crate::identity::save_roots;
use crate::settings::ControlClientConfig;

/// The first wait after a lost stream.
const RETRY_FLOOR: Duration = Duration::from_millis(50);
/// The longest wait between tries.
const RETRY_CEILING: Duration = Duration::from_secs(2);
/// How long the control plane may take to accept the stream, connecting included.
const OPEN_TIMEOUT: Duration = Duration::from_secs(5);
/// The most requests that wait to be sent: the subscriptions, and an answer per response.
const REQUESTS_MAX: usize = 16;
/// The longest message of a refusal, in bytes.
const REFUSAL_BYTES_MAX: usize = 2_000;

pub(super) struct Follower {
    client: AggregatedDiscoveryServiceClient<Channel>,
    node: Node,
    tls: TlsContext,
    subscriptions: Vec<(&'static str, String)>,
    assembly: Arc<Mutex<Assembly>>,
    publish: Publish,
}

impl Follower {
    pub(super) fn new(
        config: &ControlClientConfig,
        tls: &TlsContext,
        subscription: Subscription,
        assembly: Arc<Mutex<Assembly>>,
        publish: Publish,
    ) -> Self {
        let channel = grpc::channel(&ControlTarget::own(config), tls, Credentials::Certificate);
        let mut subscriptions = vec![
            (TRUST, TRUST_NAME.to_owned()),
            (MESH, MESH_NAME.to_owned()),
            (SERVICE, "*".to_owned()),
        ];
        if let Some(workload) = subscription.inbound {
            subscriptions.push((INBOUND, workload.to_string()));
        }
        Self {
            client: AggregatedDiscoveryServiceClient::new(channel)
                .max_decoding_message_size(MESSAGE_BYTES_MAX),
            node: Node {
                id: String::new(),
                cluster: config.cluster.to_string(),
            },
            tls: tls.clone(),
            subscriptions,
            assembly,
            publish,
        }
    }

    /// Keeps a stream open. Never ends by itself.
    pub(super) async fn follow(mut self) {
        let mut backoff = Backoff::new(RETRY_FLOOR, RETRY_CEILING);
        let mut said = false;
        loop {
            let began = Instant::now();
            let ended = self.follow_once().await;
            let was_live = self.publish.live.send_replace(false);
            if was_live {
                backoff.worked_for(began.elapsed());
            }
            let wait = backoff.wait();
            let (problem, retry_in_ms) = (describe(&ended), wait.as_millis());
            let generation = *self.publish.changed.borrow();
            if was_live || !said {
                tracing::warn!(
                    problem,
                    generation,
                    "the control plane does not answer: going on with what is known, trying again"
                );
            } else {
                tracing::debug!(problem, retry_in_ms, "no discovery stream");
            }
            said = true;
            tokio::time::sleep(wait).await;
        }
    }

    async fn follow_once(&mut self) -> Status {
        let (requests, outgoing) = mpsc::channel(REQUESTS_MAX);
        for request in self.first_requests() {
            if requests.send(request).await.is_err() {
                return Status::internal("the stream's own queue is closed");
            }
        }
        let call = self
            .client
            .delta_aggregated_resources(ReceiverStream::new(outgoing));
        let mut responses = match tokio::time::timeout(OPEN_TIMEOUT, call).await {
            Ok(Ok(response)) => response.into_inner(),
            Ok(Err(status)) => return status,
            Err(_) => return Status::deadline_exceeded("no answer within 5 s"),
        };
        loop {
            let response = match responses.message().await {
                Ok(Some(response)) => response,
                Ok(None) => return Status::unavailable("the control plane ended the stream"),
                Err(status) => return status,
            };
            let answer = self.take(response);
            if !self.publish.live.send_replace(true) {
                let generation = *self.publish.changed.borrow();
                tracing::info!(generation, "following the control plane");
            }
            if requests.send(answer).await.is_err() {
                return Status::unavailable("the control plane no longer listens");
            }
        }
    }

    /// Subscribes to everything, and says what is held already.
    fn first_requests(&mut self) -> Vec<DeltaDiscoveryRequest> {
        self.node.id = self
            .tls
            .identity()
            .map(|identity| identity.id.to_string())
            .unwrap_or_default();
        let assembly = self.assembly.lock().unwrap_or_else(PoisonError::into_inner);
        let request = |(type_url, name): &(&'static str, String)| DeltaDiscoveryRequest {
            node: Some(self.node.clone()),
            type_url: (*type_url).to_owned(),
            resource_names_subscribe: vec![name.clone()],
            resource_names_unsubscribe: vec![],
            initial_resource_versions: assembly.versions(type_url),
            response_nonce: String::new(),
            error_detail: None,
        };
        self.subscriptions.iter().map(request).collect()
    }

    /// Takes a response, publishes what it changed, and answers it.
    fn take(&self, response: DeltaDiscoveryResponse) -> DeltaDiscoveryRequest {
        let type_url = response.type_url.clone();
        let nonce = response.nonce.clone();
        let applied = self
            .assembly
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .apply(response);
        for note in &applied.notes {
            tracing::warn!(type_url, "{note}");
        }
        let error_detail = refusal(&applied.faults);
        if let Some(error) = &error_detail {
            tracing::warn!(
                type_url,
                problem = error.message,
                "refused; the previous version stays"
            );
        }
        self.publish.put(applied);
        DeltaDiscoveryRequest {
            node: None,
            type_url,
            resource_names_subscribe: vec![],
            resource_names_unsubscribe: vec![],
            initial_resource_versions: BTreeMap::new(),
            response_nonce: nonce,
            error_detail,
        }
    }
}

impl Publish {
    fn put(&self, applied: Applied) {
        if let Some(snapshot) = applied.snapshot {
            let generation = snapshot.generation;
            self.snapshot.store(snapshot);
            self.changed.send_replace(generation);
        }
        if let Some(trust) = applied.trust
            && trust != *self.tls.trust()
        {
            tracing::info!(roots = trust.roots().len(), "trusting new roots");
            save_roots(&self.state_dir, &trust);
            self.tls.swap_trust(trust);
        }
    }
}

fn refusal(faults: &[String]) -> Option<rpc::Status> {
    if faults.is_empty() {
        return None;
    }
    let mut message = faults.join("; ");
    message.truncate(message.floor_char_boundary(REFUSAL_BYTES_MAX));
    Some(rpc::Status {
        code: Code::InvalidArgument.into(),
        message,
    })
}
