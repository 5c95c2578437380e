//! Counts the DNS server's answers, under the same names in every daemon.

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

/// The DNS server's metrics: `dns_answers_total{kind,rcode}` and `dns_answer_seconds`.
#[derive(Debug)]
pub struct DnsMetrics {
    answers: Family<Labels, Counter>,
    latency: Histogram,
}

impl DnsMetrics {
    /// Makes the metrics and registers them.
    #[must_use]
    pub fn register(registry: &mut Registry) -> Self {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Metrics;

    #[test]
    fn answers_are_counted_by_kind_and_code() {
        let metrics = Metrics::new("gateway");
        let dns = metrics.register(DnsMetrics::register);
        dns.on_answer(AnswerKind::Own, 3, Duration::from_micros(100));
        let text = metrics.render().unwrap();
        for line in [
            "portolan_dns_answers_total{kind=\"own\",rcode=\"3\"} 1",
            "portolan_dns_answer_seconds_count 1",
        ] {
            assert!(text.contains(line), "{text}");
        }
    }
}
