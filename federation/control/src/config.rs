//! The control plane's configuration file.

use std::net::SocketAddr;
use std::path::PathBuf;

use ipnet::{Ipv4Net, Ipv6Net};
use portolan_compiler::VipPools;
use portolan_dns::DnsConfig;
use portolan_model::{
    ClusterIdentity, ClusterName, ClusterSetName, NameError, Region, SpiffeId, TrustDomain, Zone,
};
use portolan_registry::RegistryConfig;
use portolan_runtime::LogConfig;
use serde::{Deserialize, Serialize};

/// A commented configuration file with every field; it parses.
pub const EXAMPLE: &str = include_str!("example.yaml");

/// The configuration of one control plane.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ControlConfig {
    /// This cluster's name.
    pub cluster: ClusterName,
    /// The cluster set it belongs to.
    pub cluster_set: ClusterSetName,
    /// Its region.
    pub region: Region,
    /// Its zones.
    #[serde(default)]
    pub zones: Vec<Zone>,
    /// The trust domain its CA issues in; `<cluster>.<clusterSet>` without it.
    #[serde(default)]
    pub trust_domain: Option<TrustDomain>,
    /// Where state is kept.
    pub data_dir: PathBuf,
    /// Where declarations are kept; the file `registry.redb` in `dataDir` without it.
    #[serde(default)]
    pub registry: Option<RegistryConfig>,
    /// Where proxies and, through gateways, peers call (TLS).
    pub listen: SocketAddr,
    /// The address of `listen` as gateways reach it; `listen` itself without it.
    #[serde(default)]
    pub advertise: Option<SocketAddr>,
    /// The admin API's Unix socket; the file `admin.sock` in `dataDir` without it.
    #[serde(default)]
    pub admin: Option<PathBuf>,
    /// Where `/metrics`, `/healthz` and `/readyz` are served.
    pub http: SocketAddr,
    /// The cluster's DNS server; none without it.
    #[serde(default)]
    pub dns: Option<DnsConfig>,
    /// The cluster's certificate authority.
    pub ca: CaConfig,
    /// Files and directories of declarations that are applied, and applied again whenever they change.
    #[serde(default)]
    pub sources: Vec<PathBuf>,
    /// Where virtual IPs are taken from.
    #[serde(default)]
    pub vips: VipConfig,
    /// Which identities Unix users other than root and the control plane's own may ask for on the admin socket.
    #[serde(default)]
    pub local_identities: Vec<LocalIdentity>,
    /// Logging.
    #[serde(default)]
    pub log: LogConfig,
}

/// The files of the cluster's certificate authority, PEM.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct CaConfig {
    /// The intermediate certificate, which carries `spiffe://<trust domain>`.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// The cluster set's roots.
    pub roots: PathBuf,
}

/// The pools of virtual IPs.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct VipConfig {
    /// The IPv4 pool.
    #[serde(default = "default_v4_pool")]
    pub v4: Ipv4Net,
    /// The IPv6 pool; `null` for none.
    #[serde(default = "default_v6_pool")]
    pub v6: Option<Ipv6Net>,
}

impl Default for VipConfig {
    fn default() -> Self {
        Self {
            v4: default_v4_pool(),
            v6: default_v6_pool(),
        }
    }
}

fn default_v4_pool() -> Ipv4Net {
    Ipv4Net::new_assert(std::net::Ipv4Addr::new(240, 241, 0, 0), 16)
}

fn default_v6_pool() -> Option<Ipv6Net> {
    Some(Ipv6Net::new_assert(
        std::net::Ipv6Addr::new(0xfd24, 0x241, 0, 0, 0, 0, 0, 0),
        64,
    ))
}

/// The longest prefix of an IPv6 pool: the last 32 bits are the twin's IPv4 address.
const TWIN_PREFIX_MAX: u8 = 96;

/// What one Unix user may be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct LocalIdentity {
    /// The user's numeric id.
    pub uid: u32,
    /// A SPIFFE ID of this cluster's trust domain, in which a path segment `*` stands for any one segment.
    pub identity: IdentityPattern,
}

/// A SPIFFE ID in which a path segment `*` stands for any one segment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct IdentityPattern(String);

impl IdentityPattern {
    /// Parses a pattern such as `spiffe://us-east.mesh/ns/shop/sa/*`.
    ///
    /// # Errors
    /// When it would be no SPIFFE ID even with its stars replaced.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let example = match text.split_once("://") {
            Some((scheme, rest)) => format!("{scheme}://{}", rest.replace("/*", "/any")),
            None => text.to_owned(),
        };
        SpiffeId::parse(&example)?;
        Ok(Self(text.to_owned()))
    }

    /// Whether `id` is one of those meant.
    #[must_use]
    pub fn matches(&self, id: &SpiffeId) -> bool {
        let id = id.to_string();
        let (mut wanted, mut found) = (self.0.split('/'), id.split('/'));
        loop {
            match (wanted.next(), found.next()) {
                (None, None) => return true,
                (Some("*"), Some(_)) => {}
                (Some(wanted), Some(found)) if wanted == found => {}
                (None | Some(_), _) => return false,
            }
        }
    }
}

