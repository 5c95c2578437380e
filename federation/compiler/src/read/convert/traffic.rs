//! `TrafficPolicy`.

mod checks;
mod choice;

use portolan_model::declared::ResourceKey;
use portolan_model::traffic::{
    AdaptiveConcurrency, CircuitBreaker, Hedging, LatencyOutlier, OutlierDetection, Retries,
    SuccessRate, TrafficPolicy, TrafficPolicySpec, TrafficTimeouts,
};
use serde_json::Value;
use std::time::Duration;

use super::super::finding::Findings;
use super::{duration, target};

pub(super) fn read(
    key: Option<&ResourceKey>,
    spec: &Value,
    findings: &mut Findings,
) -> Option<TrafficPolicySpec> {
    let targets = target::read(key, spec, findings);
    let key = key?;
    let namespace = key.namespace.as_ref()?;
    let policy = TrafficPolicy {
        name: format!("{namespace}/{}", key.name),
        balancing: choice::balancing(&spec["loadBalancing"], findings),
        failover: choice::failover(&spec["failover"], findings),
        outlier: outlier(&spec["outlierDetection"], findings),
        breaker: breaker(&spec["circuitBreaker"], findings),
        retries: retries(&spec["retries"], findings),
        hedging: hedging(&spec["hedging"], findings),
        timeouts: timeouts(&spec["timeouts"], findings),
        admission: admission(spec, findings),
        health_checks: checks::read(spec, findings),
    };
    Some(TrafficPolicySpec {
        targets: targets?,
        policy,
    })
}

/// A number that the schema has bounded.
fn number(value: &Value, name: &str) -> Option<u32> {
    let number = value.get(name).and_then(Value::as_u64)?;
    u32::try_from(number).ok()
}

/// Writes what is there over a default.
fn put<T>(place: &mut T, found: Option<T>) {
    if let Some(found) = found {
        *place = found;
    }
}

fn outlier(value: &Value, findings: &mut Findings) -> OutlierDetection {
    let path = "spec.outlierDetection";
    let mut outlier = OutlierDetection::default();
    put(
        &mut outlier.enabled,
        value.get("enabled").and_then(Value::as_bool),
    );
    put(
        &mut outlier.consecutive_failures,
        number(value, "consecutiveFailures"),
    );
    put(
        &mut outlier.base_ejection,
        duration::positive(value, path, "baseEjection", findings),
    );
    put(
        &mut outlier.ejection_max,
        duration::positive(value, path, "maxEjection", findings),
    );
    put(
        &mut outlier.ejected_percent_max,
        number(value, "maxEjectedPercent"),
    );
    if outlier.ejection_max < outlier.base_ejection {
        findings.error(
            format!("{path}.baseEjection"),
            "the first ejection would take longer than the longest",
            "raise `maxEjection`, or lower `baseEjection`",
        );
    }
    outlier.success_rate = value.get("successRate").map(|rate| SuccessRate {
        interval: duration::positive(
            rate,
            "spec.outlierDetection.successRate",
            "interval",
            findings,
        )
        .unwrap_or(Duration::from_secs(10)),
        requests_min: number(rate, "minRequests").unwrap_or(100),
        deviations_milli: number(rate, "deviationsMilli").unwrap_or(1_900),
    });
    outlier.latency = value.get("latency").map(|latency| LatencyOutlier {
        of_median_percent: number(latency, "ofMedianPercent").unwrap_or(300),
        least: duration::read(latency, "spec.outlierDetection.latency", "least", findings)
            .unwrap_or(Duration::from_millis(10)),
    });
    outlier
}

fn breaker(value: &Value, findings: &mut Findings) -> CircuitBreaker {
    let mut breaker = CircuitBreaker::default();
    put(&mut breaker.connections, number(value, "maxConnections"));
    put(&mut breaker.pending, number(value, "maxPending"));
    put(&mut breaker.requests, number(value, "maxRequests"));
    breaker.pending_timeout =
        duration::positive(value, "spec.circuitBreaker", "pendingTimeout", findings);
    breaker.requests_per_endpoint = number(value, "maxRequestsPerEndpoint");
    breaker
}

fn retries(value: &Value, findings: &mut Findings) -> Retries {
    let path = "spec.retries";
    let mut retries = Retries::default();
    let attempts = number(value, "attempts").and_then(|number| u8::try_from(number).ok());
    put(&mut retries.attempts, attempts);
    put(&mut retries.statuses, numbers(value, "statuses"));
    put(&mut retries.grpc_statuses, numbers(value, "grpcStatuses"));
    let (backoff, budget) = (&value["backoff"], &value["budget"]);
    let backoff_path = "spec.retries.backoff";
    put(
        &mut retries.backoff_base,
        duration::read(backoff, backoff_path, "base", findings),
    );
    put(
        &mut retries.backoff_max,
        duration::read(backoff, backoff_path, "max", findings),
    );
    if retries.backoff_max < retries.backoff_base {
        findings.error(
            format!("{backoff_path}.base"),
            "the first wait may be longer than the longest",
            "raise `max`, or lower `base`",
        );
    }
    put(&mut retries.budget_percent, number(budget, "percent"));
    put(&mut retries.budget_per_second, number(budget, "perSecond"));
    retries.per_try_timeout = duration::positive(value, path, "perTryTimeout", findings);
    retries
}

fn numbers<T: TryFrom<u64>>(value: &Value, name: &str) -> Option<Vec<T>> {
    let listed = value.get(name)?.as_array()?;
    let number = |value: &Value| T::try_from(value.as_u64()?).ok();
    Some(listed.iter().filter_map(number).collect())
}

fn hedging(value: &Value, findings: &mut Findings) -> Option<Hedging> {
    let after = duration::positive(value, "spec.hedging", "after", findings)?;
    let extra_max = number(value, "maxExtra").and_then(|number| u8::try_from(number).ok());
    Some(Hedging {
        after,
        extra_max: extra_max.unwrap_or(1),
    })
}

fn admission(spec: &Value, findings: &mut Findings) -> Option<AdaptiveConcurrency> {
    let value = spec.get("adaptiveConcurrency")?;
    let path = "spec.adaptiveConcurrency";
    let mut rule = AdaptiveConcurrency::default();
    put(&mut rule.least, number(value, "minConcurrency"));
    put(
        &mut rule.tolerance_percent,
        number(value, "tolerancePercent"),
    );
    put(
        &mut rule.measure_every,
        duration::positive(value, path, "measureEvery", findings),
    );
    Some(rule)
}

fn timeouts(value: &Value, findings: &mut Findings) -> TrafficTimeouts {
    let mut read = |name: &str| duration::positive(value, "spec.timeouts", name, findings);
    let mut timeouts = TrafficTimeouts::default();
    put(&mut timeouts.connect_local, read("connect"));
    put(&mut timeouts.connect_remote, read("connectRemote"));
    put(&mut timeouts.response_headers, read("responseHeaders"));
    put(&mut timeouts.stream_idle, read("idle"));
    timeouts.request = read("request");
    timeouts.connection_age = read("connectionAge");
    timeouts
}

#[cfg(test)]
mod tests;
