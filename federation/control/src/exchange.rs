//! Catalogues: what this cluster tells its peers, and what they tell it.

pub(crate) mod cache;
pub(crate) mod client;
pub(crate) mod dial;
pub(crate) mod held;
pub(crate) mod progress;
pub(crate) mod server;
