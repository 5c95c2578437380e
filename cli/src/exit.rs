//! How the program ends: one sentence, and a code that scripts can rely on.

use std::fmt;

/// The exit codes, part of the command line's contract (`docs/reference/exit-codes.md`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Code {
    /// Something that should not happen.
    Internal = 1,
    /// The command line is wrong (clap's own code).
    Usage = 2,
    /// A configuration file or a declaration is wrong; nothing was changed.
    Invalid = 3,
    /// What was asked for does not exist.
    NotFound = 4,
    /// The control plane (or proxy) cannot be reached.
    Unreachable = 5,
    /// An address is in use or may not be used.
    Bind = 6,
    /// A file cannot be read or written.
    Files = 7,
    /// A certificate, key or token is not good.
    Identity = 8,
    /// `diff` found differences.
    Differs = 9,
}

/// Why the program ends without having done what was asked.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) code: Code,
    /// For people, complete sentences; may have several lines. Empty: everything is said already.
    pub(crate) message: String,
}

impl Failure {
    pub(crate) fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }

    pub(crate) fn internal(message: impl Into<String>) -> Self {
        Self::new(Code::Internal, message)
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(Code::Invalid, message)
    }

    pub(crate) fn bind(message: impl Into<String>) -> Self {
        Self::new(Code::Bind, message)
    }

    pub(crate) fn files(message: impl Into<String>) -> Self {
        Self::new(Code::Files, message)
    }

    pub(crate) fn unreachable(message: impl Into<String>) -> Self {
        Self::new(Code::Unreachable, message)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// Joins an error with the errors under it: `a: b: c`.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        let inner_text = inner.to_string();
        if !text.ends_with(&inner_text) {
            text.push_str(": ");
            text.push_str(&inner_text);
        }
        source = inner.source();
    }
    text
}
