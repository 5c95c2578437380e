//! The way to a peer's control plane: mutual TLS end to end, through a gateway of this cluster.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use portolan_model::snapshot::{Mesh, Peer};
use portolan_runtime::grpc::{ControlTarget, Credentials, channel};
use portolan_transport::mtls::TlsContext;
use tonic::transport::Channel;

/// Where to connect for a peer.
pub(crate) type Ways = Arc<dyn Fn(&Peer, &Mesh) -> Vec<SocketAddr> + Send + Sync>;

/// Every live gateway of this cluster: it reads the name `control.<peer>.portolan.internal` and passes
/// the bytes on.
pub(crate) fn through_gateways() -> Ways {
    Arc::new(|_peer, mesh| mesh.gateways.iter().map(|gateway| gateway.tcp).collect())
}

/// Dials peers.
#[derive(Clone)]
pub(crate) struct Dialer {
    pub(crate) tls: TlsContext,
    pub(crate) ways: Ways,
}

impl Dialer {
    /// A channel that connects when it is first used. It accepts exactly the peer's control plane.
    pub(crate) fn channel(&self, peer: &Peer, mesh: &Mesh) -> Channel {
        let addresses = (self.ways)(peer, mesh);
        let target = ControlTarget {
            cluster: peer.name.clone(),
            trust_domain: peer.trust_domain.clone(),
            addresses: Arc::new(move || addresses.clone()),
        };
        channel(&target, &self.tls, Credentials::Certificate)
    }
}

impl fmt::Debug for Dialer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Dialer")
    }
}
