//! The gateway's configuration file.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use portolan_dns::DnsConfig;
use portolan_model::{ClusterName, SpiffeId, TrustDomain};
use portolan_runtime::{ConfigError, ControlClientConfig, JoinConfig, LogConfig};
use portolan_transport::quic::{Congestion, LinkSettings, TUNNELS_MAX};
use serde::{Deserialize, Serialize};

/// A commented configuration that parses.
pub const EXAMPLE: &str = include_str!("example.yaml");

/// The most workers that a configuration may ask for.
pub const WORKERS_MAX: usize = 256;
/// The most tunnels that a configuration may allow.
pub const ALL_TUNNELS_MAX: usize = 1_000_000;
/// The fewest bytes that a window or a buffer of links may have: room for a few packets.
const WINDOW_MIN: usize = 64 * 1024;
/// The most bytes that a window or a buffer of links may have.
const BUFFER_MAX: usize = 1024 * 1024 * 1024;
/// The shortest silence that a configuration may call death: some keep-alives of a near peer.
const DEAD_AFTER_MS_MIN: usize = 100;
/// Signs of life that are asked for before a silent link is dead.
const KEEP_ALIVES: u32 = 4;
/// So many times longer than we do, QUIC itself waits before it ends a silent link.
const QUIC_PATIENCE: u32 = 10;
/// Dialling takes at most this long: then it begins anew, since QUIC asks less and less often.
const DIAL_TIMEOUT: Duration = Duration::from_millis(1_500);

/// What `portolan gateway --config FILE` reads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct GatewayConfig {
    /// Its name, unique in the cluster; the last part of its identity.
    pub name: String,
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
    /// Where local sidecars arrive (TCP).
    pub tcp: SocketAddr,
    /// Where peers' gateways arrive (UDP).
    pub quic: SocketAddr,
    /// How others reach the two, where that is not the address that is bound.
    #[serde(default)]
    pub advertise: AdvertiseConfig,
    /// Where metrics, health and `/links` are served.
    pub admin: SocketAddr,
    /// A DNS server for the cluster; none without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dns: Option<DnsConfig>,
    /// Threads that carry traffic; 0 means one per core.
    #[serde(default)]
    pub workers: usize,
    /// How links to peers behave.
    #[serde(default)]
    pub links: LinksConfig,
    /// Bounds; what exceeds them is refused at once.
    #[serde(default)]
    pub limits: LimitsConfig,
    /// How long open tunnels may go on after the gateway was told to stop, in seconds.
    #[serde(default = "default_drain_s")]
    pub drain_s: u64,
    /// How logs are written.
    #[serde(default)]
    pub log: LogConfig,
}

/// How others reach the gateway's listeners.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct AdvertiseConfig {
    /// Where local sidecars dial, if not the bound `tcp`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcp: Option<SocketAddr>,
    /// Where peers dial, if not the bound `quic`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quic: Option<SocketAddr>,
}

/// How links to peers behave.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct LinksConfig {
    /// How a sender finds its rate.
    pub congestion: CongestionConfig,
    /// Bytes in flight on a link, in each direction: the path's rate × its round-trip time.
    pub link_window: u32,
    /// Bytes in flight in one tunnel, in each direction.
    pub tunnel_window: u32,
    /// When packets are sent twice.
    pub send_twice: SendTwice,
    /// The kernel's buffers of a UDP socket, in bytes.
    pub socket_buffer: usize,
    /// A link is dead after so long without a sign of life, in milliseconds.
    pub dead_after_ms: u64,
}

/// A congestion controller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum CongestionConfig {
    /// CUBIC.
    Cubic,
    /// BBR.
    #[default]
    Bbr,
    /// New Reno.
    NewReno,
}

/// When packets of a link are sent twice, a few milliseconds apart, as far as congestion control leaves
/// room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum SendTwice {
    /// While the link loses packets.
    #[default]
    OnLoss,
    /// Never.
    Never,
}

/// Bounds of the gateway; what exceeds them is refused with the reason `overloaded`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct LimitsConfig {
    /// Tunnels open at a time, both directions together.
    pub tunnels: usize,
    /// Tunnels open at a time on one link, both directions together.
    pub tunnels_per_link: u32,
    /// Connections and tunnels that have not been accepted yet, in each direction.
    pub handshakes: usize,
    /// How long a tunnel may stay open without a byte in either direction, in seconds.
    pub idle_s: u64,
}

