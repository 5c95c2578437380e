//! Text → declarations and every problem at once.
//!
//! Text becomes trees that know where everything stands (`yaml`), each is held against its kind's
//! schema (`schema`, `explain`) and converted (`convert`). Each step goes on after a mistake,
//! so that one reading tells them all.

mod convert;
mod explain;
mod finding;
pub(crate) mod path;
mod schema;
#[cfg(test)]
mod tests;
mod yaml;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry as Slot;

use portolan_model::declared::{Declared, ResourceKey, ResourceKind};
use portolan_model::{Namespace, Position, Problem, Severity};
use serde_json::{Map, Value, json};

use crate::near::nearest;
use finding::{Finding, Findings};
use path::{End, locate};
use yaml::{Data, Mark, Node};

/// Metadata that servers write: tolerated in what people apply, and not kept.
pub(crate) const SERVER_METADATA: &[&str] = &[
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "generation",
    "managedFields",
    "resourceVersion",
    "selfLink",
    "uid",
];
/// What kubectl keeps for itself.
pub(crate) const KUBECTL_ANNOTATION: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// What [`read()`] found: all that could be understood, and all that is wrong.
#[derive(Debug, Clone, Default)]
pub struct ReadResult {
    /// The good declarations, each with its document as it is stored: `apiVersion` and namespace
    /// filled in, `status` and what servers write taken out. Their `created_ms` is 0: they have
    /// not been stored yet.
    pub declared: Vec<(Declared, Value)>,
    /// Everything that is wrong, in the order of the text.
    pub problems: Vec<Problem>,
    file: String,
    /// Where each resource stands.
    places: BTreeMap<ResourceKey, Node>,
}

impl ReadResult {
    /// Whether something is wrong enough that nothing may be stored.
    #[must_use]
    pub fn has_errors(&self) -> bool {
        self.problems
            .iter()
            .any(|problem| problem.severity == Severity::Error)
    }

    /// Gives a problem that was found later (by [`crate::check()`]) its position in the text.
    #[must_use]
    pub fn locate(&self, mut problem: Problem) -> Problem {
        let place = self
            .places
            .iter()
            .find(|(key, _)| problem.resource.as_deref() == Some(key.to_string().as_str()));
        if let Some((_, node)) = place {
            let mark = locate(node, &problem.path, End::Value);
            problem.position = Some(position(&self.file, mark));
        }
        problem
    }
}

/// Reads declarations from YAML (or JSON) text of one or more documents. `file` names the text in
/// positions; `default_namespace` is for namespaced documents that name none.
#[must_use]
pub fn read(file: &str, text: &str, default_namespace: &Namespace) -> ReadResult {
    let mut result = ReadResult {
        file: file.to_owned(),
        ..ReadResult::default()
    };
    let (documents, faults) = yaml::documents(text);
    for fault in faults {
        result.problems.push(Problem {
            severity: Severity::Error,
            resource: None,
            position: Some(position(file, fault.mark)),
            path: String::new(),
            message: fault.message,
            remedy: fault.remedy,
        });
    }
    for node in flattened(documents) {
        read_node(node, default_namespace, &mut result);
    }
    result
        .problems
        .sort_by(|a, b| (&a.position, &a.path).cmp(&(&b.position, &b.path)));
    result
}

/// Reads one stored document. Its `metadata.creationTimestamp` says when it was first stored; without
/// one it counts as older than everything.
///
/// # Errors
/// Everything that is wrong with it. Warnings are no reason to refuse and are not told.
pub fn parse_document(value: &Value) -> Result<Declared, Vec<Problem>> {
    let mut findings = Findings::default();
    let created_ms = created(value, &mut findings);
    let outcome = read_value(value, None, created_ms, &mut findings);
    match outcome.declared {
        Some((declared, _)) if !findings.has_errors() => Ok(declared),
        Some(_) | None => Err(findings
            .0
            .into_iter()
            .map(|finding| problem(finding, outcome.resource.as_ref(), None))
            .collect()),
    }
}

