//! Paths of fields, as people read them: `spec.ports[0].port`, `metadata.annotations["a/b"]`.

use std::fmt::Write as _;

use super::yaml::{Data, Mark, Node};

/// One step into a document.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Field(String),
    Item(usize),
}

/// Which end of a field a problem is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// The name of the field.
    Name,
    /// What it holds. Lists and maps stand where their name stands.
    Value,
}

/// `path` with a field added.
pub(crate) fn field(path: &str, name: &str) -> String {
    let simple = !name.is_empty()
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'$'));
    match (simple, path.is_empty()) {
        (true, true) => name.to_owned(),
        (true, false) => format!("{path}.{name}"),
        (false, _) => {
            let mut quoted = path.to_owned();
            // Writing to a String cannot fail.
            let _ = write!(quoted, "[{name:?}]");
            quoted
        }
    }
}

/// `path` with a position in a list added.
pub(crate) fn item(path: &str, index: usize) -> String {
    format!("{path}[{index}]")
}

/// Where the field at `path` stands; where it is missing, the nearest thing around it.
pub(super) fn locate(root: &Node, path: &str, end: End) -> Mark {
    let mut node = root;
    let mut name = root.mark;
    for step in steps(path) {
        let next = match (&step, &node.data) {
            (Step::Field(field), Data::Map(_)) => {
                node.get(field).map(|entry| (&entry.value, entry.mark))
            }
            (Step::Item(index), Data::List(items)) => {
                items.get(*index).map(|item| (item, item.mark))
            }
            (
                Step::Field(_) | Step::Item(_),
                Data::Null
                | Data::Bool(_)
                | Data::Number(_)
                | Data::Text(_)
                | Data::List(_)
                | Data::Map(_),
            ) => None,
        };
        let Some((value, mark)) = next else {
            return name;
        };
        (node, name) = (value, mark);
    }
    match (&node.data, end) {
        (Data::List(_) | Data::Map(_), _) | (_, End::Name) => name,
        (Data::Null | Data::Bool(_) | Data::Number(_) | Data::Text(_), End::Value) => node.mark,
    }
}

fn steps(path: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut rest = path;
    while !rest.is_empty() {
        if let Some(quoted) = rest.strip_prefix("[\"") {
            let end = quoted.find("\"]").unwrap_or(quoted.len());
            steps.push(Step::Field(quoted[..end].replace("\\\"", "\"")));
            rest = quoted.get(end + 2..).unwrap_or("");
        } else if let Some(indexed) = rest.strip_prefix('[') {
            let end = indexed.find(']').unwrap_or(indexed.len());
            steps.push(Step::Item(indexed[..end].parse().unwrap_or(usize::MAX)));
            rest = indexed.get(end + 1..).unwrap_or("");
        } else {
            let plain = rest.strip_prefix('.').unwrap_or(rest);
            let end = plain.find(['.', '[']).unwrap_or(plain.len());
            steps.push(Step::Field(plain[..end].to_owned()));
            rest = &plain[end..];
            if end == 0 && !rest.starts_with('[') {
                break;
            }
        }
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::super::yaml::documents;
    use super::*;

    #[test]
    fn paths_lead_to_their_places() {
        let text = "spec:\n  ports:\n  - port: 80\n    name: web\nnotes: {a/b: \"x\", c.d: y}\n";
        let node = &documents(text).0[0];
        let at = |path: &str, end| {
            let mark = locate(node, path, end);
            (mark.line, mark.column)
        };
        assert_eq!(at("spec.ports[0].port", End::Value), (3, 11));
        assert_eq!(at("spec.ports[0].port", End::Name), (3, 5));
        assert_eq!(at("spec.ports[0].missing", End::Value), (3, 5));
        assert_eq!(at("spec.ports", End::Value), (2, 3));
        assert_eq!(at(&field("notes", "a/b"), End::Value), (5, 14));
        assert_eq!(at(&field("notes", "c.d"), End::Name), (5, 19));
        for odd in ["..", "[", "[\"", "a[", "a[x]", ".[0]", "a..b", "]"] {
            let _ = locate(node, odd, End::Value);
        }
    }
}
