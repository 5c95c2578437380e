//! Tests in network namespaces of their own, as root: what only the kernel can show.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test fails by panicking, and says what it measured or skipped"
)]

#[path = "../local/tools.rs"]
mod tools;

mod capture;
mod namespace;
