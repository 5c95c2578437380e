//! Declarations in, snapshot out.
//!
//! Two halves, both without I/O, clocks or randomness:
//!
//! - [`read()`] turns text into [`portolan_model::declared::Declared`] values and every problem it
//!   has, each with its position; [`check()`] judges declarations against what is already stored.
//! - [`Compiler`] holds all declarations and facts (who is alive, what peers offer) and turns each
//!   batch of changes into the smallest [`Output`] that brings the world up to date.
//!
//! [`audit()`] judges a finished snapshot without using any of the code that made it, and
//! [`diff()`] tells people what would change.

pub mod audit;
pub mod check;
pub mod compile;
pub mod diff;
mod near;
pub mod read;

pub use audit::audit;
pub use check::check;
pub use compile::{
    CatalogueDelta, Change, Compiler, Delta, ExportChange, Output, RefusedEntry, VipPools,
};
pub use diff::diff;
pub use read::{ReadResult, parse_document, read, schema};