impl GatewayConfig {
    /// Checks what types cannot say.
    ///
    /// # Errors
    /// Names the field and what would be right.
    pub fn check(&self) -> Result<(), ConfigError> {
        self.identity()?;
        if self.control.is_empty() {
            let problem = "no control plane is named";
            let remedy = "name at least one as `ip:port`";
            return Err(ConfigError::unusable("control", problem, remedy));
        }
        self.advertised_tcp(self.tcp)?;
        self.advertised_quic(self.quic)?;
        in_range("workers", self.workers, 0, WORKERS_MAX)?;
        self.links.check()?;
        let limits = &self.limits;
        in_range("limits.tunnels", limits.tunnels, 1, ALL_TUNNELS_MAX)?;
        in_range("limits.handshakes", limits.handshakes, 1, ALL_TUNNELS_MAX)?;
        let per_link = limits.tunnels_per_link as usize;
        in_range(
            "limits.tunnelsPerLink",
            per_link,
            1,
            2 * TUNNELS_MAX as usize,
        )?;
        let idle = usize::try_from(limits.idle_s).unwrap_or(usize::MAX);
        in_range("limits.idleS", idle, 1, 7 * 86_400)?;
        let drain = usize::try_from(self.drain_s).unwrap_or(usize::MAX);
        in_range("drainS", drain, 0, 86_400)
    }

    /// The gateway's identity: `spiffe://<trust domain>/portolan/gateway/<name>`.
    ///
    /// # Errors
    /// When the name cannot stand in an identity.
    pub fn identity(&self) -> Result<SpiffeId, ConfigError> {
        SpiffeId::gateway(&self.trust_domain, &self.name)
            .ok()
            .filter(|_| !self.name.contains('/'))
            .ok_or_else(|| {
                let problem = format!("`{}` cannot be a part of an identity", self.name);
                ConfigError::unusable("name", problem, "use letters, digits, `.`, `-` and `_`")
            })
    }

    /// Threads that carry traffic.
    #[must_use]
    pub fn worker_count(&self) -> usize {
        if self.workers > 0 {
            return self.workers;
        }
        std::thread::available_parallelism().map_or(1, NonZeroUsize::get)
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

    /// Where sidecars dial, when `bound` is where TCP is accepted.
    ///
    /// # Errors
    /// When that is no address that somebody can dial.
    pub fn advertised_tcp(&self, bound: SocketAddr) -> Result<SocketAddr, ConfigError> {
        diallable("advertise.tcp", self.advertise.tcp.unwrap_or(bound))
    }

    /// Where peers dial, when `bound` is where links are accepted.
    ///
    /// # Errors
    /// When that is no address that somebody can dial.
    pub fn advertised_quic(&self, bound: SocketAddr) -> Result<SocketAddr, ConfigError> {
        diallable("advertise.quic", self.advertise.quic.unwrap_or(bound))
    }

    /// How long open tunnels may go on after the gateway was told to stop.
    #[must_use]
    pub fn drain(&self) -> Duration {
        Duration::from_secs(self.drain_s)
    }
}

impl LinksConfig {
    /// Checks that something can flow, and that buffers are bounded.
    fn check(&self) -> Result<(), ConfigError> {
        let windows = [
            ("links.linkWindow", self.link_window),
            ("links.tunnelWindow", self.tunnel_window),
        ];
        for (field, window) in windows {
            let window = usize::try_from(window).unwrap_or(usize::MAX);
            in_range(field, window, WINDOW_MIN, BUFFER_MAX)?;
        }
        let dead_after = usize::try_from(self.dead_after_ms).unwrap_or(usize::MAX);
        in_range("links.deadAfterMs", dead_after, DEAD_AFTER_MS_MIN, 60_000)?;
        in_range(
            "links.socketBuffer",
            self.socket_buffer,
            WINDOW_MIN,
            BUFFER_MAX,
        )
    }

