//! Counts the DNS server's answers.

use std::time::Duration;

use portolan_dns::{AnswerKind, Observer};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// Upper bounds of the latency buckets, in seconds.
const BUCKETS_S: [f64; 8] = [0.000_05, 0.000_2, 0.001, 0.005, 0.025, 0.1, 0.5, 2.0];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    kind: &'static str,
    rcode: u32,
}

/// Holds the DNS server's metrics.
#[derive(Debug)]
pub(crate) struct DnsMetrics {
    answers: Family<Labels, Counter>,
    latency: Histogram,
}

impl DnsMetrics {
    /// Makes the metrics and registers them.
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            answers: Family::default(),
            latency: Histogram::new(BUCKETS_S),
        };
        let (answers, latency) = (metrics.answers.clone(), metrics.latency.clone());
        registry.register(
            "dns_answers",
            "DNS answers by kind and response code",
            answers,
        );
        registry.register("dns_answer_seconds", "From query to answer", latency);
        metrics
    }
}

impl Observer for DnsMetrics {
    fn on_answer(&self, kind: AnswerKind, rcode: u8, latency: Duration) {
        let labels = Labels {
            kind: kind.as_str(),
            rcode: u32::from(rcode),
        };
        self.answers.get_or_create(&labels).inc();
        self.latency.observe(latency.as_secs_f64());
    }
}
