//! The decisions of Portolan, as pure functions over a snapshot.
//!
//! Nothing here can wait, open, read a clock or roll dice: moments are a [`std::time::Duration`]
//! since an arbitrary start that the caller keeps to, random numbers are arguments. A request
//! passes through the modules in this order:
//!
//! - [`path`] brings its path to one form;
//! - [`route`] finds the service that a name or virtual IP means;
//! - [`matching`] finds the rule of a declared route, [`rules`] its backend and limits, [`filters`]
//!   what changes on the way, [`session`] who had the client's earlier requests;
//! - [`traffic`] tells which policy counts;
//! - [`failover`] shares the calls out among clusters, and [`split`] draws one;
//! - [`balance`] picks an endpoint;
//! - [`breaker`] bounds what is under way;
//! - [`outlier`] learns from the answers, [`blame`] says of whom when a way to another cluster is
//!   silent, and [`awake`] for how long it really was;
//! - [`retry`] says whether another try is right;
//! - on the other side [`authorize`] judges the caller, [`admission`] how much the app can take,
//!   and [`stall`] an app that does nothing.
//!
//! [`explain`] calls the same functions and tells what they found.

pub mod admission;
pub mod authorize;
pub mod awake;
pub mod balance;
pub mod blame;
pub mod breaker;
#[cfg(test)]
mod example;
pub mod explain;
pub mod failover;
pub mod fault;
pub mod filters;
pub mod health;
pub mod limit;
pub mod matching;
pub mod outlier;
pub mod path;
pub mod retry;
pub mod route;
pub mod rules;
pub mod session;
pub mod split;
pub mod stall;
pub mod traffic;
