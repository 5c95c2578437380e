//! YAML (and so JSON) text → trees that know where everything stands. Bounded against hostile text.

mod builder;
mod scalar;
#[cfg(test)]
mod tests;

use granit_parser::Parser;
use serde_json::{Number, Value};

use builder::{Builder, Step};

/// The longest text that is read, in bytes.
pub(super) const TEXT_MAX: usize = 1024 * 1024;
/// The most documents in one text.
pub(super) const DOCUMENTS_MAX: usize = 1_000;
/// The deepest nesting.
pub(super) const DEPTH_MAX: usize = 64;
/// The most values in one text, those that aliases repeat counted each time.
pub(super) const VALUES_MAX: usize = 200_000;

/// A place in the text; both numbers begin at 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Mark {
    pub(super) line: u32,
    pub(super) column: u32,
}

/// A value and where it begins.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) mark: Mark,
    pub(super) data: Data,
    /// How many values it holds, itself included.
    size: usize,
    /// How deep it is nested, 1 for a scalar.
    height: usize,
}

#[derive(Debug, Clone)]
pub(super) enum Data {
    Null,
    Bool(bool),
    Number(Number),
    Text(String),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// One field of a map.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) mark: Mark,
    pub(super) value: Node,
}

/// Something that is wrong with the text itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) mark: Mark,
    pub(super) message: String,
    pub(super) remedy: String,
}

impl Mark {
    pub(super) const START: Self = Self { line: 1, column: 1 };

    fn of(marker: granit_parser::Marker) -> Self {
        let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Self {
            line: number(marker.line().max(1)),
            column: number(marker.col()).saturating_add(1),
        }
    }
}

impl Node {
    fn scalar(mark: Mark, data: Data) -> Self {
        Self {
            mark,
            data,
            size: 1,
            height: 1,
        }
    }

    fn collection(mark: Mark, data: Data) -> Self {
        let children: Vec<&Self> = match &data {
            Data::List(items) => items.iter().collect(),
            Data::Map(entries) => entries.iter().map(|entry| &entry.value).collect(),
            Data::Null | Data::Bool(_) | Data::Number(_) | Data::Text(_) => Vec::new(),
        };
        let size = 1 + children.iter().map(|child| child.size).sum::<usize>();
        let height = 1 + children.iter().map(|child| child.height).max().unwrap_or(0);
        Self {
            mark,
            data,
            size,
            height,
        }
    }

    /// The field of a map.
    pub(super) fn get(&self, key: &str) -> Option<&Entry> {
        match &self.data {
            Data::Map(entries) => entries.iter().find(|entry| entry.key == key),
            Data::Null | Data::Bool(_) | Data::Number(_) | Data::Text(_) | Data::List(_) => None,
        }
    }

    /// The text of a field of a map.
    pub(super) fn text(&self, key: &str) -> Option<&str> {
        match &self.get(key)?.value.data {
            Data::Text(text) => Some(text),
            Data::Null | Data::Bool(_) | Data::Number(_) | Data::List(_) | Data::Map(_) => None,
        }
    }

    pub(super) fn is_null(&self) -> bool {
        matches!(self.data, Data::Null)
    }

    pub(super) fn to_value(&self) -> Value {
        match &self.data {
            Data::Null => Value::Null,
            Data::Bool(bool) => Value::Bool(*bool),
            Data::Number(number) => Value::Number(number.clone()),
            Data::Text(text) => Value::String(text.clone()),
            Data::List(items) => items.iter().map(Self::to_value).collect(),
            Data::Map(entries) => Value::Object(
                entries
                    .iter()
                    .map(|entry| (entry.key.clone(), entry.value.to_value()))
                    .collect(),
            ),
        }
    }
}

/// All documents of a text, and all that is wrong with it. After a syntax error reading goes on
/// with the next document.
pub(super) fn documents(text: &str) -> (Vec<Node>, Vec<Fault>) {
    let mut builder = Builder::default();
    if text.len() > TEXT_MAX {
        let message = format!("the text is {} bytes long", text.len());
        let remedy = format!("keep it within {TEXT_MAX} bytes: split it into several");
        builder.fault(Mark::START, message, remedy);
        return (Vec::new(), builder.faults);
    }
    let mut options = granit_parser::options! {
        flow_nesting_limit: DEPTH_MAX,
        block_nesting_limit: DEPTH_MAX,
    };
    options.set_emit_comments(false);
    let mut parser = Parser::new_from_str_with_options(text, options);
    while let Some(next) = parser.next_event() {
        let step = match next {
            Ok((event, span)) => builder.take(event, &span),
            Err(error) => {
                builder.syntax(&error);
                Step::NextDocument
            }
        };
        match step {
            Step::Go => {}
            Step::Stop => break,
            Step::NextDocument => {
                builder.abandon();
                match parser.proceed_next_document() {
                    Ok(true) => {}
                    Ok(false) => break,
                    Err(error) => {
                        builder.syntax(&error);
                        break;
                    }
                }
            }
        }
    }
    (builder.documents, builder.faults)
}