    /// The settings for the links' transport.
    #[must_use]
    pub fn settings(&self) -> LinkSettings {
        let dead_after = Duration::from_millis(self.dead_after_ms);
        LinkSettings {
            dead_after,
            keep_alive: dead_after / KEEP_ALIVES,
            idle_timeout: dead_after * QUIC_PATIENCE,
            dial_timeout: DIAL_TIMEOUT,
            congestion: match self.congestion {
                CongestionConfig::Cubic => Congestion::Cubic,
                CongestionConfig::Bbr => Congestion::Bbr,
                CongestionConfig::NewReno => Congestion::NewReno,
            },
            link_window: self.link_window,
            tunnel_window: self.tunnel_window,
            twice_on_loss: self.send_twice == SendTwice::OnLoss,
            socket_buffer: self.socket_buffer,
            ..LinkSettings::default()
        }
    }
}

impl Default for LinksConfig {
    fn default() -> Self {
        let settings = LinkSettings::default();
        Self {
            congestion: CongestionConfig::default(),
            link_window: settings.link_window,
            tunnel_window: settings.tunnel_window,
            send_twice: SendTwice::default(),
            socket_buffer: settings.socket_buffer,
            dead_after_ms: 1_000,
        }
    }
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            tunnels: 65_536,
            tunnels_per_link: TUNNELS_MAX,
            handshakes: 4_096,
            // Sidecars keep idle connections for five minutes; they go first.
            idle_s: 3_600,
        }
    }
}

fn default_drain_s() -> u64 {
    5
}

fn diallable(field: &str, address: SocketAddr) -> Result<SocketAddr, ConfigError> {
    if address.ip().is_unspecified() {
        let problem = format!("nobody can dial {address}");
        let remedy = "write the address that others reach this gateway at";
        return Err(ConfigError::unusable(field, problem, remedy));
    }
    Ok(address)
}

fn in_range(field: &str, value: usize, min: usize, max: usize) -> Result<(), ConfigError> {
    if (min..=max).contains(&value) {
        return Ok(());
    }
    let problem = format!("{value} is out of range");
    Err(ConfigError::unusable(
        field,
        problem,
        format!("use {min} to {max}"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> GatewayConfig {
        portolan_runtime::config::parse("example.yaml", EXAMPLE).unwrap()
    }

    #[test]
    fn the_example_parses_and_says_the_defaults() {
        let config = example();
        config.check().unwrap();
        assert_eq!(
            config.identity().unwrap().to_string(),
            "spiffe://us-east.example/portolan/gateway/gw-0"
        );
        assert_eq!(config.links, LinksConfig::default());
        assert_eq!(config.limits, LimitsConfig::default());
        assert_eq!(config.drain_s, default_drain_s());
        assert_eq!(config.log, LogConfig::default());
    }

    #[test]
    fn unknown_fields_are_refused_where_they_stand() {
        let text = format!("{EXAMPLE}\ntcpp: 1\n");
        let error = portolan_runtime::config::parse::<GatewayConfig>("gw.yaml", &text);
        let error = error.unwrap_err().to_string();
        assert!(
            error.contains("gw.yaml") && error.contains("tcpp"),
            "{error}"
        );
    }

    #[test]
    fn what_types_cannot_say_is_checked() {
        let refused = |change: fn(&mut GatewayConfig)| {
            let mut config = example();
            change(&mut config);
            config.check().unwrap_err().to_string()
        };
        let wildcard = |config: &mut GatewayConfig| {
            config.advertise.quic = None;
            config.quic = "0.0.0.0:15443".parse().unwrap();
        };
        for (field, error) in [
            ("name", refused(|config| config.name = "a/b".to_owned())),
            ("control", refused(|config| config.control.clear())),
            ("workers", refused(|config| config.workers = 100_000)),
            ("advertise.quic", refused(wildcard)),
            (
                "links.tunnelWindow",
                refused(|config| config.links.tunnel_window = 0),
            ),
            (
                "links.deadAfterMs",
                refused(|config| config.links.dead_after_ms = 99),
            ),
            (
                "links.socketBuffer",
                refused(|config| config.links.socket_buffer = 1 << 32),
            ),
            (
                "limits.tunnels",
                refused(|config| config.limits.tunnels = 0),
            ),
        ] {
            assert!(error.contains(field), "{field}: {error}");
        }
    }
}
