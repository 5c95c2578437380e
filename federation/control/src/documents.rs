//! Documents as they are stored and as they are shown: the part of `metadata` that servers write,
//! and `status`.

use jiff::Timestamp;
use portolan_compiler::parse_document;
use portolan_model::declared::{Declared, ResourceKey};
use portolan_model::{Problem, Severity};
use portolan_registry::Revision;
use serde_json::{Map, Value, json};

/// The annotation that names the file a declaration was read from.
pub(crate) const SOURCE_ANNOTATION: &str = "portolan.dev/source";

/// A document that the registry holds.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Stored {
    /// When it was last written.
    pub(crate) version: Revision,
    /// Its text.
    pub(crate) document: Value,
    /// What it says; `None` when it cannot be read.
    pub(crate) declared: Option<Declared>,
}

/// Writes the server's part of `metadata` for storing `document` over `before`. The creation time
/// has milliseconds: the MCS API settles conflicts by age.
pub(crate) fn stamp(document: &mut Value, before: Option<&Value>, now: Timestamp) {
    let created = before
        .and_then(|before| before.pointer("/metadata/creationTimestamp"))
        .cloned()
        .unwrap_or_else(|| json!(format!("{now:.3}")));
    let generation = before.map_or(1, |before| {
        let last = generation(before);
        if content(before) == content(document) {
            last
        } else {
            last.saturating_add(1)
        }
    });
    if let Some(metadata) = metadata_mut(document) {
        metadata.insert("creationTimestamp".to_owned(), created);
        metadata.insert("generation".to_owned(), json!(generation));
    }
}

/// Whether storing `document` over `before` would change nothing that a person wrote.
pub(crate) fn unchanged(before: &Value, document: &Value) -> bool {
    without_server_fields(before) == without_server_fields(document)
}

/// The document as people get it: with its version and its status.
pub(crate) fn presented(stored: &Stored, status: Option<&Value>) -> Value {
    let mut document = stored.document.clone();
    if let Some(metadata) = metadata_mut(&mut document) {
        let version = json!(stored.version.to_string());
        metadata.insert("resourceVersion".to_owned(), version);
    }
    let observed = stored.declared.is_some().then(|| generation(&document));
    if let (Some(object), Some(status)) = (document.as_object_mut(), status) {
        let mut status = status.clone();
        for condition in condition_lists(&mut status).into_iter().flatten() {
            // What cannot be read was not observed: the status is that of an earlier generation.
            if let (Some(condition), Some(observed)) = (condition.as_object_mut(), observed) {
                condition.insert("observedGeneration".to_owned(), json!(observed));
            }
        }
        object.insert("status".to_owned(), status);
    }
    document
}

/// The lists of conditions of a status: its own, and of routes one for each parent.
fn condition_lists(status: &mut Value) -> Vec<&mut Vec<Value>> {
    let Some(status) = status.as_object_mut() else {
        return Vec::new();
    };
    let mut lists = Vec::new();
    for (name, value) in status {
        match name.as_str() {
            "conditions" => lists.extend(value.as_array_mut()),
            "parents" => {
                let parents = value.as_array_mut().into_iter().flatten();
                let conditions = parents.filter_map(|parent| parent.get_mut("conditions"));
                lists.extend(conditions.filter_map(Value::as_array_mut));
            }
            _ => {}
        }
    }
    lists
}

/// Marks a document as read from `source`.
pub(crate) fn mark_source(document: &mut Value, source: &str) {
    let Some(metadata) = metadata_mut(document) else {
        return;
    };
    let annotations = metadata
        .entry("annotations")
        .or_insert_with(|| Value::Object(Map::new()));
    if let Some(annotations) = annotations.as_object_mut() {
        annotations.insert(SOURCE_ANNOTATION.to_owned(), json!(source));
    }
}

/// The file that a document was read from.
pub(crate) fn source(document: &Value) -> Option<&str> {
    document
        .get("metadata")?
        .get("annotations")?
        .get(SOURCE_ANNOTATION)?
        .as_str()
}

/// Gives each condition of `status` the time of its last transition: the one it had in `before`
/// while its `status` is the same, `now` otherwise.
pub(crate) fn stamp_conditions(status: &mut Value, before: Option<&Value>, now: Timestamp) {
    if let Some(parents) = status.get_mut("parents").and_then(Value::as_array_mut) {
        for parent in parents {
            let earlier = before
                .and_then(|before| before.get("parents")?.as_array())
                .into_iter()
                .flatten()
                .find(|other| other.get("parentRef") == parent.get("parentRef"));
            stamp_conditions(parent, earlier, now);
        }
    }
    let earlier: &[Value] = before
        .and_then(|before| before.get("conditions"))
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice);
    let Some(conditions) = status.get_mut("conditions").and_then(Value::as_array_mut) else {
        return;
    };
    for condition in conditions {
        let same = |other: &&Value| {
            other.get("type") == condition.get("type")
                && other.get("status") == condition.get("status")
        };
        let since = earlier
            .iter()
            .find(same)
            .and_then(|other| other.get("lastTransitionTime"))
            .cloned()
            .unwrap_or_else(|| json!(format!("{now:.0}")));
        if let Some(condition) = condition.as_object_mut() {
            condition.insert("lastTransitionTime".to_owned(), since);
        }
    }
}

