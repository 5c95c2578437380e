//! What policies at the serving side have in common: their targets, whom they match, times.

use std::time::Duration;

use portolan_model::declared::{Face, ResourceKey, TargetRef};
use portolan_model::route::{HttpMatch, PathMatch, TextMatch, ValueMatch};
use portolan_model::{Pattern, duration};
use serde_json::Value;

use super::super::finding::Findings;
use super::super::path::{field, item};
use super::{target, text};

const DURATION: &str = "write it as `1h`, `10m`, `30s`, `250ms` or a sum of these, as `1m30s`";
const PATTERN: &str = "write a regular expression in RE2's syntax";

/// Reads `targetRefs` of a policy that is kept where the service runs.
pub(super) fn serving(
    key: Option<&ResourceKey>,
    spec: &Value,
    findings: &mut Findings,
) -> Option<Vec<TargetRef>> {
    let targets = target::read(key, spec, findings)?;
    for (index, target) in targets.iter().enumerate() {
        if target.face == Face::Set {
            findings.error(
                field(&item("spec.targetRefs", index), "kind"),
                "it is kept where the service runs, whatever name was called",
                "attach it to `kind: Service`, in each cluster that it is for",
            );
        }
    }
    Some(targets)
}

/// A duration as the Gateway API writes it (GEP-2257), of at least a millisecond.
pub(super) fn duration(
    parent: &Value,
    path: &str,
    name: &str,
    findings: &mut Findings,
) -> Option<Duration> {
    let words = text(parent, name)?;
    let read = duration::parse(words).filter(|time| !time.is_zero());
    if read.is_none() {
        let message = format!("`{words}` is not a duration, or none at all");
        findings.error(field(path, name), message, DURATION);
    }
    read
}

/// Reads the `match` of a limit or fault, which stands at `path`.
pub(super) fn matches(parent: &Value, path: &str, findings: &mut Findings) -> Vec<HttpMatch> {
    let path = field(path, "match");
    let listed = parent.get("match").and_then(Value::as_array);
    let listed = listed.into_iter().flatten().enumerate();
    listed
        .map(|(index, one)| one_match(one, &item(&path, index), findings))
        .collect()
}

fn one_match(one: &Value, path: &str, findings: &mut Findings) -> HttpMatch {
    HttpMatch {
        path: path_match(&one["path"], &field(path, "path"), findings),
        method: text(one, "method").map(str::to_owned),
        headers: values(one, path, "headers", findings)
            .into_iter()
            .map(|header| ValueMatch {
                name: header.name.to_ascii_lowercase(),
                ..header
            })
            .collect(),
        query: values(one, path, "queryParams", findings),
    }
}

fn path_match(value: &Value, path: &str, findings: &mut Findings) -> PathMatch {
    let words = text(value, "value").unwrap_or("/");
    let kind = text(value, "type").unwrap_or("PathPrefix");
    if kind == "RegularExpression" {
        let pattern = pattern(words, &field(path, "value"), findings);
        return pattern.map_or_else(|| PathMatch::Exact(String::new()), PathMatch::Regex);
    }
    if !words.starts_with('/') {
        let message = format!("the path `{words}` does not begin with `/`");
        findings.error(field(path, "value"), message, format!("write `/{words}`"));
    }
    if kind == "Exact" {
        PathMatch::Exact(words.to_owned())
    } else {
        PathMatch::Prefix(words.trim_end_matches('/').to_owned())
    }
}

fn values(one: &Value, path: &str, name: &str, findings: &mut Findings) -> Vec<ValueMatch> {
    let path = field(path, name);
    let listed = one.get(name).and_then(Value::as_array);
    let mut found: Vec<ValueMatch> = Vec::new();
    for (index, value) in listed.into_iter().flatten().enumerate() {
        let path = item(&path, index);
        let (Some(name), Some(words)) = (text(value, "name"), text(value, "value")) else {
            continue;
        };
        let wanted = if text(value, "type") == Some("RegularExpression") {
            match pattern(words, &field(&path, "value"), findings) {
                Some(pattern) => TextMatch::Regex(pattern),
                None => continue,
            }
        } else {
            TextMatch::Exact(words.to_owned())
        };
        found.push(ValueMatch {
            name: name.to_owned(),
            value: wanted,
        });
    }
    found
}

fn pattern(words: &str, path: &str, findings: &mut Findings) -> Option<Pattern> {
    words
        .parse()
        .map_err(|error| findings.error(path, format!("{error}"), PATTERN))
        .ok()
}

/// The name of a limit or fault with the policy's before it, once only.
pub(super) fn full_name(
    key: Option<&ResourceKey>,
    (one, path): (&Value, &str),
    known: &[&str],
    findings: &mut Findings,
) -> Option<String> {
    let name = text(one, "name")?;
    let key = key?;
    let full = format!("{}/{}/{name}", key.namespace.as_ref()?, key.name);
    if !name
        .bytes()
        .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
    {
        let message = format!("`{name}` is not a valid name");
        let remedy = "use lower-case letters, digits and `-`";
        findings.error(field(path, "name"), message, remedy);
    } else if known.contains(&full.as_str()) {
        let message = format!("the name `{name}` is used twice");
        findings.error(field(path, "name"), message, "give each its own name");
    }
    Some(full)
}