impl TryFrom<String> for IdentityPattern {
    type Error = NameError;
    fn try_from(text: String) -> Result<Self, NameError> {
        Self::parse(&text)
    }
}

impl From<IdentityPattern> for String {
    fn from(pattern: IdentityPattern) -> Self {
        pattern.0
    }
}

/// Why a configuration cannot be used although each of its fields can be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The default trust domain is not valid.
    #[error(
        "cluster and clusterSet make no valid trust domain together: {0}; set trustDomain in the configuration"
    )]
    TrustDomain(NameError),
    /// Gateways cannot dial an unspecified address.
    #[error(
        "listen is {0}, an address that nobody can dial; set advertise to the address at which gateways reach it"
    )]
    Advertise(SocketAddr),
    /// The IPv6 pool is too small to hold a twin of each IPv4 address.
    #[error(
        "vips.v6 is {0}, which has no room for a twin of each IPv4 address; use a prefix of at most 96 bits, or `v6: null`"
    )]
    TwinPool(Ipv6Net),
}

impl ControlConfig {
    /// Who this cluster is.
    ///
    /// # Errors
    /// When no trust domain is given and the default one is not valid.
    pub fn identity(&self) -> Result<ClusterIdentity, ConfigError> {
        let trust_domain = match &self.trust_domain {
            Some(domain) => domain.clone(),
            None => ClusterIdentity::default_trust_domain(&self.cluster, &self.cluster_set)
                .map_err(ConfigError::TrustDomain)?,
        };
        Ok(ClusterIdentity {
            name: self.cluster.clone(),
            set: self.cluster_set.clone(),
            region: self.region.clone(),
            zones: self.zones.clone(),
            trust_domain,
        })
    }

    /// The registry, the default one included.
    #[must_use]
    pub fn registry(&self) -> RegistryConfig {
        self.registry
            .clone()
            .unwrap_or_else(|| RegistryConfig::Embedded {
                path: self.data_dir.join("registry.redb"),
            })
    }

    /// The admin socket's path, the default one included.
    #[must_use]
    pub fn admin_socket(&self) -> PathBuf {
        self.admin
            .clone()
            .unwrap_or_else(|| self.data_dir.join("admin.sock"))
    }

    /// Where virtual IPs come from.
    ///
    /// # Errors
    /// When the IPv6 pool cannot hold a twin of each IPv4 address.
    pub fn vip_pools(&self) -> Result<VipPools, ConfigError> {
        let VipConfig { v4, v6 } = self.vips;
        match v6 {
            Some(pool) if pool.prefix_len() > TWIN_PREFIX_MAX => Err(ConfigError::TwinPool(pool)),
            Some(_) | None => Ok(VipPools { v4, v6 }),
        }
    }

    /// Where gateways forward peering calls, given the address that is really bound.
    ///
    /// # Errors
    /// When it is an unspecified address.
    pub fn advertised(&self, bound: SocketAddr) -> Result<SocketAddr, ConfigError> {
        let address = self.advertise.unwrap_or(bound);
        if address.ip().is_unspecified() {
            return Err(ConfigError::Advertise(bound));
        }
        Ok(address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_parses_and_means_something() {
        let config: ControlConfig = serde_saphyr::from_str(EXAMPLE).unwrap();
        let identity = config.identity().unwrap();
        assert_eq!(identity.trust_domain.as_str(), "us-east.mesh");
        assert!(config.advertised(config.listen).is_ok());
    }

    #[test]
    fn unknown_fields_are_refused_by_name() {
        let text = EXAMPLE.replace("region: us", "region: us\nregoin: eu");
        let error = serde_saphyr::from_str::<ControlConfig>(&text).unwrap_err();
        assert!(error.to_string().contains("regoin"), "{error}");
    }

    #[test]
    fn a_pool_without_room_for_twins_is_refused() {
        let mut config: ControlConfig = serde_saphyr::from_str(EXAMPLE).unwrap();
        assert!(config.vip_pools().is_ok());
        config.vips.v6 = Some("fd24::/97".parse().unwrap());
        let refused = config.vip_pools().unwrap_err().to_string();
        assert!(refused.contains("fd24::/97"), "{refused}");
        config.vips.v6 = None;
        assert!(config.vip_pools().is_ok());
    }

    #[test]
    fn patterns_match_whole_segments() {
        let pattern = IdentityPattern::parse("spiffe://td/ns/shop/sa/*").unwrap();
        let matches = |id: &str| pattern.matches(&SpiffeId::parse(id).unwrap());
        assert!(matches("spiffe://td/ns/shop/sa/orders"));
        assert!(!matches("spiffe://td/ns/shop/sa/orders/x"));
        assert!(!matches("spiffe://td/ns/bank/sa/orders"));
        assert!(!matches("spiffe://other/ns/shop/sa/orders"));
        assert!(!matches("spiffe://td/ns/shop"));
        assert!(IdentityPattern::parse("spiffe://*/ns/a").is_err());
    }
}
