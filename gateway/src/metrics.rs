//! The gateway's metrics. Labels are bounded: peers are declared ones or `unknown`, results are
//! the closed list of reasons or `ok`.

use std::sync::atomic::AtomicU64;

use portolan_model::ClusterName;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::access::Record;
use crate::table::Measured;
use crate::tunnels::Direction;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TunnelLabels {
    direction: &'static str,
    peer: String,
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OpenLabels {
    direction: &'static str,
    peer: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByteLabels {
    direction: &'static str,
    peer: String,
    flow: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PeerLabels {
    peer: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct HandshakeLabels {
    peer: String,
    side: &'static str,
}

/// Who began a link's handshake.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Side {
    /// We dialled.
    Dialled,
    /// A peer dialled.
    Accepted,
}

/// Holds every metric of the gateway; cloning shares them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Metrics {
    tunnels: Family<TunnelLabels, Counter>,
    open: Family<OpenLabels, Gauge>,
    bytes: Family<ByteLabels, Counter>,
    links: Family<PeerLabels, Gauge>,
    link_rtt: Family<PeerLabels, Gauge<f64, AtomicU64>>,
    packets_sent: Family<PeerLabels, Counter>,
    packets_lost: Family<PeerLabels, Counter>,
    packets_copied: Family<PeerLabels, Counter>,
    handshake_failures: Family<HandshakeLabels, Counter>,
}

impl Metrics {
    /// Makes the metrics and registers them.
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let name = |rest: &str| format!("gateway_{rest}");
        registry.register(
            name("tunnels"),
            "Tunnels that ended or were refused, by result",
            metrics.tunnels.clone(),
        );
        registry.register(
            name("open_tunnels"),
            "Tunnels that are open now",
            metrics.open.clone(),
        );
        registry.register(
            name("bytes"),
            "Bytes carried by tunnels that ended; flow is seen from the caller",
            metrics.bytes.clone(),
        );
        registry.register(
            name("links"),
            "Live links to a peer's gateways that take tunnels",
            metrics.links.clone(),
        );
        registry.register(
            name("link_rtt_seconds"),
            "Smoothed round-trip time of the best link to a peer",
            metrics.link_rtt.clone(),
        );
        registry.register(
            name("link_packets_sent"),
            "Packets sent on links",
            metrics.packets_sent.clone(),
        );
        registry.register(
            name("link_packets_lost"),
            "Packets lost on links",
            metrics.packets_lost.clone(),
        );
        registry.register(
            name("link_packets_copied"),
            "Copies of packets sent on links that lose some",
            metrics.packets_copied.clone(),
        );
        registry.register(
            name("link_handshake_failures"),
            "Links that were not made, by who dialled",
            metrics.handshake_failures.clone(),
        );
        metrics
    }

    /// A tunnel was opened: it counts as open until the returned value is dropped.
    pub(crate) fn open_tunnel(&self, direction: Direction, peer: &ClusterName) -> OpenTunnel {
        let gauge = self
            .open
            .get_or_create(&OpenLabels {
                direction: direction.as_str(),
                peer: peer.to_string(),
            })
            .clone();
        gauge.inc();
        OpenTunnel(gauge)
    }

    /// A tunnel is over, or never was.
    pub(crate) fn record(&self, record: &Record) {
        let direction = record.direction.as_str();
        let peer = record.peer_label().to_owned();
        for (flow, bytes) in [("sent", record.sent), ("received", record.received)] {
            if bytes > 0 {
                let labels = ByteLabels {
                    direction,
                    peer: peer.clone(),
                    flow,
                };
                self.bytes.get_or_create(&labels).inc_by(bytes);
            }
        }
        let result = record.result_label();
        self.tunnels
            .get_or_create(&TunnelLabels {
                direction,
                peer,
                result,
            })
            .inc();
    }

    /// How many links to a peer are live, and the best one's round-trip time in seconds.
    pub(crate) fn links(&self, peer: &ClusterName, live: u32, rtt_s: Option<f64>) {
        let labels = peer_labels(peer);
        self.links.get_or_create(&labels).set(i64::from(live));
        match rtt_s {
            Some(rtt) => {
                self.link_rtt.get_or_create(&labels).set(rtt);
            }
            None => {
                self.link_rtt.remove(&labels);
            }
        }
    }

    /// The peer is no longer declared: its gauges disappear.
    pub(crate) fn forget(&self, peer: &ClusterName) {
        let labels = peer_labels(peer);
        self.links.remove(&labels);
        self.link_rtt.remove(&labels);
    }

    /// Packets since the last call for the same link.
    pub(crate) fn packets(&self, peer: &ClusterName, measured: &Measured) {
        let labels = peer_labels(peer);
        let counts = [
            (&self.packets_sent, measured.sent),
            (&self.packets_lost, measured.lost),
            (&self.packets_copied, measured.copied),
        ];
        for (counter, count) in counts {
            counter.get_or_create(&labels).inc_by(count);
        }
    }

    /// A link was not made. `peer` is the declared peer, where that is known.
    pub(crate) fn handshake_failed(&self, peer: Option<&ClusterName>, side: Side) {
        let peer = peer.map_or(crate::access::UNKNOWN, ClusterName::as_str);
        let side = match side {
            Side::Dialled => "dialled",
            Side::Accepted => "accepted",
        };
        self.handshake_failures
            .get_or_create(&HandshakeLabels {
                peer: peer.to_owned(),
                side,
            })
            .inc();
    }
}

/// Counts one open tunnel while it lives.
#[derive(Debug)]
pub(crate) struct OpenTunnel(Gauge);

impl Drop for OpenTunnel {
    fn drop(&mut self) {
        self.0.dec();
    }
}

fn peer_labels(peer: &ClusterName) -> PeerLabels {
    PeerLabels {
        peer: peer.to_string(),
    }
}
