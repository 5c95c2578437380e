//! The emulator measured from outside: real packets between two namespaces, as root.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking, and says what it measured or skipped"
)]

mod pair;

mod delay;
mod loss;
mod rate;
