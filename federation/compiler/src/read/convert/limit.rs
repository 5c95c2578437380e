//! `RateLimitPolicy`.

use std::time::Duration;

use portolan_model::declared::ResourceKey;
use portolan_model::limit::{
    Alone, Counted, LimitAmount, LimitPer, RateLimit, RateLimitPolicySpec,
};
use serde_json::Value;

use super::super::finding::Findings;
use super::super::path::{field, item};
use super::{matching, text};

/// The longest time over which bytes or requests are counted.
const PER_MAX: Duration = Duration::from_secs(24 * 3600);
/// The shortest time whose worth instances that keep a limit together must be able to hold.
const SHARED_TIME: Duration = Duration::from_secs(1);
/// The least bytes that instances can share: a few tokens for each of them.
const SHARED_BYTES_MIN: u64 = 64 * 1024;
/// The most connections that instances can share: shares are counted in millionths.
const SHARED_CONNECTIONS_MAX: u32 = 1_000_000;

pub(super) fn read(
    key: Option<&ResourceKey>,
    spec: &Value,
    findings: &mut Findings,
) -> Option<RateLimitPolicySpec> {
    let targets = matching::serving(key, spec, findings);
    let listed = spec.get("limits").and_then(Value::as_array)?;
    let mut limits: Vec<RateLimit> = Vec::new();
    for (index, one) in listed.iter().enumerate() {
        let path = item("spec.limits", index);
        let known: Vec<&str> = limits.iter().map(|limit| limit.name.as_str()).collect();
        let name = matching::full_name(key, (one, &path), &known, findings);
        let matches = matching::matches(one, &path, findings);
        let per = per(one, &path, findings);
        let Some(amount) = amount(one, &path, findings) else {
            continue;
        };
        let limit = RateLimit {
            name: name.unwrap_or_default(),
            matches,
            per,
            amount,
            counted: counted(one, &path, &amount, findings),
        };
        of_requests_alone(&limit, &path, findings);
        limits.push(limit);
    }
    Some(RateLimitPolicySpec {
        targets: targets?,
        limits,
    })
}

fn per(one: &Value, path: &str, findings: &mut Findings) -> LimitPer {
    let header = text(one, "header");
    let per = text(one, "per").unwrap_or("Service");
    if header.is_some() && per != "Header" {
        findings.error(
            field(path, "header"),
            "a header is named, but the limit is not per header",
            "add `per: Header`, or leave `header` out",
        );
    }
    match (per, header) {
        ("Identity", _) => LimitPer::Identity,
        ("Namespace", _) => LimitPer::Namespace,
        ("Header", Some(name)) => LimitPer::Header(name.to_ascii_lowercase()),
        ("Header", None) => {
            let message = "it does not say which header";
            findings.error(field(path, "header"), message, "add `header: x-tenant`");
            LimitPer::Service
        }
        _ => LimitPer::Service,
    }
}

fn amount(one: &Value, path: &str, findings: &mut Findings) -> Option<LimitAmount> {
    let said: Vec<&str> = ["requests", "connections", "bytes"]
        .into_iter()
        .filter(|name| one.get(name).is_some())
        .collect();
    let [which] = said[..] else {
        let message = match said.len() {
            0 => "the limit does not say how much".to_owned(),
            _ => format!("a limit is of one thing, not of {}", said.join(" and ")),
        };
        let remedy = "give it one of `requests`, `connections` and `bytes`";
        findings.error(path, message, remedy);
        return None;
    };
    let path = field(path, which);
    let value = &one[which];
    let small = |value: &Value| value.as_u64().and_then(|count| u32::try_from(count).ok());
    let mut time = || {
        let time = matching::duration(value, &path, "per", findings)?;
        if time > PER_MAX {
            let message = "nothing is counted for longer than a day";
            findings.error(field(&path, "per"), message, "write at most `24h`");
        }
        Some(time)
    };
    match which {
        "connections" => small(value).map(LimitAmount::Connections),
        "bytes" => Some(LimitAmount::Bytes {
            per: time()?,
            count: value["count"].as_u64()?,
        }),
        _ => {
            let count = small(&value["count"])?;
            Some(LimitAmount::Requests {
                per: time()?,
                count,
                burst: small(&value["burst"]).unwrap_or(count),
            })
        }
    }
}

fn counted(one: &Value, path: &str, amount: &LimitAmount, findings: &mut Findings) -> Counted {
    let alone = text(one, "alone");
    if text(one, "counted") != Some("Cluster") {
        if alone.is_some() {
            let message = "an instance that counts for itself is never without an answer";
            let remedy = "add `counted: Cluster`, or leave `alone` out";
            findings.error(field(path, "alone"), message, remedy);
        }
        return Counted::Instance;
    }
    let path = field(path, "counted");
    match amount {
        LimitAmount::Requests { count, per, burst } => {
            let second = f64::from(*count) * SHARED_TIME.as_secs_f64() / per.as_secs_f64();
            if f64::from(*burst) < second {
                findings.error(
                    path,
                    format!("instances cannot share a burst of {burst}: it is less than comes in a second"),
                    format!("give it a burst of at least {}", second.ceil()),
                );
            }
        }
        LimitAmount::Bytes { count, per } => {
            if *per < SHARED_TIME || *count < SHARED_BYTES_MIN {
                let message = "instances cannot share so few bytes, or bytes of so short a time";
                let remedy = format!(
                    "give it at least {SHARED_BYTES_MIN} bytes, and a `per` of at least `1s`"
                );
                findings.error(path, message, remedy);
            }
        }
        LimitAmount::Connections(most) => {
            if *most > SHARED_CONNECTIONS_MAX {
                let message = format!(
                    "instances cannot share more than {SHARED_CONNECTIONS_MAX} connections"
                );
                let remedy = "count fewer, or for each instance: leave `counted` out";
                findings.error(path, message, remedy);
            }
        }
    }
    Counted::Cluster {
        alone: match alone {
            Some("Open") => Alone::Open,
            Some("Closed") => Alone::Closed,
            _ => Alone::LastShare,
        },
    }
}

/// Connections and bytes are counted before any request is read.
fn of_requests_alone(limit: &RateLimit, path: &str, findings: &mut Findings) {
    match limit.amount {
        LimitAmount::Requests { .. } => return,
        LimitAmount::Connections(_) | LimitAmount::Bytes { .. } => {}
    }
    let remedy = "limit `requests`, or leave it out";
    if !limit.matches.is_empty() {
        let message = "connections and bytes cannot be told apart by request";
        findings.error(field(path, "match"), message, remedy);
    }
    if let LimitPer::Header(_) = limit.per {
        let message = "connections and bytes have no headers";
        findings.error(field(path, "per"), message, remedy);
    }
}
