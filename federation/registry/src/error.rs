//! What can go wrong with a store.

use std::path::PathBuf;

use crate::store::Revision;

/// The cause beneath an error, from whichever library.
pub type Cause = Box<dyn std::error::Error + Send + Sync>;

/// What went wrong. Each message names the place and, where there is one, the remedy.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A precondition did not hold; nothing was stored.
    #[error("`{key}` was changed by somebody else; read it again and repeat the change")]
    Conflict {
        /// The first key whose precondition failed.
        key: String,
        /// The key's version now; `None` when it does not exist.
        found: Option<Revision>,
    },
    /// The store cannot replay what came after this revision.
    #[error(
        "the history after revision {after} is not available (it begins after {oldest}); list again and watch from there"
    )]
    Compacted {
        /// The revision that was asked for.
        after: Revision,
        /// The oldest revision that can be resumed from.
        oldest: Revision,
    },
    /// Something is larger than its bound.
    #[error("{what} are {size}, the most is {max}")]
    TooLarge {
        /// What, in the plural.
        what: &'static str,
        /// How large it is.
        size: usize,
        /// How large it may be.
        max: usize,
    },
    /// A key that no backend can hold.
    #[error("`{key}` is not a valid key: use at least one character and no control characters")]
    InvalidKey {
        /// The key, escaped.
        key: String,
    },
    /// A batch that changes one key twice.
    #[error("a batch changes `{key}` twice; keep the last of these writes only")]
    DuplicateKey {
        /// The key.
        key: String,
    },
    /// The file is not what we wrote.
    #[error(
        "the registry file {} is damaged; restore it from a backup, or move it away, start again and re-apply your declarations",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was found.
        source: Cause,
    },
    /// The file was written by a newer Portolan.
    #[error(
        "the registry file {} has format {found}, this build reads format {known}; use a newer portolan",
        path.display()
    )]
    Format {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u64,
        /// The format that we read.
        known: u64,
    },
    /// Another process has the file open.
    #[error(
        "the registry file {} is in use by another process; stop that one, or give this one another file",
        path.display()
    )]
    Locked {
        /// The file.
        path: PathBuf,
    },
    /// There is no room to store anything; reads go on.
    #[error(
        "there is no room to write the registry file {}; free some space on its disk and repeat the change",
        path.display()
    )]
    Full {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: Cause,
    },
    /// The file cannot be read or written.
    #[error("cannot {doing} the registry file {}", path.display())]
    File {
        /// What was tried.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: Cause,
    },
    /// The store cannot be reached now; trying again later may help.
    #[error(
        "the registry at {place} cannot be reached; check that it runs and that this address is right"
    )]
    Unavailable {
        /// Which store.
        place: String,
        /// What was seen.
        source: Cause,
    },
    /// The store refused.
    #[error(
        "the registry at {place} refused to {doing}; check its user, password, certificates and quota"
    )]
    Refused {
        /// Which store.
        place: String,
        /// What was tried.
        doing: &'static str,
        /// What it said.
        source: Cause,
    },
    /// The configuration of a store makes no sense.
    #[error("the registry's configuration is wrong: {problem}")]
    Config {
        /// What is wrong and what would be right.
        problem: String,
    },
    /// The build lacks the etcd store.
    #[error(
        "this build has no etcd store; build with `--features etcd` (needs Debian's protobuf-compiler and libprotobuf-dev)"
    )]
    NoEtcd,
}

impl StoreError {
    /// Whether the same call may succeed later without anybody changing it.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Unavailable { .. } | Self::Full { .. } | Self::File { .. } => true,
            Self::Conflict { .. }
            | Self::Compacted { .. }
            | Self::TooLarge { .. }
            | Self::InvalidKey { .. }
            | Self::DuplicateKey { .. }
            | Self::Damaged { .. }
            | Self::Format { .. }
            | Self::Locked { .. }
            | Self::Refused { .. }
            | Self::Config { .. }
            | Self::NoEtcd => false,
        }
    }
}
