//! `FaultPolicy`.

use std::time::Duration;

use jiff::Timestamp;
use portolan_model::NameError;
use portolan_model::declared::ResourceKey;
use portolan_model::fault::{
    AbortWith, Fault, FaultAbort, FaultCallers, FaultDelay, FaultPolicySpec,
};
use serde_json::Value;

use super::super::finding::Findings;
use super::super::path::{field, item};
use super::{matching, text};

/// The longest delay.
const DELAY_MAX: Duration = Duration::from_secs(3600);

pub(super) fn read(
    key: Option<&ResourceKey>,
    created_ms: u64,
    spec: &Value,
    findings: &mut Findings,
) -> Option<FaultPolicySpec> {
    let targets = matching::serving(key, spec, findings);
    let ends_ms = ends(spec, created_ms, findings);
    let listed = spec.get("faults").and_then(Value::as_array)?;
    let mut faults: Vec<Fault> = Vec::new();
    for (index, one) in listed.iter().enumerate() {
        let path = item("spec.faults", index);
        let known: Vec<&str> = faults.iter().map(|fault| fault.name.as_str()).collect();
        let name = matching::full_name(key, (one, &path), &known, findings);
        let delay = one
            .get("delay")
            .and_then(|it| delay(it, &field(&path, "delay"), findings));
        let abort = one
            .get("abort")
            .and_then(|it| abort(it, &field(&path, "abort"), findings));
        if one.get("delay").is_none() && one.get("abort").is_none() {
            let message = "the fault does nothing";
            findings.error(&path, message, "give it a `delay`, an `abort`, or both");
        }
        faults.push(Fault {
            name: name.unwrap_or_default(),
            matches: matching::matches(one, &path, findings),
            callers: callers(&one["callers"], &field(&path, "callers"), findings),
            delay,
            abort,
            ends_ms: ends_ms.unwrap_or_default(),
        });
    }
    Some(FaultPolicySpec {
        targets: targets?,
        faults,
    })
}

/// When the drill ends, in milliseconds since the Unix epoch.
fn ends(spec: &Value, created_ms: u64, findings: &mut Findings) -> Option<u64> {
    match (text(spec, "ends"), text(spec, "lasts")) {
        (Some(_), Some(_)) => {
            let message = "it says twice when the drill ends";
            findings.error("spec.lasts", message, "leave out `ends` or `lasts`");
            None
        }
        (Some(moment), None) => {
            let remedy = "write a moment as 2026-12-01T12:00:00Z";
            let moment: Timestamp =
                findings.parse(moment, "spec.ends", "a moment (RFC 3339)", remedy)?;
            u64::try_from(moment.as_millisecond()).ok()
        }
        (None, Some(_)) => {
            let time = matching::duration(spec, "spec", "lasts", findings)?;
            let ms = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
            Some(created_ms.saturating_add(ms))
        }
        (None, None) => {
            let message = "the drill has no end";
            let remedy = "add `lasts: 10m`, or `ends: 2026-12-01T12:00:00Z`";
            findings.error("spec.ends", message, remedy);
            None
        }
    }
}

fn delay(value: &Value, path: &str, findings: &mut Findings) -> Option<FaultDelay> {
    let fixed = matching::duration(value, path, "fixed", findings)?;
    if fixed > DELAY_MAX {
        let message = "no request is kept for longer than an hour";
        findings.error(field(path, "fixed"), message, "write at most `1h`");
    }
    Some(FaultDelay {
        fixed,
        share_milli_percent: share(value),
    })
}

fn abort(value: &Value, path: &str, findings: &mut Findings) -> Option<FaultAbort> {
    let number = |name: &str| value.get(name).and_then(Value::as_u64);
    let http = number("httpStatus").and_then(|it| u16::try_from(it).ok());
    let grpc = number("grpcStatus").and_then(|it| u32::try_from(it).ok());
    let reset = value.get("reset").and_then(Value::as_bool) == Some(true);
    let with = match (http, grpc, reset) {
        (Some(status), None, false) => AbortWith::HttpStatus(status),
        (None, Some(status), false) => AbortWith::GrpcStatus(status),
        (None, None, true) => AbortWith::Reset,
        _ => {
            let message = "an abort is answered in exactly one way";
            let remedy = "give it one of `httpStatus`, `grpcStatus` and `reset: true`";
            findings.error(path, message, remedy);
            return None;
        }
    };
    Some(FaultAbort {
        with,
        share_milli_percent: share(value),
    })
}

/// Of how many requests, in thousandths of a percent; of all unless it says otherwise.
fn share(value: &Value) -> u32 {
    let percent = value
        .get("percent")
        .and_then(Value::as_f64)
        .unwrap_or(100.0);
    // The schema keeps it between 0 and 100.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "it is between 0 and 100 000"
    )]
    let share = (percent.clamp(0.0, 100.0) * 1000.0).round() as u32;
    share
}

fn callers(value: &Value, path: &str, findings: &mut Findings) -> FaultCallers {
    FaultCallers {
        namespaces: names(value, path, "namespaces", findings),
        service_accounts: names(value, path, "serviceAccounts", findings),
        clusters: names(value, path, "clusters", findings),
    }
}

fn names<T: std::str::FromStr<Err = NameError>>(
    value: &Value,
    path: &str,
    name: &str,
    findings: &mut Findings,
) -> Vec<T> {
    let path = field(path, name);
    let listed = value.get(name).and_then(Value::as_array);
    let texts = listed.into_iter().flatten().filter_map(Value::as_str);
    texts
        .enumerate()
        .filter_map(|(index, text)| findings.name(text, &item(&path, index)))
        .collect()
}
