//! Parser events → trees.

use std::collections::BTreeMap;

use granit_parser::{Event, ScalarStyle, ScanError, Span, Tag};

use super::{DEPTH_MAX, DOCUMENTS_MAX, Data, Entry, Fault, Mark, Node, VALUES_MAX, scalar};

/// How to go on after an event.
pub(super) enum Step {
    Go,
    NextDocument,
    Stop,
}

#[derive(Default)]
pub(super) struct Builder {
    pub(super) documents: Vec<Node>,
    pub(super) faults: Vec<Fault>,
    stack: Vec<Frame>,
    anchors: BTreeMap<usize, Node>,
    values: usize,
}

/// A collection that is still open.
struct Frame {
    mark: Mark,
    anchor: usize,
    open: Open,
}

enum Open {
    List(Vec<Node>),
    Map {
        entries: Vec<Entry>,
        /// The key whose value comes next.
        key: Option<(String, Mark)>,
        seen: BTreeMap<String, Mark>,
        /// Values of `<<`, whose fields are added at the end, where the map lacks them.
        merged: Vec<Node>,
    },
}

impl Builder {
    pub(super) fn take(&mut self, event: Event<'_>, span: &Span) -> Step {
        let mark = Mark::of(span.start);
        if let Event::Scalar(text, style, anchor, tag) = event {
            if self.awaits_key() {
                self.remember(anchor, &Node::scalar(mark, Data::Text(text.to_string())));
                self.set_key(text.into_owned(), mark);
                return Step::Go;
            }
            let data = self.resolve(&text, style, tag.as_deref(), mark);
            return self.finish(Node::scalar(mark, data), anchor);
        }
        if let Event::SequenceStart(_, anchor, _) = event {
            return self.open(mark, anchor, Open::List(Vec::new()));
        }
        if let Event::MappingStart(_, anchor, _) = event {
            return self.open(
                mark,
                anchor,
                Open::Map {
                    entries: Vec::new(),
                    key: None,
                    seen: BTreeMap::new(),
                    merged: Vec::new(),
                },
            );
        }
        if matches!(event, Event::SequenceEnd | Event::MappingEnd) {
            return self.close();
        }
        if let Event::Alias(anchor) = event {
            return self.alias(anchor, mark);
        }
        if matches!(event, Event::DocumentEnd) {
            self.abandon();
        }
        if matches!(event, Event::DocumentStart(..)) && self.documents.len() >= DOCUMENTS_MAX {
            let message = format!("there are more than {DOCUMENTS_MAX} documents");
            self.fault(mark, message, "split the text into several".to_owned());
            return Step::Stop;
        }
        Step::Go
    }

    fn open(&mut self, mark: Mark, anchor: usize, open: Open) -> Step {
        if self.stack.len() >= DEPTH_MAX {
            return self.too_deep(mark);
        }
        self.stack.push(Frame { mark, anchor, open });
        Step::Go
    }

    fn close(&mut self) -> Step {
        let Some(frame) = self.stack.pop() else {
            return Step::Go;
        };
        let data = match frame.open {
            Open::List(items) => Data::List(items),
            Open::Map {
                mut entries,
                seen,
                merged,
                ..
            } => {
                self.merge(&mut entries, seen, merged);
                Data::Map(entries)
            }
        };
        self.finish(Node::collection(frame.mark, data), frame.anchor)
    }

    fn alias(&mut self, anchor: usize, mark: Mark) -> Step {
        let Some(node) = self.anchors.get(&anchor) else {
            let message = "an alias stands inside the value that it repeats".to_owned();
            self.fault(mark, message, "write the value out".to_owned());
            return Step::NextDocument;
        };
        if self.stack.len() + node.height > DEPTH_MAX {
            return self.too_deep(mark);
        }
        if self.values.saturating_add(node.size) > VALUES_MAX {
            return self.too_many(mark);
        }
        let node = node.clone();
        self.values += node.size - 1;
        self.finish(node, 0)
    }

