//! Files and directories of declarations, applied at start and whenever they change. What a file
//! declared and declares no more is removed; a file with mistakes changes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use notify::event::{AccessKind, AccessMode, CreateKind, ModifyKind};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use portolan_model::declared::{Declared, ResourceKey};
use portolan_model::{Namespace, Problem, Severity};
use portolan_registry::Limits;
use portolan_runtime::Shutdown;
use portolan_runtime::health::Readiness;
use serde_json::Value;
use tokio::sync::Notify;

use crate::apply::{Applier, Batch};
use crate::documents::{mark_source, source};

/// The largest file that is read.
const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// The most files in one directory that are read.
const FILES_MAX: usize = 10_000;
/// How long until a registry that could not be written is tried again.
const RETRY: Duration = Duration::from_secs(2);
/// How often the sources are looked at although no change was seen: notifications miss a directory that
/// comes later and what a link points to, and a mistake may be mended elsewhere.
const LOOK_AGAIN: Duration = Duration::from_secs(30);
/// What a stored document has on top of what was read: its key, its version and times.
const STAMP_BYTES: usize = 1024;
/// The readiness condition that holds once the sources were applied for the first time.
pub(crate) const SOURCES_APPLIED: &str = "sources";

/// What is wrong with the sources now. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct SourceProblems(Arc<Mutex<Vec<Problem>>>);

impl SourceProblems {
    pub(crate) fn now(&self) -> Vec<Problem> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn set(&self, problems: Vec<Problem>) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for problem in problems.iter().filter(|problem| !known.contains(problem)) {
            tracing::warn!(%problem, "a source of declarations has a problem");
        }
        *known = problems;
    }
}

/// The configured sources.
pub(crate) struct Sources {
    pub(crate) paths: Vec<PathBuf>,
    pub(crate) applier: Applier,
    pub(crate) problems: SourceProblems,
    pub(crate) readiness: Readiness,
    pub(crate) namespace: Namespace,
}

/// What was read from the sources.
#[derive(Default, PartialEq)]
struct Found {
    /// Files with their text.
    texts: BTreeMap<String, String>,
    /// Files and directories that cannot be read now. What came from them stays.
    unreadable: BTreeSet<String>,
    problems: Vec<Problem>,
}

/// What was applied.
#[derive(PartialEq)]
struct Applied {
    found: Found,
    /// Files with mistakes, which were left out.
    bad: BTreeSet<String>,
}

impl Sources {
    /// Applies the sources now and whenever they change, until shutdown.
    pub(crate) async fn run(self, shutdown: Shutdown) {
        let changed = Arc::new(Notify::new());
        // Dropping it ends the notifications.
        let _watcher = self.watch(&changed);
        let mut applied = None;
        loop {
            applied = self.sync(applied).await;
            if applied.is_some() {
                self.readiness.set(SOURCES_APPLIED);
            }
            let pause = if applied.is_some() { LOOK_AGAIN } else { RETRY };
            tokio::select! {
                () = shutdown.triggered() => return,
                () = changed.notified() => {}
                () = tokio::time::sleep(pause), if !self.paths.is_empty() => {}
            }
        }
    }

