//! Something wrong in a document, before its place in the text is looked up.

use std::fmt;
use std::str::FromStr;

use portolan_model::{NameError, Severity};

use super::path::End;

/// Something wrong at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Finding {
    pub(super) severity: Severity,
    pub(super) path: String,
    pub(super) end: End,
    pub(super) message: String,
    pub(super) remedy: String,
}

/// Everything found so far.
#[derive(Debug, Default)]
pub(super) struct Findings(pub(super) Vec<Finding>);

impl Findings {
    pub(super) fn error(
        &mut self,
        path: impl Into<String>,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.add(Severity::Error, End::Value, path, message, remedy);
    }

    pub(super) fn warning(
        &mut self,
        path: impl Into<String>,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.add(Severity::Warning, End::Value, path, message, remedy);
    }

    pub(super) fn add(
        &mut self,
        severity: Severity,
        end: End,
        path: impl Into<String>,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.0.push(Finding {
            severity,
            path: path.into(),
            end,
            message: message.into(),
            remedy: remedy.into(),
        });
    }

    pub(super) fn has_errors(&self) -> bool {
        self.0
            .iter()
            .any(|finding| finding.severity == Severity::Error)
    }

    /// The first error, as `path: message`.
    pub(super) fn first_error(&self) -> Option<String> {
        let mut errors = self.0.iter().filter(|it| it.severity == Severity::Error);
        let first = errors.next()?;
        Some(format!("{}: {}", first.path, first.message))
    }

    /// Parses a name; what is wrong with it is noted.
    pub(super) fn name<T: FromStr<Err = NameError>>(
        &mut self,
        text: &str,
        path: &str,
    ) -> Option<T> {
        text.parse()
            .map_err(|error: NameError| {
                let message = format!("`{}` is not a valid {}", error.text, error.kind);
                self.error(path, message, error.rule);
            })
            .ok()
    }

    /// Parses something else; `what` says what it should be, `remedy` what would be right.
    pub(super) fn parse<T>(&mut self, text: &str, path: &str, what: &str, remedy: &str) -> Option<T>
    where
        T: FromStr,
        T::Err: fmt::Display,
    {
        text.parse()
            .map_err(|_| self.error(path, format!("`{text}` is not {what}"), remedy))
            .ok()
    }
}
