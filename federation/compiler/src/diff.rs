//! What differs between two versions of a document, for people.

use serde_json::Value;

/// The differences that applying `new` over `old` would make, as lines that begin with `+`, `-` or
/// `~` and a path. Status and what servers write is left out. `old` is `None` for a new resource.
#[must_use]
pub fn diff(_old: Option<&Value>, _new: &Value) -> Vec<String> {
    Vec::new()
}
