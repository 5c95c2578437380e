//! How a DNS server is set up.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use ipnet::{IpNet, Ipv4Net};
use serde::{Deserialize, Serialize};

use crate::error::DnsError;
use crate::zone::ZoneSettings;

/// A daemon's `dns` section.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DnsConfig {
    /// Where to listen, each on UDP and TCP. Several processes may share an address (`SO_REUSEPORT`).
    /// Name concrete addresses: a reply from a wildcard address may carry another source address
    /// than the one that was asked.
    pub listen: Vec<SocketAddr>,
    /// Resolvers for everything that is not ours, tried in order. Empty: those of `resolvConf`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub forward: Vec<SocketAddr>,
    /// Where the system's resolvers are listed.
    #[serde(default = "default_resolv_conf")]
    pub resolv_conf: PathBuf,
    /// How long clients may keep an answer, in seconds.
    #[serde(default = "default_ttl_s")]
    pub ttl_s: u32,
    /// The cluster set's zone.
    #[serde(default = "default_clusterset_zone")]
    pub clusterset_zone: String,
    /// The ranges that virtual IPs come from: reverse lookups in them are answered here, not forwarded.
    #[serde(default = "default_virtual_ips")]
    pub virtual_ips: Vec<IpNet>,
}

impl DnsConfig {
    /// Everything at its default, listening there.
    #[must_use]
    pub fn new(listen: Vec<SocketAddr>) -> Self {
        Self {
            listen,
            forward: Vec::new(),
            resolv_conf: default_resolv_conf(),
            ttl_s: default_ttl_s(),
            clusterset_zone: default_clusterset_zone(),
            virtual_ips: default_virtual_ips(),
        }
    }

    /// The zones' settings.
    ///
    /// # Errors
    /// When `clustersetZone` is not a domain name.
    pub fn zones(&self) -> Result<ZoneSettings, DnsError> {
        ZoneSettings::new(&self.clusterset_zone, &self.virtual_ips, self.ttl_s)
    }
}

fn default_resolv_conf() -> PathBuf {
    Path::new("/etc/resolv.conf").to_owned()
}

fn default_ttl_s() -> u32 {
    5
}

fn default_clusterset_zone() -> String {
    "clusterset.local".to_owned()
}

/// 240.241.0.0/16
fn default_virtual_ips() -> Vec<IpNet> {
    let pool = Ipv4Net::new(Ipv4Addr::new(240, 241, 0, 0), 16);
    pool.into_iter().map(IpNet::V4).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_listen_is_required_and_unknown_fields_are_refused() {
        let config: DnsConfig = serde_json::from_str(r#"{"listen":["127.0.0.1:53"]}"#).unwrap();
        assert_eq!(
            config,
            DnsConfig::new(vec!["127.0.0.1:53".parse().unwrap()])
        );
        assert!(serde_json::from_str::<DnsConfig>(r#"{"listen":[],"upstream":[]}"#).is_err());
        assert!(serde_json::from_str::<DnsConfig>("{}").is_err());
    }
}
