//! Dialling: TCP to an endpoint or a gateway, then TLS to the other sidecar.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use foldhash::HashMap;
use portolan_model::snapshot::{LinkState, Snapshot};
use portolan_model::{ClusterName, Hop, Reason, Refusal};
use portolan_policy::blame;
use portolan_policy::retry::Outcome;
use portolan_runtime::workers::chain;
use portolan_transport::listen;
use portolan_transport::mtls::{self, ClientConfig, ClientTls, TlsContext, TlsError};
use smallvec::SmallVec;
use tokio::time::Instant;

use super::passage;
use super::target::{Place, Target};
use crate::balancer::{Balancer, Health, Subject};
use crate::metrics::Metrics;
use crate::worker::Shared;

/// Dials for one worker.
pub(crate) struct Dialler {
    tls: TlsContext,
    snapshot: Arc<ArcSwap<Snapshot>>,
    balancer: Rc<Balancer>,
    metrics: Metrics,
    /// How often each gateway with connections through it fell silent.
    silences: RefCell<HashMap<SocketAddr, Rc<Cell<u32>>>>,
}

/// Tells whether the gateway that a connection leads through fell silent since the connection began,
/// even if that was noticed on another connection.
pub(crate) struct Passable {
    silences: Rc<Cell<u32>>,
    before: u32,
}

impl Passable {
    pub(super) fn still(&self) -> bool {
        self.silences.get() == self.before
    }
}

/// A connection that stands.
#[derive(Debug)]
pub(crate) struct Dialled {
    /// The connection.
    pub(crate) stream: ClientTls,
    /// The endpoint's or gateway's address.
    pub(crate) via: SocketAddr,
}