    fn watch(&self, changed: &Arc<Notify>) -> Option<RecommendedWatcher> {
        if self.paths.is_empty() {
            return None;
        }
        let told = changed.clone();
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            if event.is_ok_and(|event| is_complete(event.kind)) {
                told.notify_one();
            }
        });
        let failed = |path: &Path, error: notify::Error| {
            tracing::warn!(path = %path.display(), error = &error as &dyn std::error::Error,
                "cannot watch a source; it is applied once and not again when it changes");
        };
        let mut watcher = match watcher {
            Ok(watcher) => watcher,
            Err(error) => {
                failed(Path::new("*"), error);
                return None;
            }
        };
        for path in &self.paths {
            // A file is watched by its directory: editors replace files.
            let folder = if path.is_dir() {
                path.as_path()
            } else {
                path.parent()
                    .filter(|parent| !parent.as_os_str().is_empty())
                    .unwrap_or(Path::new("."))
            };
            if let Err(error) = watcher.watch(folder, RecursiveMode::NonRecursive) {
                failed(folder, error);
            }
        }
        Some(watcher)
    }

    /// Applies what the sources say now, unless that is what was applied `before`: what somebody changed by
    /// hand since stays. `None` when the registry could not be written.
    async fn sync(&self, before: Option<Applied>) -> Option<Applied> {
        let paths = self.paths.clone();
        let found = tokio::task::spawn_blocking(move || find(&paths))
            .await
            .ok()?;
        let (documents, bad, mut problems) = self.read(&found);
        problems.extend(found.problems.iter().cloned());
        self.problems.set(problems);
        let kept: BTreeSet<&str> = bad
            .iter()
            .chain(&found.unreadable)
            .map(String::as_str)
            .collect();
        let deletions = self.no_longer_declared(&documents, &kept);
        let applied = Applied { found, bad };
        if before.is_some_and(|before| before == applied) {
            return Some(applied);
        }
        let mut declarations = 0;
        for batch in batches(documents, deletions, self.applier.store.limits()) {
            match self.applier.commit(&batch, false).await {
                Ok(changes) => declarations += changes.len(),
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::error!(error, "cannot apply the sources; trying again");
                    return None;
                }
            }
        }
        tracing::info!(declarations, "applied the sources");
        Some(applied)
    }

    /// Reads the files together, leaving those with mistakes out.
    fn read(&self, found: &Found) -> (Vec<(Declared, Value)>, BTreeSet<String>, Vec<Problem>) {
        let mut bad = BTreeSet::new();
        let mut problems = Vec::new();
        loop {
            let texts: Vec<(String, String)> = found
                .texts
                .iter()
                .filter(|(file, _)| !bad.contains(*file))
                .map(|(file, text)| (file.clone(), text.clone()))
                .collect();
            let read = self.applier.read(&texts, &self.namespace);
            if !read.has_errors() {
                problems.extend(read.problems);
                let documents = read.documents.into_iter();
                let marked = documents.map(|(file, declared, mut document)| {
                    mark_source(&mut document, &file);
                    (declared, document)
                });
                return (marked.collect(), bad, problems);
            }
            let errors = read.problems.iter();
            let blamed: BTreeSet<String> = errors
                .filter(|problem| problem.severity == Severity::Error)
                .filter_map(|problem| Some(problem.position.as_ref()?.file.clone()))
                .collect();
            problems.extend(read.problems);
            if blamed.is_subset(&bad) {
                bad.extend(found.texts.keys().cloned());
                return (Vec::new(), bad, problems);
            }
            bad.extend(blamed);
        }
    }

    /// What the registry holds from these sources and they declare no more.
    fn no_longer_declared(
        &self,
        documents: &[(Declared, Value)],
        kept: &BTreeSet<&str>,
    ) -> Vec<ResourceKey> {
        let declared: BTreeSet<&ResourceKey> = documents
            .iter()
            .map(|(declared, _)| &declared.key)
            .collect();
        let view = self.applier.views.borrow().clone();
        let stored = view.documents.iter();
        stored
            .filter(|(key, stored)| {
                !declared.contains(key)
                    && source(&stored.document).is_some_and(|file| {
                        self.covers(file)
                            && !kept.contains(file)
                            && !kept
                                .iter()
                                .any(|kept| Path::new(file).parent() == Some(Path::new(kept)))
                    })
            })
            .map(|(key, _)| key.clone())
            .collect()
    }

    /// Whether a file belongs to a configured source, even if it is gone by now.
    fn covers(&self, file: &str) -> bool {
        let file = Path::new(file);
        self.paths
            .iter()
            .any(|path| path == file || file.parent() == Some(path))
    }
}

/// Cuts what is to be done into batches that the registry takes.
fn batches(
    documents: Vec<(Declared, Value)>,
    deletions: Vec<ResourceKey>,
    limits: Limits,
) -> Vec<Batch> {
    let mut batches = Vec::new();
    let mut batch = Batch::default();
    let mut bytes = 0;
    for (declared, document) in documents {
        let size = document.to_string().len() + STAMP_BYTES;
        let full = batch.documents.len() >= limits.batch_writes_max
            || bytes + size > limits.batch_bytes_max;
        if full && !batch.documents.is_empty() {
            batches.push(std::mem::take(&mut batch));
            bytes = 0;
        }
        bytes += size;
        batch.documents.push((declared, document));
    }
    if !batch.documents.is_empty() {
        batches.push(batch);
    }
    for deletions in deletions.chunks(limits.batch_writes_max) {
        batches.push(Batch {
            documents: Vec::new(),
            deletions: deletions.to_vec(),
        });
    }
    batches
}

