//! Schema errors → sentences that say what is wrong and what would be right.

use jsonschema::ValidationError;
use jsonschema::error::{TypeKind, ValidationErrorKind};
use portolan_model::Severity;
use portolan_model::declared::ResourceKind;
use serde_json::Value;

use super::finding::Finding;
use super::path::{End, field, item};
use super::schema;
use crate::near::nearest;

/// The most allowed fields that are listed when nothing is near.
const FIELDS_LISTED: usize = 30;
/// The longest wrong value that is repeated, in characters.
const SHOWN_MAX: usize = 60;

/// Everything in which a document breaks its kind's schema.
pub(super) fn violations(kind: ResourceKind, document: &Value) -> Vec<Finding> {
    let Some(validator) = schema::validator(kind) else {
        return Vec::new();
    };
    validator
        .iter_errors(document)
        .flat_map(|error| findings(kind, document, &error))
        .collect()
}

fn findings(kind: ResourceKind, document: &Value, error: &ValidationError<'_>) -> Vec<Finding> {
    let path = readable(document, error.instance_path().as_str());
    if let ValidationErrorKind::AdditionalProperties { unexpected } = error.kind() {
        let pointer = error.schema_path().as_str();
        let parent = pointer.rsplit_once('/').map_or("", |(parent, _)| parent);
        let allowed = schema::allowed_fields(schema::of(kind), parent);
        return unexpected
            .iter()
            .map(|name| unknown_field(&path, name, &allowed))
            .collect();
    }
    vec![finding(kind, path, error)]
}

fn unknown_field(path: &str, name: &str, allowed: &[&str]) -> Finding {
    let remedy = match nearest(name, allowed.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None if allowed.is_empty() => "leave it out".to_owned(),
        None if allowed.len() > FIELDS_LISTED => format!(
            "allowed fields: {}, …",
            list(allowed.iter().take(FIELDS_LISTED))
        ),
        None => format!("allowed fields: {}", list(allowed.iter())),
    };
    Finding {
        severity: Severity::Error,
        path: field(path, name),
        end: End::Name,
        message: format!("unknown field `{name}`"),
        remedy,
    }
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "the list is the validator's; what our schemas never ask for keeps its own words"
)]
fn finding(kind: ResourceKind, path: String, error: &ValidationError<'_>) -> Finding {
    let found = error.instance();
    let mut end = End::Value;
    let (message, remedy) = match error.kind() {
        ValidationErrorKind::Required { property } => {
            end = End::Name;
            let name = property.as_str().unwrap_or_default();
            let remedy = description(kind, error.schema_path().as_str(), name);
            (format!("the field `{name}` is missing"), remedy)
        }
        ValidationErrorKind::Type { kind } => wrong_type(&types(kind), found),
        ValidationErrorKind::Enum { options } => not_one_of(options, found),
        ValidationErrorKind::Minimum { limit } => (
            format!("{} is too small", shown(found)),
            format!("use a number from {limit}{}", upper_bound(kind, error)),
        ),
        ValidationErrorKind::Maximum { limit } => (
            format!("{} is too large", shown(found)),
            format!("use a number up to {limit}"),
        ),
        ValidationErrorKind::MaxItems { limit } => (
            "the list is too long".to_owned(),
            format!("give at most {limit}"),
        ),
        other => (
            error.masked().to_string(),
            format!("obey `{}` of the schema", other.keyword()),
        ),
    };
    Finding {
        severity: Severity::Error,
        path,
        end,
        message,
        remedy,
    }
}

fn upper_bound(kind: ResourceKind, error: &ValidationError<'_>) -> String {
    let pointer = error.schema_path().as_str();
    let parent = pointer.rsplit_once('/').map_or("", |(parent, _)| parent);
    let limit = schema::of(kind)
        .pointer(parent)
        .and_then(|part| part.get("maximum"));
    limit.map_or(String::new(), |limit| format!(" to {limit}"))
}