/// The JSON schema of a kind (draft 2020-12).
#[must_use]
pub fn schema(kind: ResourceKind) -> Value {
    schema::of(kind).clone()
}

/// Takes lists apart, and leaves empty documents out.
fn flattened(documents: Vec<Node>) -> Vec<Node> {
    let mut flat = Vec::new();
    for node in documents {
        let is_list = node.text("apiVersion") == Some("v1")
            && node.text("kind").is_some_and(|kind| kind.ends_with("List"));
        let items = node.get("items").map(|entry| &entry.value.data);
        match items {
            Some(Data::List(items)) if is_list => flat.extend(items.iter().cloned()),
            Some(_) | None if node.is_null() => {}
            Some(_) | None => flat.push(node),
        }
    }
    flat
}

fn read_node(node: Node, default_namespace: &Namespace, result: &mut ReadResult) {
    let mut findings = Findings::default();
    let outcome = read_value(&node.to_value(), Some(default_namespace), 0, &mut findings);
    let good = !findings.has_errors();
    if let Some((declared, document)) = outcome.declared.filter(|_| good) {
        match result.places.entry(declared.key.clone()) {
            Slot::Occupied(first) => {
                let line = first.get().mark.line;
                let message = format!("{} is given twice, first in line {line}", declared.key);
                findings.add(Severity::Error, End::Name, "", message, "keep one of them");
            }
            Slot::Vacant(slot) => {
                slot.insert(node.clone());
                result.declared.push((declared, document));
            }
        }
    }
    for finding in findings.0 {
        let mark = locate(&node, &finding.path, finding.end);
        let position = position(&result.file, mark);
        let problem = problem(finding, outcome.resource.as_ref(), Some(position));
        result.problems.push(problem);
    }
}

/// What became of one document.
struct Outcome {
    /// Its name for people, where it could be read that far.
    resource: Option<String>,
    declared: Option<(Declared, Value)>,
}

fn read_value(
    value: &Value,
    default_namespace: Option<&Namespace>,
    created_ms: u64,
    findings: &mut Findings,
) -> Outcome {
    let mut outcome = Outcome {
        resource: None,
        declared: None,
    };
    let Some(kind) = kind_of(value, findings) else {
        return outcome;
    };
    let document = normalised(kind, value, default_namespace);
    outcome.resource = display_name(kind, &document);
    if kind == ResourceKind::ServiceImport {
        findings.error(
            "kind",
            "a ServiceImport is written by Portolan, as the result of exports",
            "declare a ServiceExport in the cluster that has the Service",
        );
        return outcome;
    }
    findings.0.extend(explain::violations(kind, &document));
    let source = match default_namespace {
        Some(_) => convert::Source::Applied,
        None => convert::Source::Stored,
    };
    outcome.declared = convert::declared(kind, &document, created_ms, source, findings)
        .map(|declared| (declared, document));
    outcome
}

/// The kind that `apiVersion` and `kind` name together.
fn kind_of(value: &Value, findings: &mut Findings) -> Option<ResourceKind> {
    let Some(object) = value.as_object() else {
        let message = "a document must be a map that begins with `apiVersion` and `kind`";
        findings.error("", message, "begin with `apiVersion: …` and `kind: …`");
        return None;
    };
    let mut word = |name: &str| match object.get(name) {
        Some(Value::String(word)) => Some(word.as_str()),
        Some(_) => {
            findings.error(name, format!("`{name}` must be text"), known_kinds());
            None
        }
        None => {
            let message = format!("the field `{name}` is missing");
            findings.add(Severity::Error, End::Name, "", message, known_kinds());
            None
        }
    };
    let (version, kind_word) = (word("apiVersion"), word("kind"));
    let kind_word = kind_word?;
    let names = ResourceKind::ALL.iter().map(|kind| kind.as_str());
    let Some(kind) = ResourceKind::ALL
        .iter()
        .find(|kind| kind.as_str() == kind_word)
    else {
        let remedy = nearest(kind_word, names).map_or_else(known_kinds, |near| {
            format!("did you mean `{near}`? {}", known_kinds())
        });
        let message = format!("the kind `{kind_word}` is not known");
        findings.error("kind", message, remedy);
        return None;
    };
    let version = version?;
    if !kind.accepted_api_versions().contains(&version) {
        let message = format!("a {kind} is not of `{version}`");
        let remedy = format!("write `apiVersion: {}`", kind.api_version());
        findings.error("apiVersion", message, remedy);
        return None;
    }
    Some(*kind)
}

