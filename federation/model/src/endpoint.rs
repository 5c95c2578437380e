//! Endpoints: running instances that can serve a service.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::cluster::Locality;
use crate::identity::SpiffeId;
use crate::names::{HostName, WorkloadKey};

/// One instance behind a service, in its own cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// The workload it is.
    pub workload: WorkloadKey,
    /// The instance's own address.
    pub address: IpAddr,
    /// Where the sidecar beside it accepts mutual TLS.
    pub inbound: SocketAddr,
    /// Whom its certificate must name.
    pub identity: SpiffeId,
    /// Where it runs.
    pub locality: Locality,
    /// Its share relative to its siblings; 0 takes no new work.
    pub weight: u32,
    /// Whether it is alive and its app answers.
    pub ready: bool,
    /// Its DNS host name in a headless service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<HostName>,
    /// Service port → the app's port.
    pub ports: BTreeMap<u16, u16>,
}

impl Endpoint {
    /// The label under which DNS shows it in a headless service: its host name, else its address with `-`
    /// between the parts, as CoreDNS has it (the MCS API leaves the choice, its conformance tests do not).
    #[must_use]
    pub fn host_label(&self) -> String {
        match &self.hostname {
            Some(hostname) => hostname.as_str().to_owned(),
            None => self.address.to_string().replace(['.', ':'], "-"),
        }
    }
}