/// Why no connection stands. Whatever it is, nothing of a request was sent.
#[derive(Debug, Clone, thiserror::Error)]
#[error(transparent)]
pub(crate) struct DialError(#[from] pub(crate) Refusal);

impl DialError {
    pub(crate) fn new(reason: Reason, why: impl Into<String>) -> Self {
        Self(Refusal::new(reason, Hop::Outbound, why))
    }

    /// The failure, as the retry policy knows it.
    pub(crate) fn outcome(&self) -> Outcome {
        match self.0.reason {
            // It is the connection that took too long, and not an answer.
            Reason::Timeout | Reason::ConnectFailed | Reason::Internal => Outcome::ConnectFailed,
            Reason::NoRoute
            | Reason::NotExported
            | Reason::Denied
            | Reason::NoHealthyUpstream
            | Reason::Overloaded
            | Reason::RateLimited
            | Reason::PeerUnreachable
            | Reason::Reset
            | Reason::IdentityMismatch
            | Reason::BadRequest
            | Reason::Loop
            | Reason::Draining
            | Reason::NotReady
            | Reason::InvalidBackend => Outcome::Refused(self.0.reason),
        }
    }
}

impl Dialler {
    pub(crate) fn new(shared: &Shared, balancer: Rc<Balancer>) -> Self {
        Self {
            tls: shared.tls.clone(),
            snapshot: Arc::clone(&shared.snapshot),
            metrics: shared.metrics.clone(),
            balancer,
            silences: RefCell::default(),
        }
    }

    pub(crate) fn balancer(&self) -> &Balancer {
        &self.balancer
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// How TLS to this target is set up.
    pub(crate) fn config(&self, target: &Target, alpn: &[u8]) -> Arc<ClientConfig> {
        self.tls.client_config(target.expect(), &[alpn], true)
    }

    /// Dials within `limit`. A failure is put on the record of whoever did not answer.
    ///
    /// # Errors
    /// Says who did not answer, or who refused.
    pub(crate) async fn dial(
        &self,
        target: &Target,
        config: &Arc<ClientConfig>,
        limit: Duration,
    ) -> Result<Dialled, DialError> {
        let begun = Instant::now();
        let dialled = match &target.place {
            Place::Endpoint { inbound, .. } => {
                self.to_endpoint(target, *inbound, config, limit).await
            }
            Place::Cluster { .. } => {
                passage::through(self, self.gateways(), target, config, limit).await
            }
        };
        let failure = dialled.as_ref().err().map(|error| error.0.reason);
        self.metrics.dialled(target.cluster(), failure);
        if let Err(error) = &dialled {
            tracing::debug!(%target, %error, "cannot connect");
            self.blame(target, error.0.reason, begun.elapsed());
        }
        dialled
    }

    /// Puts on record that no connection to the target could be had, after so much waiting, unless
    /// other connections tell that it is there.
    pub(crate) fn blame(&self, target: &Target, reason: Reason, waited: Duration) {
        let fault = match target.subject() {
            Subject::Cluster(service, cluster) => {
                let answered = self.balancer.cluster_answered(service, cluster);
                blame::cluster_for_dial(reason, waited, answered)
            }
            Subject::Endpoint(_) | Subject::Gateway(_) => true,
        };
        if fault {
            self.balancer.record(target.subject(), Health::Unconnected);
        }
    }

    /// Watches for the silence of whoever is at this address.
    pub(super) fn passable(&self, via: SocketAddr) -> Passable {
        let mut all = self.silences.borrow_mut();
        if !all.contains_key(&via) {
            all.retain(|_, silences| Rc::strong_count(silences) > 1);
        }
        let silences = Rc::clone(all.entry(via).or_default());
        let before = silences.get();
        Passable { silences, before }
    }

    /// A gateway fell silent: no connection through it takes more requests, whichever cluster it leads to.
    pub(super) fn gateway_silent(&self, via: SocketAddr) {
        if let Some(silences) = self.silences.borrow().get(&via) {
            silences.set(silences.get().wrapping_add(1));
        }
        let subject = Subject::Gateway(via);
        self.balancer.record(subject, Health::Unconnected);
    }

    /// The best known round trip to another cluster.
    pub(super) fn rtt(&self, cluster: &ClusterName) -> Option<Duration> {
        let snapshot = self.snapshot.load();
        match snapshot.mesh.as_ref()?.peer(cluster)?.link {
            LinkState::Up { rtt_us } => Some(Duration::from_micros(rtt_us.into())),
            LinkState::Unknown | LinkState::Down => None,
        }
    }

    async fn to_endpoint(
        &self,
        target: &Target,
        inbound: SocketAddr,
        config: &Arc<ClientConfig>,
        limit: Duration,
    ) -> Result<Dialled, DialError> {
        let begun = Instant::now();
        let tcp = listen::connect(inbound, limit).await.map_err(|error| {
            DialError::new(
                Reason::ConnectFailed,
                format!("{target} does not accept connections: {error}"),
            )
        })?;
        let left = limit.saturating_sub(begun.elapsed());
        let connected = mtls::connect(config, &target.sni(), tcp, left).await;
        let stream = connected
            .map_err(|error| refusal(target, &error, Hop::Inbound))?
            .stream;
        Ok(Dialled {
            stream,
            via: inbound,
        })
    }

    /// The own cluster's gateways in the order in which they are tried: those that answered first,
    /// and among those a random one.
    fn gateways(&self) -> SmallVec<[SocketAddr; 4]> {
        let snapshot = self.snapshot.load();
        let mesh = snapshot.mesh.as_deref();
        let mut gateways: SmallVec<[SocketAddr; 4]> = mesh
            .iter()
            .flat_map(|mesh| &mesh.gateways)
            .map(|gateway| gateway.tcp)
            .collect();
        if gateways.len() > 1 {
            let first = rand::random_range(0..gateways.len());
            gateways.rotate_left(first);
            gateways.sort_by_key(|gateway| self.balancer.gateway_ejected(*gateway));
        }
        gateways
    }
}

/// What a failed handshake tells. Alerts were sent by the next hop (or one behind it).
pub(super) fn refusal(target: &Target, error: &TlsError, next: Hop) -> DialError {
    let hop = match error {
        TlsError::Refused(_) => next,
        TlsError::Timeout(_)
        | TlsError::Peer(_)
        | TlsError::NotAccepted(_)
        | TlsError::Closed
        | TlsError::Io(_)
        | TlsError::Name(_)
        | TlsError::Key(_)
        | TlsError::Protocol(_) => Hop::Outbound,
    };
    DialError(Refusal::new(
        error.reason(),
        hop,
        format!("{target}: {}", chain(error)),
    ))
}
