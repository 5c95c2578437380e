//! The parts of configuration files that daemons have in common.

use std::net::SocketAddr;
use std::path::PathBuf;

use portolan_model::SpiffeId;
use portolan_model::names::{ClusterName, TrustDomain};
use serde::{Deserialize, Serialize};

/// How a proxy reaches its control plane and proves who it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ControlClientConfig {
    /// Where control planes of the cluster listen; tried in order.
    pub control: Vec<SocketAddr>,
    /// The cluster.
    pub cluster: ClusterName,
    /// The cluster's trust domain.
    pub trust_domain: TrustDomain,
    /// Root certificates (PEM) to begin with; newer ones arrive from the control plane.
    pub trust_bundle: PathBuf,
    /// A folder of the proxy's own: its identity, and what it last knew.
    pub state_dir: PathBuf,
    /// How to get the first certificate.
    #[serde(default)]
    pub join: JoinConfig,
}

impl ControlClientConfig {
    /// Whom the control plane's certificate must name.
    #[must_use]
    pub fn control_identity(&self) -> SpiffeId {
        SpiffeId::control(&self.trust_domain, &self.cluster)
    }
}

/// How a proxy gets its first certificate. With both set, the token is tried first.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct JoinConfig {
    /// A file that holds a join token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_file: Option<PathBuf>,
    /// The control plane's admin socket, which knows the Unix user of its callers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub socket: Option<PathBuf>,
}

/// What is logged, and how.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct LogConfig {
    /// Text for people or JSON for machines.
    pub format: LogFormat,
    /// `error`, `warn`, `info`, `debug`, `trace`, or directives as `info,portolan_gateway=debug`.
    /// The environment variable `PORTOLAN_LOG` overrides it.
    pub level: String,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            format: LogFormat::Text,
            level: "info".to_owned(),
        }
    }
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}
