//! Services and their ports.

use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use crate::names::PortName;

/// What is spoken on a port. It decides whether a proxy reads requests or passes bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// HTTP/1.1 towards the app. Requests are routed one by one.
    Http,
    /// HTTP/2 in clear text (prior knowledge) towards the app.
    Http2,
    /// gRPC: HTTP/2 with trailers.
    Grpc,
    /// Opaque bytes.
    Tcp,
    /// TLS of the app's own: opaque bytes.
    Tls,
    /// Datagrams.
    Udp,
    /// SCTP, which is told of and not carried.
    Sctp,
}

impl Protocol {
    /// Reads a port's protocol as Kubernetes users declare it: `appProtocol` first
    /// (`http`, `https`, `grpc`, `tcp`, `tls`, `kubernetes.io/h2c`, `kubernetes.io/ws`), then the port
    /// name's prefix (`http-web`, `grpc`), then TCP. `transport` is the Service port's `protocol`.
    #[must_use]
    pub fn of(transport: &str, app_protocol: Option<&str>, name: Option<&str>) -> Self {
        if transport.eq_ignore_ascii_case("UDP") {
            return Self::Udp;
        }
        if transport.eq_ignore_ascii_case("SCTP") {
            return Self::Sctp;
        }
        let from_word = |word: &str| match word {
            "http" | "http1" | "kubernetes.io/ws" | "ws" => Some(Self::Http),
            "http2" | "h2c" | "kubernetes.io/h2c" => Some(Self::Http2),
            "grpc" => Some(Self::Grpc),
            "https" | "tls" | "kubernetes.io/wss" => Some(Self::Tls),
            "tcp" => Some(Self::Tcp),
            _ => None,
        };
        app_protocol
            .and_then(|word| from_word(&word.to_ascii_lowercase()))
            .or_else(|| name.and_then(|name| from_word(name.split('-').next().unwrap_or(name))))
            .unwrap_or(Self::Tcp)
    }

    /// Whether a proxy reads requests on such a port.
    #[must_use]
    pub fn is_http(self) -> bool {
        matches!(self, Self::Http | Self::Http2 | Self::Grpc)
    }

    /// Whether TCP carries it. Nothing else is carried.
    #[must_use]
    pub fn over_tcp(self) -> bool {
        self.transport() == "tcp"
    }

    /// The transport protocol's DNS label: `tcp`, `udp` or `sctp`.
    #[must_use]
    pub fn transport(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Sctp => "sctp",
            Self::Http | Self::Http2 | Self::Grpc | Self::Tcp | Self::Tls => "tcp",
        }
    }

    /// The word that serialises it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Http2 => "http2",
            Self::Grpc => "grpc",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

impl std::fmt::Display for Protocol {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One port of a service.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Port {
    /// Its name; unnamed ports have no SRV record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<PortName>,
    /// The service port's number, which callers use and SNI names carry.
    pub number: u16,
    /// What is spoken on it.
    pub protocol: Protocol,
}

/// Whether a service has an address of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ServiceKind {
    /// One virtual IP in front of all endpoints (MCS API: `ClusterSetIP`).
    Virtual,
    /// No virtual IP: DNS answers with endpoints (MCS API: `Headless`).
    Headless,
}

/// The seconds that a session affinity's timeout may be (Kubernetes: one second to a day).
pub const AFFINITY_SECONDS: RangeInclusive<u32> = 1..=86_400;
/// The timeout where none is declared (Kubernetes: three hours).
pub const AFFINITY_SECONDS_DEFAULT: u32 = 10_800;

/// Whether calls of one client keep to one endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum SessionAffinity {
    /// They do not.
    #[default]
    None,
    /// They do, by who calls.
    ClientIp {
        /// How long without calls an endpoint must be kept for a client, in seconds; one of
        /// [`AFFINITY_SECONDS`].
        timeout_seconds: u32,
    },
}

impl SessionAffinity {
    /// Whether it is the default. Serialisation leaves it out then.
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == Self::None
    }

    /// Kubernetes' word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "None",
            Self::ClientIp { .. } => "ClientIP",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protocol_is_read_from_transport_then_app_protocol_then_name() {
        let table = [
            (("TCP", Some("grpc"), Some("http")), Protocol::Grpc),
            (("TCP", None, Some("http-web")), Protocol::Http),
            (("TCP", None, Some("grpc")), Protocol::Grpc),
            (("TCP", Some("kubernetes.io/h2c"), None), Protocol::Http2),
            (
                ("TCP", Some("example.com/own"), Some("http")),
                Protocol::Http,
            ),
            (("TCP", None, None), Protocol::Tcp),
            (("UDP", Some("http"), None), Protocol::Udp),
            (("SCTP", Some("http"), None), Protocol::Sctp),
            (("TCP", Some("https"), None), Protocol::Tls),
        ];
        for ((transport, app, name), expected) in table {
            assert_eq!(
                Protocol::of(transport, app, name),
                expected,
                "{transport} {app:?} {name:?}"
            );
        }
    }
}
