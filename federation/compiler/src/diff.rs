//! What differs between two versions of a document, for people.

use serde_json::{Map, Value};

use crate::read::path::{field, item};
use crate::read::{KUBECTL_ANNOTATION, SERVER_METADATA};

/// The differences that applying `new` over `old` would make, as lines that begin with `+`, `-` or
/// `~` and a path. Status and what servers write is left out. `old` is `None` for a new resource.
#[must_use]
pub fn diff(old: Option<&Value>, new: &Value) -> Vec<String> {
    let mut lines = Vec::new();
    let old = old.map(written);
    compare("", old.as_ref(), Some(&written(new)), &mut lines);
    lines
}

/// The part of a document that its author wrote.
fn written(document: &Value) -> Value {
    let mut document = document.clone();
    if let Some(object) = document.as_object_mut() {
        object.remove("status");
    }
    if let Some(metadata) = document.get_mut("metadata").and_then(Value::as_object_mut) {
        for field in SERVER_METADATA {
            metadata.remove(*field);
        }
        if let Some(Value::Object(annotations)) = metadata.get_mut("annotations") {
            annotations.remove(KUBECTL_ANNOTATION);
        }
    }
    document
}

fn compare(path: &str, old: Option<&Value>, new: Option<&Value>, lines: &mut Vec<String>) {
    if old == new {
        return;
    }
    match (old, new) {
        (Some(Value::Object(old)), Some(Value::Object(new))) => {
            compare_maps(path, old, new, lines);
        }
        (Some(Value::Array(old)), Some(Value::Array(new))) => {
            for index in 0..old.len().max(new.len()) {
                compare(&item(path, index), old.get(index), new.get(index), lines);
            }
        }
        (Some(old), Some(new)) => lines.push(format!("~ {path}: {old} → {new}")),
        (None, Some(new)) => leaves('+', path, new, lines),
        (Some(old), None) => leaves('-', path, old, lines),
        (None, None) => {}
    }
}

fn compare_maps(
    path: &str,
    old: &Map<String, Value>,
    new: &Map<String, Value>,
    lines: &mut Vec<String>,
) {
    let mut names: Vec<&String> = old.keys().chain(new.keys()).collect();
    names.sort();
    names.dedup();
    for name in names {
        compare(&field(path, name), old.get(name), new.get(name), lines);
    }
}

/// One line for each scalar of a value that came or went.
fn leaves(sign: char, path: &str, value: &Value, lines: &mut Vec<String>) {
    match value {
        Value::Object(object) if !object.is_empty() => {
            for (name, value) in object {
                leaves(sign, &field(path, name), value, lines);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for (index, value) in items.iter().enumerate() {
                leaves(sign, &item(path, index), value, lines);
            }
        }
        Value::Null
        | Value::Bool(_)
        | Value::Number(_)
        | Value::String(_)
        | Value::Array(_)
        | Value::Object(_) => lines.push(format!("{sign} {path}: {value}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_what_authors_wrote_is_compared() {
        let old = json!({
            "metadata": {"name": "a", "uid": "1", "labels": {"x": "1"}},
            "spec": {"ports": [{"port": 80}, {"port": 81}], "kept": true},
            "status": {"x": 1},
        });
        let new = json!({
            "metadata": {"name": "a", "labels": {"a/b": "2"}},
            "spec": {"ports": [{"port": 8080}], "kept": true, "selector": {}},
        });
        assert_eq!(
            diff(Some(&old), &new),
            [
                "+ metadata.labels[\"a/b\"]: \"2\"",
                "- metadata.labels.x: \"1\"",
                "~ spec.ports[0].port: 80 → 8080",
                "- spec.ports[1].port: 81",
                "+ spec.selector: {}",
            ]
        );
        assert_eq!(diff(Some(&old), &old), Vec::<String>::new());
        assert_eq!(diff(None, &json!({"kind": "Peer"})), ["+ kind: \"Peer\""]);
    }
}