fn wrong_type(wanted: &[String], found: &Value) -> (String, String) {
    let wanted_words = wanted.join(" or ");
    let message = format!("expected {wanted_words}, found {}", described(found));
    let wants = |word: &str| wanted.iter().any(|wanted| wanted.ends_with(word));
    let remedy = match found {
        Value::String(text) if wants("integer") && text.parse::<i64>().is_ok() => {
            format!("write {text} without quotes")
        }
        Value::Number(_) | Value::Bool(_) if wants("string") => {
            format!("put it in quotes: \"{found}\"")
        }
        Value::Null => format!("give {wanted_words}, or leave the field out"),
        Value::Number(_) | Value::Bool(_) | Value::String(_) if wants("list") => {
            format!("write a list: [{found}]")
        }
        Value::Object(_) if wants("list") => "begin each item of the list with `- `".to_owned(),
        Value::Bool(_)
        | Value::Number(_)
        | Value::String(_)
        | Value::Array(_)
        | Value::Object(_) => format!("give {wanted_words}"),
    };
    (message, remedy)
}

fn not_one_of(options: &Value, found: &Value) -> (String, String) {
    let options: Vec<&str> = options
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let near = found
        .as_str()
        .and_then(|text| nearest(text, options.iter().copied()));
    let remedy = match (near, options.as_slice()) {
        (Some(near), _) => format!("did you mean `{near}`?"),
        (None, [only]) => format!("write `{only}`"),
        (None, _) => format!("use one of {}", list(options.iter())),
    };
    (format!("{} is not allowed here", shown(found)), remedy)
}

/// What a missing field is for, from its description.
fn description(kind: ResourceKind, schema_pointer: &str, name: &str) -> String {
    let parent = schema_pointer
        .rsplit_once('/')
        .map_or("", |(parent, _)| parent);
    let text = schema::of(kind)
        .pointer(parent)
        .and_then(|part| part.pointer(&format!("/properties/{name}/description")))
        .and_then(Value::as_str);
    match text.and_then(|text| text.split(['.', '\n']).next()) {
        Some(text) if !text.is_empty() => format!("add `{name}`: {text}"),
        Some(_) | None => format!("add `{name}`"),
    }
}

fn types(kind: &TypeKind) -> Vec<String> {
    let words: Vec<String> = match kind {
        TypeKind::Single(one) => vec![one.to_string()],
        TypeKind::Multiple(set) => set.iter().map(|one| one.to_string()).collect(),
    };
    let spoken = |word: String| match word.as_str() {
        "integer" => "an integer".to_owned(),
        "array" => "a list".to_owned(),
        "object" => "a map".to_owned(),
        _ => format!("a {word}"),
    };
    words
        .into_iter()
        .filter(|word| word != "null")
        .map(spoken)
        .collect()
}

fn described(value: &Value) -> String {
    match value {
        Value::Null => "nothing".to_owned(),
        Value::Bool(_) => format!("the boolean {value}"),
        Value::Number(_) => format!("the number {value}"),
        Value::String(_) => format!("the string {}", shown(value)),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "a map".to_owned(),
    }
}

fn shown(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(SHOWN_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

fn list<'a>(words: impl Iterator<Item = &'a &'a str>) -> String {
    words
        .map(|word| format!("`{word}`"))
        .collect::<Vec<_>>()
        .join(", ")
}

/// A JSON pointer as people write paths.
fn readable(document: &Value, pointer: &str) -> String {
    let mut path = String::new();
    let mut value = document;
    for part in pointer.split('/').skip(1) {
        let name = part.replace("~1", "/").replace("~0", "~");
        let next = match (value, name.parse::<usize>()) {
            (Value::Array(items), Ok(index)) => {
                path = item(&path, index);
                items.get(index)
            }
            _ => {
                path = field(&path, &name);
                value.get(&name)
            }
        };
        value = next.unwrap_or(&Value::Null);
    }
    path
}
