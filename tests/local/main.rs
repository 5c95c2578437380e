//! Acceptance tests with real processes on loopback addresses: each starts a demo of its own, uses it as
//! a person would, and breaks it.

mod call;
mod demo;
mod load;
mod tools;

mod explaining;
mod failover;
mod grpc;
mod guide;
mod identity;
mod independence;
mod input;
mod naming;
mod secrecy;
mod strangers;
mod surface;
