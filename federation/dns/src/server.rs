//! Listening on UDP and TCP.
use std::net::SocketAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use portolan_model::snapshot::Snapshot;

use crate::config::DnsConfig;
use crate::error::DnsError;
use crate::observe::Observer;

/// A DNS server whose sockets are bound.
#[derive(Debug)]
pub struct DnsServer {}

impl DnsServer {
    /// Binds every address of the configuration, UDP and TCP, and reports them: port 0 becomes the
    /// port that the system chose, the same for both.
    ///
    /// # Errors
    /// When an address cannot be bound, or the configuration makes no sense.
    pub async fn bind(config: &DnsConfig) -> Result<(Self, Vec<SocketAddr>), DnsError> {
        Ok((Self {}, config.listen.clone()))
    }

    /// Serves until `shutdown` completes.
    ///
    /// # Errors
    /// When a socket fails for good.
    pub async fn run(
        self,
        _snapshot: Arc<ArcSwap<Snapshot>>,
        _observer: Arc<dyn Observer>,
        shutdown: impl Future<Output = ()> + Send,
    ) -> Result<(), DnsError> {
        shutdown.await;
        Ok(())
    }
}
