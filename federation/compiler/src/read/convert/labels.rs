//! Labels and selectors, by Kubernetes' rules.

use std::collections::BTreeMap;

use serde_json::Value;

use super::super::finding::Findings;
use super::super::path::field;
use super::texts;

const RULE: &str = "use at most 63 letters, digits, `-`, `_` and `.`, beginning and ending with a letter or digit; a label's name may have a DNS prefix and a `/` before it";

/// Reads the labels in the field `name` of `parent`, which stands at `path`.
pub(super) fn read(
    parent: &Value,
    path: &str,
    name: &str,
    findings: &mut Findings,
) -> BTreeMap<String, String> {
    let labels = texts(parent.get(name));
    for (key, value) in &labels {
        if !is_name(key) {
            findings.error(
                field(path, key),
                format!("`{key}` is not a valid label name"),
                RULE,
            );
        }
        if !value.is_empty() && !is_part(value) {
            findings.error(
                field(path, key),
                format!("`{value}` is not a valid label value"),
                RULE,
            );
        }
    }
    labels
}

fn is_name(text: &str) -> bool {
    match text.split_once('/') {
        Some((prefix, name)) => {
            let label = |part: &str| is_part(part) && !part.contains(['_', '.']);
            prefix.len() <= 253 && prefix.split('.').all(label) && is_part(name)
        }
        None => is_part(text),
    }
}

fn is_part(text: &str) -> bool {
    let bytes = text.as_bytes();
    let ends = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    bytes.len() <= 63
        && ends(bytes.first())
        && ends(bytes.last())
        && bytes
            .iter()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_values_follow_the_rules() {
        for good in ["app", "app.kubernetes.io/name", "a_b.c-D", "x/y"] {
            assert!(is_name(good), "{good}");
        }
        for bad in ["", "-a", "a-", "a b", "a/b/c", "/a", "a/", "ä", "a..b/c"] {
            assert!(!is_name(bad), "{bad}");
        }
    }
}
