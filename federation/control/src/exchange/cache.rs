//! The last catalogue of each peer on disk, so that a restart forgets nobody's exports.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use portolan_api::peering::{CatalogueEntry as EntryMessage, CatalogueUpdate};
use portolan_model::ClusterName;
use portolan_model::sharing::CatalogueEntry;
use portolan_runtime::{StartError, durable};
use prost::Message as _;

use super::held::Held;

/// The largest file that is read.
const FILE_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// The folder of the last catalogues.
#[derive(Debug, Clone)]
pub(crate) struct Cache {
    folder: PathBuf,
}

impl Cache {
    /// A cache under the data directory.
    pub(crate) fn new(data_dir: &Path) -> Self {
        Self {
            folder: data_dir.join("catalogues"),
        }
    }

    /// Makes the folder.
    pub(crate) fn prepare(&self) -> Result<(), StartError> {
        durable::ensure_folder(&self.folder)
    }

    /// What was last known of a peer. A file that cannot be read counts as none: the peer will say it again.
    pub(crate) fn load(&self, peer: &ClusterName) -> Held {
        let path = self.path(peer);
        match read(&path) {
            Ok(held) => held,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Held::default(),
            Err(error) => {
                tracing::warn!(file = %path.display(), error = &error as &dyn std::error::Error,
                    "the peer's last catalogue cannot be read; waiting for the peer");
                Held::default()
            }
        }
    }

    /// Keeps what is known of a peer. Blocks until it is on disk.
    pub(crate) fn save(&self, peer: &ClusterName, held: &CatalogueUpdate) -> io::Result<()> {
        durable::write(&self.path(peer), &held.encode_to_vec(), durable::PRIVATE)
    }

    /// Forgets a peer.
    pub(crate) fn forget(&self, peer: &ClusterName) {
        let path = self.path(peer);
        if let Err(error) = fs::remove_file(&path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(file = %path.display(), error = &error as &dyn std::error::Error, "cannot remove a catalogue");
        }
    }

    fn path(&self, peer: &ClusterName) -> PathBuf {
        self.folder.join(format!("{peer}.pb"))
    }
}

/// What is held, as it is kept.
pub(crate) fn to_file(held: &Held) -> CatalogueUpdate {
    CatalogueUpdate {
        epoch: held.epoch.clone(),
        version: held.version,
        full: true,
        upserts: held.entries.values().map(EntryMessage::from).collect(),
        removals: Vec::new(),
    }
}

fn read(path: &Path) -> io::Result<Held> {
    let size = fs::metadata(path)?.len();
    if size > FILE_BYTES_MAX {
        return Err(io::Error::other(format!("it has {size} bytes")));
    }
    let bytes = fs::read(path)?;
    let kept = CatalogueUpdate::decode(bytes.as_slice()).map_err(io::Error::other)?;
    let entries: Result<Vec<CatalogueEntry>, _> = kept
        .upserts
        .into_iter()
        .map(CatalogueEntry::try_from)
        .collect();
    let entries = entries.map_err(io::Error::other)?;
    Ok(Held::kept(kept.epoch, kept.version, entries))
}
