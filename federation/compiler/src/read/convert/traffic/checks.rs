//! Health checks.

use std::time::Duration;

use portolan_model::pattern::Pattern;
use portolan_model::traffic::{HealthCheck, HealthProbe};
use serde_json::Value;

use super::super::super::finding::Findings;
use super::super::super::path::{field, item};
use super::super::{duration, port_number, text};
use super::number;

/// Good statuses without others.
const GOOD: (u16, u16) = (200, 299);

pub(super) fn read(spec: &Value, findings: &mut Findings) -> Vec<HealthCheck> {
    let listed = spec.get("healthChecks").and_then(Value::as_array);
    let checks = listed.into_iter().flatten().enumerate();
    checks
        .filter_map(|(index, check)| one(check, &item("spec.healthChecks", index), findings))
        .collect()
}

fn one(check: &Value, path: &str, findings: &mut Findings) -> Option<HealthCheck> {
    let mut time = |name: &str, default: Duration| {
        duration::positive(check, path, name, findings).unwrap_or(default)
    };
    let interval = time("interval", Duration::from_secs(2));
    let timeout = time("timeout", Duration::from_secs(1));
    let probes = ["http", "grpc", "tcp"].map(|name| check.get(name));
    if probes.iter().flatten().count() != 1 {
        findings.error(
            path,
            "a health check asks exactly one question",
            "write one of `http: {path: /healthz}`, `grpc: {}`, `tcp: {}`",
        );
        return None;
    }
    let probe = match probes {
        [Some(probe), _, _] => http(probe, &field(path, "http"), findings)?,
        [_, Some(probe), _] => HealthProbe::Grpc {
            service: text(probe, "service").unwrap_or_default().to_owned(),
        },
        [_, _, _] => HealthProbe::Tcp,
    };
    Some(HealthCheck {
        port: check.get("port").and_then(port_number),
        probe,
        interval,
        timeout,
        healthy_threshold: number(check, "healthyThreshold").unwrap_or(1),
        unhealthy_threshold: number(check, "unhealthyThreshold").unwrap_or(2),
    })
}

fn http(probe: &Value, path: &str, findings: &mut Findings) -> Option<HealthProbe> {
    let asked = text(probe, "path")?;
    if !asked.starts_with('/') || asked.bytes().any(|byte| !byte.is_ascii_graphic()) {
        let message = format!("`{asked}` is not a path");
        findings.error(
            field(path, "path"),
            message,
            "begin it with `/`, without spaces",
        );
    }
    let host = text(probe, "host");
    if host.is_some_and(|host| host.bytes().any(|byte| !byte.is_ascii_graphic())) {
        findings.error(
            field(path, "host"),
            "it is not a host",
            "write a host name, as `app.example`",
        );
    }
    let body = text(probe, "body").and_then(|text| {
        let parsed = text.parse::<Pattern>();
        let told = |error: &_| {
            findings.error(
                field(path, "body"),
                format!("{error}"),
                "write a regular expression (RE2 syntax)",
            );
        };
        parsed.inspect_err(told).ok()
    });
    Some(HealthProbe::Http {
        path: asked.to_owned(),
        host: host.map(str::to_owned),
        statuses: statuses(probe, path, findings),
        body,
    })
}

fn statuses(probe: &Value, path: &str, findings: &mut Findings) -> Vec<(u16, u16)> {
    let Some(listed) = probe.get("statuses").and_then(Value::as_array) else {
        return vec![GOOD];
    };
    let mut ranges = Vec::new();
    for (index, status) in listed.iter().enumerate() {
        let Some(text) = status.as_str() else {
            continue;
        };
        match range(text) {
            Some(range) => ranges.push(range),
            None => findings.error(
                item(&field(path, "statuses"), index),
                format!("`{text}` is not a range of statuses"),
                "write `200`, or `200-299`",
            ),
        }
    }
    ranges
}

fn range(text: &str) -> Option<(u16, u16)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (first.parse().ok()?, last.parse().ok()?);
    (100 <= first && first <= last && last <= 599).then_some((first, last))
}
