//! The commands, one file each.

pub(crate) mod admin;
pub(crate) mod apply;
pub(crate) mod ca;
pub(crate) mod capture;
pub(crate) mod delete;
pub(crate) mod describe;
pub(crate) mod explain;
pub(crate) mod get;
pub(crate) mod peer;
pub(crate) mod schema;
pub(crate) mod status;
pub(crate) mod token;
