//! The last-good file: what a proxy obeys when it starts without a control plane.
//!
//! Layout: [`MAGIC`], the SHA-256 of the rest, then a protobuf `LastGood`.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use portolan_api::resources::LastGood;
use prost::Message as _;
use sha2::{Digest as _, Sha256};
use tokio::sync::watch;

use super::assembly::Assembly;
use crate::durable;
use crate::shutdown::Shutdown;
use crate::start::problem;

/// What a last-good file begins with; the digit is the format's version.
const MAGIC: &[u8] = b"portolan last-good 1\n";
/// Bytes of a SHA-256.
const DIGEST_BYTES: usize = 32;
/// The largest last-good file, in bytes.
const FILE_BYTES_MAX: u64 = 512 * 1024 * 1024;
/// The file is written at most this often.
const SAVE_INTERVAL: Duration = Duration::from_secs(1);

pub(super) fn path(state_dir: &Path) -> PathBuf {
    state_dir.join("last-good.bin")
}

/// What the file knew. A damaged file is as good as none, and said in the log.
pub(super) fn load(path: &Path) -> Assembly {
    let file = path.display();
    let saved = match read(path) {
        Ok(saved) => saved,
        Err(Unusable::Missing) => return Assembly::default(),
        Err(Unusable::Damaged(problem)) => {
            tracing::warn!(%file, problem, "the last-good file is ignored: starting with nothing until the control plane answers");
            return Assembly::default();
        }
    };
    let (assembly, faults) = Assembly::import(saved);
    for fault in faults {
        tracing::warn!(%file, fault, "a resource in the last-good file is ignored");
    }
    let snapshot = assembly.snapshot();
    let (generation, services) = (snapshot.generation, snapshot.services.len());
    tracing::info!(%file, generation, services, "starting from the last-good file");
    assembly
}

/// Writes the file after every change, at most once per [`SAVE_INTERVAL`], and at the shutdown.
pub(super) async fn keep_saved(
    path: PathBuf,
    assembly: Arc<Mutex<Assembly>>,
    mut changed: watch::Receiver<u64>,
    shutdown: Shutdown,
) {
    while let Some(Ok(())) = shutdown.unless_triggered(changed.changed()).await {
        save(&path, &assembly).await;
        shutdown
            .unless_triggered(tokio::time::sleep(SAVE_INTERVAL))
            .await;
    }
    if changed.has_changed().unwrap_or(false) {
        save(&path, &assembly).await;
    }
}

async fn save(path: &Path, assembly: &Arc<Mutex<Assembly>>) {
    let (target, assembly) = (path.to_owned(), Arc::clone(assembly));
    let work = move || {
        let export = assembly
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .export();
        durable::write(&target, &encode(&export), durable::PRIVATE)
    };
    let saved = tokio::task::spawn_blocking(work).await;
    let saved = saved.unwrap_or_else(|_| Err(io::Error::other("the writing task ended")));
    if let Err(error) = saved {
        let (file, problem) = (path.display(), problem(&error));
        tracing::warn!(%file, problem, "cannot save the last-good file; a restart would begin with an older one");
    }
}

pub(super) fn encode(saved: &LastGood) -> Vec<u8> {
    let body = saved.encode_to_vec();
    let mut bytes = Vec::with_capacity(MAGIC.len() + DIGEST_BYTES + body.len());
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&Sha256::digest(&body));
    bytes.extend_from_slice(&body);
    bytes
}

fn decode(bytes: &[u8]) -> Result<LastGood, &'static str> {
    let rest = bytes
        .strip_prefix(MAGIC)
        .ok_or("it is no last-good file of this version")?;
    let (digest, body) = rest.split_at_checked(DIGEST_BYTES).ok_or("it is cut off")?;
    if Sha256::digest(body).as_slice() != digest {
        return Err("its checksum is wrong: it was damaged");
    }
    LastGood::decode(body).map_err(|_| "it cannot be decoded")
}

enum Unusable {
    Missing,
    Damaged(String),
}

fn read(path: &Path) -> Result<LastGood, Unusable> {
    let damaged = |error: io::Error| {
        if error.kind() == io::ErrorKind::NotFound {
            return Unusable::Missing;
        }
        Unusable::Damaged(problem(&error))
    };
    let file = File::open(path).map_err(damaged)?;
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX)
        .read_to_end(&mut bytes)
        .map_err(damaged)?;
    decode(&bytes).map_err(|problem| Unusable::Damaged(problem.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_damage_is_found() {
        let saved = LastGood {
            system_version_info: "r/7".to_owned(),
            resources: vec![],
        };
        let good = encode(&saved);
        assert_eq!(decode(&good), Ok(saved));
        for cut in 0..good.len() {
            assert!(decode(&good[..cut]).is_err(), "cut at {cut}");
        }
        for at in 0..good.len() {
            let mut bytes = good.clone();
            bytes[at] ^= 0x40;
            assert!(decode(&bytes).is_err(), "flipped at {at}");
        }
    }
}
