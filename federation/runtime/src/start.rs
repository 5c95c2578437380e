//! Why a daemon could not start or go on: one clear sentence, and a class that the command line
//! turns into an exit code.

use std::fmt::Display;
use std::io;

use crate::config::ConfigError;

/// Why a daemon could not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration file.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A socket that cannot be listened on.
    #[error("cannot listen on {address}: {problem}; {remedy}")]
    Bind {
        /// The address or path.
        address: String,
        /// What is wrong.
        problem: String,
        /// What would be right.
        remedy: String,
        /// What the system said.
        source: io::Error,
    },
    /// No identity to work under.
    #[error("{problem}; {remedy}")]
    Identity {
        /// What is wrong.
        problem: String,
        /// What would be right.
        remedy: String,
    },
    /// A file, folder or other thing of the system.
    #[error("cannot {action} {object}: {problem}; {remedy}")]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// With what.
        object: String,
        /// What is wrong.
        problem: String,
        /// What would be right.
        remedy: String,
        /// What the system said.
        source: io::Error,
    },
    /// One of the process's threads panicked or failed.
    #[error("worker {worker} failed: {problem}; see the log before this line")]
    Worker {
        /// The thread's name.
        worker: String,
        /// What happened.
        problem: String,
    },
    /// The process was told to stop before it had started.
    #[error("stopped before it had started; nothing is wrong")]
    Stopped,
}

impl StartError {
    /// A listener that could not be opened. `setting` is the configuration field that names the address.
    pub fn bind(address: impl Display, setting: &str, source: io::Error) -> Self {
        let address = address.to_string();
        let hint = REMEDIES_OF_BIND.of(source.kind());
        let remedy = format!("{}change `{setting}`{}", hint.0, hint.1);
        Self::Bind {
            address,
            problem: problem(&source),
            remedy,
            source,
        }
    }

    /// Something that could not be read, written, started, …
    pub fn io(action: &'static str, object: impl Display, source: io::Error) -> Self {
        let remedy = REMEDIES.of(source.kind());
        Self::Io {
            action,
            object: object.to_string(),
            problem: problem(&source),
            remedy: remedy.to_owned(),
            source,
        }
    }

    /// An identity that could not be had.
    pub fn identity(problem: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::Identity {
            problem: problem.into(),
            remedy: remedy.into(),
        }
    }
}

/// What an I/O error means, in plain words.
pub(crate) fn problem(error: &io::Error) -> String {
    PROBLEMS
        .of(error.kind())
        .map_or_else(|| error.to_string(), str::to_owned)
}

/// Words for kinds of I/O errors, and those for all other kinds.
pub(crate) struct ByKind<T: 'static>(pub(crate) &'static [(io::ErrorKind, T)], pub(crate) T);

impl<T: Copy> ByKind<T> {
    pub(crate) fn of(&self, kind: io::ErrorKind) -> T {
        let known = self.0.iter().find(|(known, _)| *known == kind);
        known.map_or(self.1, |(_, words)| *words)
    }
}

const PROBLEMS: ByKind<Option<&str>> = ByKind(
    &[
        (io::ErrorKind::AddrInUse, Some("address in use")),
        (
            io::ErrorKind::AddrNotAvailable,
            Some("no such address on this machine"),
        ),
        (io::ErrorKind::PermissionDenied, Some("permission denied")),
        (io::ErrorKind::NotFound, Some("it does not exist")),
        (io::ErrorKind::StorageFull, Some("the disk is full")),
        (
            io::ErrorKind::QuotaExceeded,
            Some("the disk quota is used up"),
        ),
        (
            io::ErrorKind::ReadOnlyFilesystem,
            Some("the file system is read-only"),
        ),
        (io::ErrorKind::IsADirectory, Some("it is a folder")),
        (
            io::ErrorKind::NotADirectory,
            Some("a part of the path is not a folder"),
        ),
        (io::ErrorKind::ConnectionRefused, Some("connection refused")),
        (io::ErrorKind::TimedOut, Some("timed out")),
    ],
    None,
);

const REMEDIES: ByKind<&str> = ByKind(
    &[
        (io::ErrorKind::NotFound, "create it or correct the path"),
        (
            io::ErrorKind::PermissionDenied,
            "give this user the right to do so",
        ),
        (
            io::ErrorKind::StorageFull,
            "make room, or choose another disk",
        ),
        (
            io::ErrorKind::QuotaExceeded,
            "make room, or choose another disk",
        ),
        (
            io::ErrorKind::ReadOnlyFilesystem,
            "choose a place that can be written",
        ),
    ],
    "mend it and start again",
);

/// What stands before and after "change `<setting>`".
const REMEDIES_OF_BIND: ByKind<(&str, &str)> = ByKind(
    &[
        (
            io::ErrorKind::AddrInUse,
            ("another program has this port: ", " or stop it"),
        ),
        (
            io::ErrorKind::AddrNotAvailable,
            ("", " to an address of this machine"),
        ),
        (
            io::ErrorKind::PermissionDenied,
            (
                "",
                " to a place that this user may use (ports below 1024 need more rights)",
            ),
        ),
    ],
    ("", ""),
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_one_clear_sentence() {
        let error = StartError::bind("127.0.0.1:15000", "admin", io::ErrorKind::AddrInUse.into());
        assert_eq!(
            error.to_string(),
            "cannot listen on 127.0.0.1:15000: address in use; another program has this port: change `admin` or stop it"
        );
    }

    #[test]
    fn files_name_action_object_and_remedy() {
        let error = StartError::io("write", "/x/roots.pem", io::ErrorKind::StorageFull.into());
        assert_eq!(
            error.to_string(),
            "cannot write /x/roots.pem: the disk is full; make room, or choose another disk"
        );
    }
}
