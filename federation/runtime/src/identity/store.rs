//! The state folder's identity and roots.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use portolan_trust::{Identity, TrustBundle};

use crate::config::ConfigError;
use crate::durable;
use crate::start::{StartError, problem};
use crate::workers::chain;

/// Key and certificates.
const IDENTITY_FILE: &str = "identity.pem";
/// The newest roots that we were told.
const ROOTS_FILE: &str = "roots.pem";
/// No file of ours is larger, in bytes.
const PEM_BYTES_MAX: u64 = 4 * 1024 * 1024;

pub(super) struct State {
    folder: PathBuf,
}

impl State {
    pub(super) fn new(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
        }
    }

    /// The saved identity; `None` (said in the log) where there is none that can be read.
    pub(super) fn load_identity(&self) -> Option<Identity> {
        let path = self.folder.join(IDENTITY_FILE);
        let text = match read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                let file = path.display();
                tracing::warn!(%file, problem = problem(&error), "cannot read the saved identity");
                return None;
            }
        };
        Identity::from_pem(&text)
            .inspect_err(|error| {
                let file = path.display();
                tracing::warn!(%file, problem = chain(error), "the saved identity is damaged");
            })
            .ok()
    }

    /// Writes the identity. A failure is only logged: the process can work without the file.
    pub(super) fn save_identity(&self, identity: &Identity) {
        let path = self.folder.join(IDENTITY_FILE);
        save(&path, &identity.to_pem(), durable::PRIVATE);
    }

    /// Writes the roots. A failure is only logged: the process can work without the file.
    pub(super) fn save_roots(&self, roots: &TrustBundle) {
        save_roots(&self.folder, roots);
    }

    /// The roots to begin with: the newer of the saved ones and the configured file, since either
    /// the control plane or the administrator spoke last.
    pub(super) fn load_roots(&self, configured: &Path) -> Result<TrustBundle, StartError> {
        let saved = self.folder.join(ROOTS_FILE);
        if modified(&saved) > modified(configured) {
            match read(&saved).map(|text| TrustBundle::from_pem(&text)) {
                Ok(Ok(roots)) => return Ok(roots),
                Ok(Err(error)) => {
                    let file = saved.display();
                    tracing::warn!(%file, problem = chain(&error), "the saved roots are damaged");
                }
                Err(error) => {
                    let file = saved.display();
                    tracing::warn!(%file, problem = problem(&error), "cannot read the saved roots");
                }
            }
        }
        let text = read(configured).map_err(|source| {
            StartError::io("read the trust bundle", configured.display(), source)
        })?;
        TrustBundle::from_pem(&text).map_err(|error| {
            let file = configured.display();
            let remedy = "copy the root certificates (PEM) that `portolan ca init` made there";
            let problem = format!("{file} is no trust bundle: {}", chain(&error));
            ConfigError::unusable("trustBundle", problem, remedy).into()
        })
    }
}

/// Writes the roots into a state folder. A failure is only logged.
pub(crate) fn save_roots(folder: &Path, roots: &TrustBundle) {
    save(&folder.join(ROOTS_FILE), &roots.to_pem(), durable::PUBLIC);
}

fn save(path: &Path, text: &str, mode: u32) {
    if let Err(error) = durable::write(path, text.as_bytes(), mode) {
        let file = path.display();
        tracing::warn!(%file, problem = problem(&error), "cannot save; a restart will need the control plane");
    }
}

fn modified(path: &Path) -> Option<SystemTime> {
    fs::metadata(path)
        .and_then(|metadata| metadata.modified())
        .ok()
}

fn read(path: &Path) -> io::Result<String> {
    if fs::metadata(path)?.len() > PEM_BYTES_MAX {
        return Err(io::Error::other("it is too large"));
    }
    fs::read_to_string(path)
}
