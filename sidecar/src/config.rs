//! The sidecar's configuration file.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use portolan_dns::DnsConfig;
use portolan_model::declared::DEFAULT_INBOUND_PORT;
use portolan_model::{
    ClusterName, HostName, Locality, Namespace, PortName, ServiceAccount, SpiffeId, TrustDomain,
    WorkloadKey, WorkloadName,
};
use portolan_runtime::{ConfigError, ControlClientConfig, JoinConfig, LogConfig};
use serde::{Deserialize, Serialize};

use crate::http::HttpConfig;

/// A commented configuration that parses.
pub const EXAMPLE: &str = include_str!("example.yaml");

/// The most workers that a configuration may ask for.
pub const WORKERS_MAX: usize = 256;

/// What `portolan sidecar --config FILE` reads.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct SidecarConfig {
    /// The instance that this sidecar stands beside.
    pub workload: WorkloadConfig,
    /// The cluster it belongs to.
    pub cluster: ClusterName,
    /// The cluster's trust domain; its certificate will be issued in it.
    pub trust_domain: TrustDomain,
    /// The roots that the control plane is verified with at first, PEM.
    pub trust_bundle: PathBuf,
    /// Where the cluster's control planes listen, in the order in which they are tried.
    pub control: Vec<SocketAddr>,
    /// Where the certificate and the last good snapshot are kept.
    pub state_dir: PathBuf,
    /// How the first certificate is asked for.
    #[serde(default)]
    pub join: JoinConfig,
    /// Where the app sends its calls: HTTP proxy, CONNECT, or plain requests with a `Host`.
    pub outbound: SocketAddr,
    /// Where captured connections arrive; none without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capture: Option<SocketAddr>,
    /// Where other sidecars and gateways arrive with mutual TLS.
    pub inbound: SocketAddr,
    /// Where metrics, health and `explain` are served.
    pub admin: SocketAddr,
    /// A DNS server for the app; none without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dns: Option<DnsConfig>,
    /// Threads that carry traffic; 0 means one per core.
    #[serde(default = "default_workers")]
    pub workers: usize,
    /// Whether calls to hosts outside the mesh are passed on.
    #[serde(default = "default_passthrough")]
    pub passthrough: bool,
    /// How HTTP is treated.
    #[serde(default)]
    pub http: HttpConfig,
    /// How logs are written.
    #[serde(default)]
    pub log: LogConfig,
}

/// The instance beside a sidecar.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct WorkloadConfig {
    /// Its namespace.
    pub namespace: Namespace,
    /// Its name, unique in the namespace.
    pub name: WorkloadName,
    /// The service account it runs as, the last part of its identity.
    pub service_account: ServiceAccount,
    /// Labels that services select by.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// The app's ports by name.
    #[serde(default)]
    pub ports: BTreeMap<PortName, u16>,
    /// The address that others reach this instance at.
    pub address: IpAddr,
    /// Where the app itself listens, if not on `address`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app_address: Option<IpAddr>,
    /// The port of `address` at which others reach the inbound listener, if it is not the port that
    /// `inbound` binds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inbound_port: Option<u16>,
    /// Where it runs; the cluster's region without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub locality: Option<Locality>,
    /// Its share relative to its siblings; 0 takes no new work.
    #[serde(default = "default_weight")]
    pub weight: u32,
    /// Its DNS host name in headless services.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<HostName>,
}

impl SidecarConfig {
    /// Checks what types cannot say.
    ///
    /// # Errors
    /// Names the field and what would be right.
    pub fn check(&self) -> Result<(), ConfigError> {
        if self.control.is_empty() {
            let remedy = "name at least one control plane as `ip:port`";
            return Err(ConfigError::unusable(
                "control",
                "the list is empty",
                remedy,
            ));
        }
        if self.workers > WORKERS_MAX {
            let problem = format!("{} threads are too many", self.workers);
            let remedy = format!("use at most {WORKERS_MAX}, or 0 for one per core");
            return Err(ConfigError::unusable("workers", problem, remedy));
        }
        self.http.check()?;
        if self.workload.address.is_unspecified() {
            let remedy = "write the address that others reach this instance at";
            return Err(ConfigError::unusable(
                "workload.address",
                "a wildcard is no address",
                remedy,
            ));
        }
        Ok(())
    }

    /// The workload's key.
    #[must_use]
    pub fn workload_key(&self) -> WorkloadKey {
        WorkloadKey::new(self.workload.namespace.clone(), self.workload.name.clone())
    }

    /// The identity that the workload presents.
    #[must_use]
    pub fn identity(&self) -> SpiffeId {
        SpiffeId::workload(
            &self.trust_domain,
            &self.workload.namespace,
            &self.workload.service_account,
        )
    }

    /// The address at which the app is reached from here.
    #[must_use]
    pub fn app_address(&self) -> IpAddr {
        self.workload.app_address.unwrap_or(self.workload.address)
    }

    /// The port at which others reach the inbound listener.
    #[must_use]
    pub fn inbound_port(&self) -> u16 {
        let bound = match self.inbound.port() {
            0 => DEFAULT_INBOUND_PORT,
            port => port,
        };
        self.workload.inbound_port.unwrap_or(bound)
    }

    /// Threads that carry traffic, at least one.
    #[must_use]
    pub fn worker_count(&self) -> usize {
        if self.workers > 0 {
            return self.workers;
        }
        std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
    }

    /// What the connection to the control plane needs to know.
    #[must_use]
    pub fn control_client(&self) -> ControlClientConfig {
        ControlClientConfig {
            control: self.control.clone(),
            cluster: self.cluster.clone(),
            trust_domain: self.trust_domain.clone(),
            trust_bundle: self.trust_bundle.clone(),
            state_dir: self.state_dir.clone(),
            join: self.join.clone(),
        }
    }
}

fn default_workers() -> usize {
    1
}

fn default_passthrough() -> bool {
    true
}

fn default_weight() -> u32 {
    100
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> SidecarConfig {
        portolan_runtime::config::parse("example", EXAMPLE).unwrap()
    }

    #[test]
    fn the_example_parses() {
        let config = example();
        assert_eq!(
            config.identity().to_string(),
            "spiffe://us-east.example/ns/shop/sa/orders"
        );
        assert_eq!(config.workload_key().to_string(), "shop/orders-1");
        assert_eq!(config.inbound_port(), 15_008);
    }

    #[test]
    fn mistakes_are_named() {
        let unknown = EXAMPLE.replace("passthrough:", "passthru:");
        let error = portolan_runtime::config::parse::<SidecarConfig>("x.yaml", &unknown);
        let text = error.unwrap_err().to_string();
        assert!(
            text.starts_with("x.yaml:") && text.contains("passthru"),
            "{text}"
        );

        let mut config = example();
        config.control.clear();
        assert!(config.check().unwrap_err().to_string().contains("control"));
    }
}