/// What lies under a declaration's key, and what it says or why it says nothing.
pub(crate) fn read_stored(
    key: &ResourceKey,
    value: &[u8],
) -> (Value, Result<Declared, Vec<Problem>>) {
    let problem = |message: String, remedy: &str| {
        vec![Problem {
            severity: Severity::Error,
            resource: Some(key.to_string()),
            position: None,
            path: String::new(),
            message,
            remedy: remedy.to_owned(),
        }]
    };
    let document: Value = match serde_json::from_slice(value) {
        Ok(document) => document,
        Err(error) => {
            let shell = json!({
                "apiVersion": key.kind.api_version(), "kind": key.kind.as_str(),
                "metadata": { "name": key.name, "namespace": key.namespace },
            });
            let message = format!("what the registry holds is no JSON: {error}");
            return (shell, Err(problem(message, "apply it again")));
        }
    };
    let read = parse_document(&document).and_then(|declared| {
        if &declared.key == key {
            Ok(declared)
        } else {
            let message = format!(
                "the registry holds it under `{}`, but it is {}",
                key.path(),
                declared.key
            );
            Err(problem(message, "delete the key and apply the document"))
        }
    });
    (document, read)
}

fn metadata_mut(document: &mut Value) -> Option<&mut Map<String, Value>> {
    document
        .as_object_mut()?
        .entry("metadata")
        .or_insert_with(|| Value::Object(Map::new()))
        .as_object_mut()
}

fn generation(document: &Value) -> u64 {
    document
        .pointer("/metadata/generation")
        .and_then(Value::as_u64)
        .unwrap_or(1)
}

/// All but the metadata and the status.
fn content(document: &Value) -> Map<String, Value> {
    let mut content = document.as_object().cloned().unwrap_or_default();
    content.remove("metadata");
    content.remove("status");
    content
}

fn without_server_fields(document: &Value) -> Value {
    let mut document = document.clone();
    if let Some(object) = document.as_object_mut() {
        object.remove("status");
    }
    if let Some(metadata) = document.get_mut("metadata").and_then(Value::as_object_mut) {
        for field in ["creationTimestamp", "generation", "resourceVersion"] {
            metadata.remove(field);
        }
    }
    document
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn creation_time_stays_and_generation_counts_changes_of_the_content() {
        let mut first = json!({"metadata": {"name": "a"}, "spec": {"x": 1}});
        stamp(&mut first, None, at(1));
        assert_eq!(first["metadata"]["generation"], 1);
        assert_eq!(
            first["metadata"]["creationTimestamp"],
            "1970-01-01T00:00:01.000Z"
        );
        let mut labelled =
            json!({"metadata": {"name": "a", "labels": {"l": "1"}}, "spec": {"x": 1}});
        assert!(!unchanged(&first, &labelled));
        stamp(&mut labelled, Some(&first), at(2));
        assert_eq!(labelled["metadata"]["generation"], 1);
        let mut changed = json!({"metadata": {"name": "a"}, "spec": {"x": 2}});
        stamp(&mut changed, Some(&first), at(3));
        assert_eq!(changed["metadata"]["generation"], 2);
        assert_eq!(
            changed["metadata"]["creationTimestamp"],
            first["metadata"]["creationTimestamp"]
        );
        let again = json!({"metadata": {"name": "a"}, "spec": {"x": 1}});
        assert!(unchanged(&first, &again));
    }

    #[test]
    fn conditions_name_the_generation_that_they_are_about() {
        let document = json!({
            "apiVersion": "multicluster.x-k8s.io/v1beta1", "kind": "ServiceExport",
            "metadata": {"name": "a", "namespace": "shop", "generation": 3},
        });
        let declared = parse_document(&document).ok();
        let conditions = || json!([{"type": "Accepted", "status": "True"}]);
        let status = json!({"conditions": conditions(), "parents": [{"conditions": conditions()}]});
        let mut stored = Stored {
            version: 1,
            document,
            declared,
        };
        let shown = presented(&stored, Some(&status));
        for pointer in ["/status/conditions/0", "/status/parents/0/conditions/0"] {
            let condition = shown.pointer(pointer).unwrap();
            assert_eq!(condition["observedGeneration"], 3, "{pointer}");
        }
        // What cannot be read was not observed.
        stored.declared = None;
        let shown = presented(&stored, Some(&status));
        assert_eq!(shown["status"]["conditions"], conditions());
    }

    #[test]
    fn conditions_keep_their_time_until_their_status_changes() {
        let mut before = json!({"conditions": [{"type": "Ready", "status": "True"}]});
        stamp_conditions(&mut before, None, at(1));
        let mut same = json!({"conditions": [{"type": "Ready", "status": "True", "reason": "r"}]});
        stamp_conditions(&mut same, Some(&before), at(9));
        assert_eq!(
            same["conditions"][0]["lastTransitionTime"],
            "1970-01-01T00:00:01Z"
        );
        let of_parent = |name: &str, status: &str| json!({"parentRef": {"name": name}, "conditions": [{"type": "Accepted", "status": status}]});
        let mut routed = json!({"parents": [of_parent("a", "True"), of_parent("b", "True")]});
        stamp_conditions(&mut routed, None, at(1));
        let mut later = json!({"parents": [of_parent("b", "True"), of_parent("a", "False")]});
        stamp_conditions(&mut later, Some(&routed), at(9));
        let since = |at: usize| later["parents"][at]["conditions"][0]["lastTransitionTime"].clone();
        assert_eq!(
            [since(0), since(1)],
            ["1970-01-01T00:00:01Z", "1970-01-01T00:00:09Z"]
        );
        let mut other = json!({"conditions": [{"type": "Ready", "status": "False"}]});
        stamp_conditions(&mut other, Some(&before), at(9));
        assert_eq!(
            other["conditions"][0]["lastTransitionTime"],
            "1970-01-01T00:00:09Z"
        );
    }
}
