//! Changes of declarations on their way into the registry: planned against what is stored,
//! committed at once or not at all.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use portolan_compiler::{check, read};
use portolan_model::declared::{Declared, ResourceKey};
use portolan_model::{ClusterIdentity, Namespace, Problem, Severity};
use portolan_registry::{Entry, Precondition, Revision, Store, StoreError, Write};
use serde_json::Value;

use crate::documents::{stamp, unchanged};
use crate::metrics::ControlMetrics;
use crate::view::Views;

/// How often a change is planned again because somebody else changed the same declaration.
const ATTEMPTS_MAX: usize = 5;
/// How long a change waits to be compiled in before it is reported as stored.
const COMPILED_PATIENCE: Duration = Duration::from_secs(2);

/// What to do with declarations.
#[derive(Debug, Clone, Default)]
pub(crate) struct Batch {
    /// To be stored.
    pub(crate) documents: Vec<(Declared, Value)>,
    /// To be removed, where they exist.
    pub(crate) deletions: Vec<ResourceKey>,
}

/// What a batch does, or would do, to one declaration.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Planned {
    pub(crate) key: ResourceKey,
    pub(crate) before: Option<Value>,
    pub(crate) after: Option<Value>,
    pub(crate) action: Action,
}

/// What happens to a declaration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    Unchanged,
    Created,
    Configured,
    Deleted,
}

/// What reading and checking found.
#[derive(Debug, Default)]
pub(crate) struct Read {
    /// Each with the file it stands in.
    pub(crate) documents: Vec<(String, Declared, Value)>,
    pub(crate) problems: Vec<Problem>,
}

impl Read {
    /// Whether nothing of it may be stored.
    pub(crate) fn has_errors(&self) -> bool {
        self.problems
            .iter()
            .any(|problem| problem.severity == Severity::Error)
    }
}

/// Applies changes of declarations to the registry. Clones share everything.
#[derive(Clone)]
pub(crate) struct Applier {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) views: Views,
    pub(crate) cluster: Arc<ClusterIdentity>,
    pub(crate) metrics: ControlMetrics,
}

impl Applier {
    /// Reads texts, each with the name that problems should give it, and judges all of them together against
    /// what is stored. Every mistake is found at once.
    pub(crate) fn read(&self, texts: &[(String, String)], namespace: &Namespace) -> Read {
        let mut results = Vec::new();
        let mut batch = Vec::new();
        let mut found = Read::default();
        for (file, text) in texts {
            let result = read(file, text, namespace);
            batch.extend(result.declared.iter().map(|(declared, _)| declared.clone()));
            found.problems.extend(result.problems.iter().cloned());
            results.push(result);
        }
        let mut judged = duplicates(&batch);
        judged.extend(check(&self.cluster, &batch, &self.stored()));
        for problem in judged {
            let located = results
                .iter()
                .map(|result| result.locate(problem.clone()))
                .find(|problem| problem.position.is_some());
            found.problems.push(located.unwrap_or(problem));
        }
        for ((file, _), result) in texts.iter().zip(results) {
            let documents = result.declared.into_iter();
            let named = documents.map(|(declared, document)| (file.clone(), declared, document));
            found.documents.extend(named);
        }
        found
    }

    /// Commits a batch; with `dry_run`, only says what it would do.
    pub(crate) async fn commit(
        &self,
        batch: &Batch,
        dry_run: bool,
    ) -> Result<Vec<Planned>, StoreError> {
        let mut attempts = 0;
        loop {
            let (planned, writes) = self.plan(batch).await?;
            if dry_run || writes.is_empty() {
                return Ok(planned);
            }
            attempts += 1;
            match self.store.commit(writes).await {
                Ok(revision) => {
                    self.compiled(&planned, revision).await;
                    return Ok(planned);
                }
                Err(StoreError::Conflict { .. }) if attempts < ATTEMPTS_MAX => {}
                Err(error) => {
                    self.metrics.registry_failed("commit");
                    return Err(error);
                }
            }
        }
    }

    /// Everything that is declared and can be read.
    fn stored(&self) -> BTreeMap<ResourceKey, Declared> {
        let view = self.views.borrow().clone();
        let declared = view.documents.iter();
        declared
            .filter_map(|(key, stored)| Some((key.clone(), stored.declared.clone()?)))
            .collect()
    }

    async fn plan(&self, batch: &Batch) -> Result<(Vec<Planned>, Vec<Write>), StoreError> {
        let now = Timestamp::now();
        let mut planned = Vec::new();
        let mut writes = Vec::new();
        for (declared, document) in &batch.documents {
            let path = declared.key.path();
            let entry = self.store.get(&path).await?;
            let precondition = precondition(entry.as_ref());
            let before = entry.as_ref().map(value_of);
            let mut after = document.clone();
            stamp(&mut after, before.as_ref(), now);
            let action = match &before {
                None => Action::Created,
                Some(before) if unchanged(before, document) => Action::Unchanged,
                Some(_) => Action::Configured,
            };
            if action != Action::Unchanged {
                writes.push(Write::put(
                    path,
                    after.to_string().into_bytes(),
                    precondition,
                ));
            }
            planned.push(Planned {
                key: declared.key.clone(),
                before,
                after: Some(after),
                action,
            });
        }
        for key in &batch.deletions {
            let path = key.path();
            let Some(entry) = self.store.get(&path).await? else {
                continue;
            };
            writes.push(Write::delete(path, Precondition::Version(entry.version)));
            planned.push(Planned {
                key: key.clone(),
                before: Some(value_of(&entry)),
                after: None,
                action: Action::Deleted,
            });
        }
        Ok((planned, writes))
    }

    /// Waits until the changes are compiled in, so that whoever asks next sees them.
    async fn compiled(&self, planned: &[Planned], revision: Revision) {
        let mut views = self.views.clone();
        let seen = views.wait_for(|view| {
            planned.iter().all(|change| {
                let version = view.documents.get(&change.key).map(|stored| stored.version);
                match change.action {
                    Action::Unchanged => true,
                    Action::Created | Action::Configured => version >= Some(revision),
                    Action::Deleted => version.is_none_or(|version| version >= revision),
                }
            })
        });
        if !matches!(
            tokio::time::timeout(COMPILED_PATIENCE, seen).await,
            Ok(Ok(_))
        ) {
            tracing::warn!("a change is stored, but the registry has not reported it back yet");
        }
    }
}

fn precondition(entry: Option<&Entry>) -> Precondition {
    entry.map_or(Precondition::DoesNotExist, |entry| {
        Precondition::Version(entry.version)
    })
}

/// A stored document; what cannot be read counts as empty.
fn value_of(entry: &Entry) -> Value {
    serde_json::from_slice(&entry.value).unwrap_or_default()
}

/// One declaration may stand in a batch only once.
fn duplicates(batch: &[Declared]) -> Vec<Problem> {
    let mut count: BTreeMap<&ResourceKey, usize> = BTreeMap::new();
    for declared in batch {
        *count.entry(&declared.key).or_default() += 1;
    }
    count
        .into_iter()
        .filter(|(_, count)| *count > 1)
        .map(|(key, count)| Problem {
            severity: Severity::Error,
            resource: Some(key.to_string()),
            position: None,
            path: String::new(),
            message: format!("it is declared {count} times"),
            remedy: "keep one of them".to_owned(),
        })
        .collect()
}