/// Whether a file is whole after such an event. Half-written files are not read.
fn is_complete(kind: EventKind) -> bool {
    match kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write))
        | EventKind::Modify(ModifyKind::Name(_))
        | EventKind::Remove(_) => true,
        // A new link or folder is whole at once; a new file is closed later.
        EventKind::Create(kind) => kind != CreateKind::File,
        EventKind::Access(_) | EventKind::Modify(_) | EventKind::Any | EventKind::Other => false,
    }
}

fn find(paths: &[PathBuf]) -> Found {
    let mut found = Found::default();
    for path in paths {
        let name = path.display().to_string();
        match files_of(path) {
            Ok(files) => {
                for file in files {
                    let name = file.display().to_string();
                    match text_of(&file) {
                        Ok(text) => {
                            found.texts.insert(name, text);
                        }
                        Err(error) => found.unreadable(name, &error),
                    }
                }
            }
            Err(error) => found.unreadable(name, &error),
        }
    }
    found
}

impl Found {
    fn unreadable(&mut self, file: String, error: &io::Error) {
        self.problems.push(Problem {
            severity: Severity::Error,
            resource: None,
            position: None,
            path: String::new(),
            message: format!("the source {file} cannot be read: {error}"),
            remedy: "correct `sources` in the configuration or the file's permissions; what it declared before stays"
                .to_owned(),
        });
        self.unreadable.insert(file);
    }
}

fn files_of(path: &Path) -> io::Result<Vec<PathBuf>> {
    if !fs::metadata(path)?.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(path)? {
        let file = entry?.path();
        let extension = file.extension().and_then(|extension| extension.to_str());
        if matches!(extension, Some("yaml" | "yml" | "json")) && file.is_file() {
            files.push(file);
        }
        if files.len() > FILES_MAX {
            return Err(io::Error::other(format!(
                "it holds more than {FILES_MAX} files"
            )));
        }
    }
    files.sort();
    Ok(files)
}

fn text_of(file: &Path) -> io::Result<String> {
    let mut text = String::new();
    let read = fs::File::open(file)?
        .take(FILE_BYTES_MAX + 1)
        .read_to_string(&mut text)?;
    if read as u64 > FILE_BYTES_MAX {
        return Err(io::Error::other(format!(
            "it is larger than {FILE_BYTES_MAX} bytes"
        )));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use portolan_compiler::parse_document;
    use serde_json::json;

    #[test]
    fn batches_hold_what_the_registry_takes_and_nothing_is_left_out() {
        let peer = |name: String| {
            let document = json!({
                "apiVersion": "portolan.dev/v1alpha1", "kind": "Peer", "metadata": {"name": name},
                "spec": {"trustDomain": "west.mesh", "region": "us"},
            });
            (parse_document(&document).unwrap(), document)
        };
        let limits = |writes, bytes| Limits {
            batch_writes_max: writes,
            batch_bytes_max: bytes,
        };
        let documents: Vec<_> = (0..5).map(|n| peer(format!("p{n}"))).collect();
        let gone: Vec<_> = documents.iter().map(|(one, _)| one.key.clone()).collect();
        let sizes = |limits| -> Vec<(usize, usize)> {
            let batches = batches(documents.clone(), gone.clone(), limits);
            let size = |batch: &Batch| (batch.documents.len(), batch.deletions.len());
            batches.iter().map(size).collect()
        };
        let by_count = [(2, 0), (2, 0), (1, 0), (0, 2), (0, 2), (0, 1)];
        assert_eq!(sizes(limits(2, 1_000_000)), by_count);
        assert_eq!(sizes(limits(9, 3_000)), [(2, 0), (2, 0), (1, 0), (0, 5)]);
        assert_eq!(sizes(limits(9, 1)).len(), 6, "each alone, if need be");
    }
}