    /// Puts a finished value where it belongs.
    fn finish(&mut self, node: Node, anchor: usize) -> Step {
        self.values += 1;
        if anchor != 0 {
            self.values = self.values.saturating_add(node.size);
        }
        if self.values > VALUES_MAX {
            return self.too_many(node.mark);
        }
        self.remember(anchor, &node);
        let awaits_key = self.awaits_key();
        match self.stack.last_mut().map(|frame| &mut frame.open) {
            None => self.documents.push(node),
            Some(Open::List(items)) => items.push(node),
            Some(Open::Map { .. }) if awaits_key => self.set_key_node(node),
            Some(Open::Map {
                entries,
                key,
                merged,
                ..
            }) => {
                if let Some((key, mark)) = key.take() {
                    if key == "<<" {
                        merged.push(node);
                    } else if entries.iter().all(|entry| entry.key != key) {
                        entries.push(Entry {
                            key,
                            mark,
                            value: node,
                        });
                    }
                }
            }
        }
        Step::Go
    }

    fn awaits_key(&self) -> bool {
        self.stack
            .last()
            .is_some_and(|frame| matches!(frame.open, Open::Map { key: None, .. }))
    }

    fn set_key_node(&mut self, node: Node) {
        let mark = node.mark;
        if let Data::Text(text) = node.data {
            self.set_key(text, mark);
        } else {
            self.fault(
                mark,
                "a field's name must be text".to_owned(),
                "write `name: value`".to_owned(),
            );
            self.set_key(String::new(), mark);
        }
    }

    fn set_key(&mut self, text: String, mark: Mark) {
        let Some(Open::Map { key, seen, .. }) = self.stack.last_mut().map(|frame| &mut frame.open)
        else {
            return;
        };
        *key = Some((text.clone(), mark));
        let first = seen.insert(text.clone(), mark);
        if let Some(first) = first {
            let message = format!(
                "the field `{text}` is given twice, first in line {}",
                first.line
            );
            self.fault(mark, message, "keep one of them".to_owned());
        }
    }

    /// Adds what `<<` brings in: maps, or lists of maps, earlier ones first.
    fn merge(
        &mut self,
        entries: &mut Vec<Entry>,
        mut seen: BTreeMap<String, Mark>,
        merged: Vec<Node>,
    ) {
        let mut sources = Vec::new();
        for node in merged {
            match node.data {
                Data::List(items) => sources.extend(items),
                Data::Null | Data::Bool(_) | Data::Number(_) | Data::Text(_) | Data::Map(_) => {
                    sources.push(node)
                }
            }
        }
        for node in sources {
            let Data::Map(more) = node.data else {
                let message = "`<<` brings in something that is no map".to_owned();
                self.fault(node.mark, message, "name an anchor of a map".to_owned());
                continue;
            };
            for entry in more {
                if seen.insert(entry.key.clone(), entry.mark).is_none() {
                    entries.push(entry);
                }
            }
        }
    }

    fn remember(&mut self, anchor: usize, node: &Node) {
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
    }

    fn resolve(&mut self, text: &str, style: ScalarStyle, tag: Option<&Tag>, mark: Mark) -> Data {
        let plain = || scalar::plain(text);
        let Some(tag) = tag else {
            return if style == ScalarStyle::Plain {
                plain()
            } else {
                Data::Text(text.to_owned())
            };
        };
        match tag.core_suffix() {
            Some("str") => Data::Text(text.to_owned()),
            Some("null" | "bool" | "int" | "float") => plain(),
            Some(_) | None if tag.suffix().is_empty() => Data::Text(text.to_owned()),
            Some(_) | None => {
                let message = format!("the tag `{}` is not known", tag.original());
                self.fault(mark, message, "leave the tag out".to_owned());
                Data::Text(text.to_owned())
            }
        }
    }

    /// Drops the document that is being built.
    pub(super) fn abandon(&mut self) {
        self.stack.clear();
        self.anchors.clear();
    }

    pub(super) fn syntax(&mut self, error: &ScanError) {
        self.fault(
            Mark::of(*error.marker()),
            format!("this is not valid YAML: {}", error.info()),
            "check the indentation, quotes and brackets here and in the lines above".to_owned(),
        );
    }

    fn too_deep(&mut self, mark: Mark) -> Step {
        let message = format!("the nesting is deeper than {DEPTH_MAX}");
        self.fault(mark, message, "nest less deeply".to_owned());
        Step::NextDocument
    }

    fn too_many(&mut self, mark: Mark) -> Step {
        let message =
            format!("the text holds more than {VALUES_MAX} values, repeated ones counted");
        self.fault(
            mark,
            message,
            "split the text, and use fewer aliases".to_owned(),
        );
        Step::Stop
    }

    pub(super) fn fault(&mut self, mark: Mark, message: String, remedy: String) {
        self.faults.push(Fault {
            mark,
            message,
            remedy,
        });
    }
}
