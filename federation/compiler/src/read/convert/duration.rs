//! Lengths of time, as the Gateway API writes them (GEP-2257).

use std::time::Duration;

use portolan_model::duration;
use serde_json::Value;

use super::super::finding::Findings;
use super::super::path::field;

/// What would be right.
const REMEDY: &str = "write one to four whole numbers of at most five digits, each with its unit `h`, `m`, `s` or `ms`: `250ms`, `1m30s`";

/// The duration in a field, if it is there.
pub(super) fn read(
    value: &Value,
    path: &str,
    name: &str,
    findings: &mut Findings,
) -> Option<Duration> {
    let text = value.get(name)?.as_str()?;
    let parsed = duration::parse(text);
    if parsed.is_none() {
        let message = format!("`{text}` is not a duration");
        findings.error(field(path, name), message, REMEDY);
    }
    parsed
}

/// The duration in a field that must be longer than nothing.
pub(super) fn positive(
    value: &Value,
    path: &str,
    name: &str,
    findings: &mut Findings,
) -> Option<Duration> {
    let found = read(value, path, name, findings)?;
    if found.is_zero() {
        let message = format!("`{name}` must be longer than nothing");
        findings.error(field(path, name), message, "give a duration, as `250ms`");
        return None;
    }
    Some(found)
}
