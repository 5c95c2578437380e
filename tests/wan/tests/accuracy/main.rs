//! The emulator measured from outside: real packets between two namespaces, as root.

#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking, its helpers too"
)]

mod pair;
#[path = "../../../skipped.rs"]
mod skipped;

mod delay;
mod loss;
mod rate;