fn known_kinds() -> String {
    let kinds: Vec<_> = ResourceKind::ALL
        .iter()
        .filter(|kind| **kind != ResourceKind::ServiceImport)
        .map(|kind| format!("{} ({})", kind.as_str(), kind.api_version()))
        .collect();
    format!("known kinds: {}", kinds.join(", "))
}

/// The document as it is stored.
fn normalised(kind: ResourceKind, value: &Value, default_namespace: Option<&Namespace>) -> Value {
    let mut document = without_nulls(value);
    if let Some(object) = document.as_object_mut() {
        object.remove("status");
        object.insert("apiVersion".to_owned(), json!(kind.api_version()));
    }
    if let Some(metadata) = document.get_mut("metadata").and_then(Value::as_object_mut) {
        for field in SERVER_METADATA {
            metadata.remove(*field);
        }
        let annotations = metadata
            .get_mut("annotations")
            .and_then(Value::as_object_mut);
        if let Some(annotations) = annotations {
            annotations.remove(KUBECTL_ANNOTATION);
        }
        if let Some(namespace) = default_namespace.filter(|_| kind.namespaced()) {
            let namespace = || Value::String(namespace.to_string());
            metadata
                .entry("namespace".to_owned())
                .or_insert_with(namespace);
        }
    }
    document
}

/// A field without a value is as good as none.
fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Object(object) => Value::Object(
            object
                .iter()
                .filter(|(_, value)| !value.is_null())
                .map(|(name, value)| (name.clone(), without_nulls(value)))
                .collect::<Map<_, _>>(),
        ),
        Value::Array(items) => items.iter().map(without_nulls).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value.clone(),
    }
}

fn display_name(kind: ResourceKind, document: &Value) -> Option<String> {
    let metadata = document.get("metadata")?;
    let name = metadata.get("name")?.as_str()?;
    match metadata.get("namespace").and_then(Value::as_str) {
        Some(namespace) => Some(format!("{kind} {namespace}/{name}")),
        None => Some(format!("{kind} {name}")),
    }
}

/// `metadata.creationTimestamp` in milliseconds since the Unix epoch, 0 without one.
fn created(value: &Value, findings: &mut Findings) -> u64 {
    let stamp = value.pointer("/metadata/creationTimestamp");
    let Some(stamp) = stamp.filter(|stamp| !stamp.is_null()) else {
        return 0;
    };
    let parsed = stamp
        .as_str()
        .and_then(|text| text.parse::<jiff::Timestamp>().ok())
        .and_then(|time| u64::try_from(time.as_millisecond()).ok());
    parsed.unwrap_or_else(|| {
        findings.error(
            "metadata.creationTimestamp",
            format!("{stamp} is no point in time since 1970"),
            "write it as 2026-01-31T12:00:00Z",
        );
        0
    })
}

fn problem(finding: Finding, resource: Option<&String>, position: Option<Position>) -> Problem {
    Problem {
        severity: finding.severity,
        resource: resource.cloned(),
        position,
        path: finding.path,
        message: finding.message,
        remedy: finding.remedy,
    }
}

fn position(file: &str, mark: Mark) -> Position {
    Position {
        file: file.to_owned(),
        line: mark.line,
        column: mark.column,
    }
}
