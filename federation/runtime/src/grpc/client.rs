//! The way to a control plane: mutual TLS to the first of its addresses that answers.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use portolan_model::SpiffeId;
use portolan_model::names::{ClusterName, TrustDomain};
use portolan_transport::mtls::{self, ClientConfig, ClientTls, Expect, TlsContext};
use portolan_transport::wire::sni::SniName;
use tokio::net::TcpStream;
use tonic::transport::{Channel, Endpoint};

use super::{ALPN, KEEP_ALIVE_INTERVAL, KEEP_ALIVE_TIMEOUT};
use crate::settings::ControlClientConfig;
use crate::start::problem;
use crate::workers::chain;

/// How long one address may take to accept TCP.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// How long it may then take to finish TLS, which may cross the world.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(3);

/// Where to dial, asked anew for every connection.
pub type Addresses = Arc<dyn Fn() -> Vec<SocketAddr> + Send + Sync>;

/// A control plane to talk to.
#[derive(Clone)]
pub struct ControlTarget {
    /// Its cluster.
    pub cluster: ClusterName,
    /// Its cluster's trust domain.
    pub trust_domain: TrustDomain,
    /// Where it, or a gateway on the way to it, accepts connections; tried in order, beginning
    /// with the one that worked last.
    pub addresses: Addresses,
}

/// Whether to show a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Credentials {
    /// Show the identity of the [`TlsContext`].
    Certificate,
    /// Show none: a join token will speak.
    None,
}

impl ControlTarget {
    /// The control plane of a proxy's own cluster.
    #[must_use]
    pub fn own(config: &ControlClientConfig) -> Self {
        let addresses = config.control.clone();
        Self {
            cluster: config.cluster.clone(),
            trust_domain: config.trust_domain.clone(),
            addresses: Arc::new(move || addresses.clone()),
        }
    }
}

impl fmt::Debug for ControlTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "ControlTarget({} in {})",
            self.cluster, self.trust_domain
        )
    }
}

/// A channel to a control plane. It connects at the first call and again whenever the connection
/// is lost; a connection that does not answer for about 3 s is lost. Only exactly the identity
/// `spiffe://<trust domain>/portolan/control/<cluster>` is accepted.
#[must_use]
pub fn channel(target: &ControlTarget, tls: &TlsContext, credentials: Credentials) -> Channel {
    let expected = SpiffeId::control(&target.trust_domain, &target.cluster);
    let with_identity = credentials == Credentials::Certificate;
    let name = SniName::Control {
        cluster: target.cluster.clone(),
    };
    let dialer = Arc::new(Dialer {
        cluster: target.cluster.clone(),
        addresses: Arc::clone(&target.addresses),
        tls: tls.client_config(Expect::Exact(expected), ALPN, with_identity),
        name: name.to_string(),
        preferred: AtomicUsize::new(0),
    });
    let connector = tower::service_fn(move |_: http::Uri| {
        let dialer = Arc::clone(&dialer);
        async move { dialer.dial().await.map(TokioIo::new) }
    });
    endpoint().connect_with_connector_lazy(connector)
}

/// What all our clients have in common. The authority is for HTTP's sake; TLS names the server.
pub(super) fn endpoint() -> Endpoint {
    Endpoint::from_static("http://control.portolan.internal")
        .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .http2_adaptive_window(true)
}

struct Dialer {
    cluster: ClusterName,
    addresses: Addresses,
    tls: Arc<ClientConfig>,
    /// The server name that TLS asks for.
    name: String,
    /// Which address to begin with.
    preferred: AtomicUsize,
}

/// No address led to the control plane.
#[derive(Debug, thiserror::Error)]
#[error("no control plane of {cluster} answers ({tried})")]
struct Unreachable {
    cluster: ClusterName,
    tried: String,
}

impl Dialer {
    async fn dial(&self) -> Result<ClientTls, Unreachable> {
        let addresses = (self.addresses)();
        let first = self.preferred.load(Ordering::Relaxed);
        let mut tried = Vec::new();
        for step in 0..addresses.len() {
            let at = first.wrapping_add(step) % addresses.len();
            match self.dial_one(addresses[at]).await {
                Ok(stream) => {
                    self.preferred.store(at, Ordering::Relaxed);
                    return Ok(stream);
                }
                Err(problem) => tried.push(format!("{}: {problem}", addresses[at])),
            }
        }
        if tried.is_empty() {
            tried.push("no address is known".to_owned());
        }
        Err(Unreachable {
            cluster: self.cluster.clone(),
            tried: tried.join(", "),
        })
    }

    async fn dial_one(&self, address: SocketAddr) -> Result<ClientTls, String> {
        let connect = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(address));
        let tcp = match connect.await {
            Ok(Ok(tcp)) => tcp,
            Ok(Err(error)) => return Err(problem(&error)),
            Err(_) => return Err("no answer".to_owned()),
        };
        // Without it small messages wait for acknowledgements; with it set nothing breaks.
        drop(tcp.set_nodelay(true));
        mtls::connect(&self.tls, &self.name, tcp, HANDSHAKE_TIMEOUT)
            .await
            .map(|connected| connected.stream)
            .map_err(|error| chain(&error))
    }
}
