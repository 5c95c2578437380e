//! Acceptance tests with real processes on loopback addresses: each starts a demo of its own, uses it as
//! a person would, and breaks it.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test fails by panicking, and says what it measured or skipped"
)]

#[path = "../skipped.rs"]
mod skipped;

mod call;
mod control;
mod demo;
mod load;
mod tools;

mod conformance;
mod crowd;
mod disk;
mod etcd;
mod explaining;
mod failover;
mod grpc;
mod guide;
mod http;
mod identity;
mod independence;
mod input;
mod limits;
mod metrics;
mod naming;
mod overload;
mod routes;
mod secrecy;
mod strangers;
mod surface;
mod traffic;
