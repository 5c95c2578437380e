//! Text → declarations and every problem at once.

use std::collections::BTreeMap;

use portolan_model::declared::{Declared, ResourceKey, ResourceKind};
use portolan_model::{Namespace, Position, Problem};
use serde_json::Value;

/// What [`read()`] found: all that could be understood, and all that is wrong.
#[derive(Debug, Clone, Default)]
pub struct ReadResult {
    /// The good declarations, each with its document as it is stored: defaults filled in,
    /// what servers write taken out.
    pub declared: Vec<(Declared, Value)>,
    /// Everything that is wrong, in the order of the text.
    pub problems: Vec<Problem>,
    places: BTreeMap<ResourceKey, BTreeMap<String, Position>>,
}

impl ReadResult {
    /// Whether something is wrong enough that nothing may be stored.
    #[must_use]
    pub fn has_errors(&self) -> bool {
        self.problems
            .iter()
            .any(|problem| problem.severity == portolan_model::Severity::Error)
    }

    /// Gives a problem that was found later (by [`crate::check()`]) its position in the text.
    #[must_use]
    pub fn locate(&self, problem: Problem) -> Problem {
        problem
    }
}

/// Reads declarations from YAML (or JSON) text of one or more documents. `file` names the text in
/// positions; `default_namespace` is for namespaced documents that name none.
#[must_use]
pub fn read(_file: &str, _text: &str, _default_namespace: &Namespace) -> ReadResult {
    ReadResult::default()
}

/// Reads one stored document.
///
/// # Errors
/// Everything that is wrong with it.
pub fn parse_document(_value: &Value) -> Result<Declared, Vec<Problem>> {
    Err(Vec::new())
}

/// The JSON schema of a kind.
#[must_use]
pub fn schema(_kind: ResourceKind) -> Value {
    Value::Null
}
