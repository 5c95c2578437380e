//! What this proxy reads and changes of HTTP.

mod activity;
mod alternative;
mod body;
mod cork;
mod deadline;
#[cfg(test)]
mod fixtures;
mod guard;
mod hash_key;
mod headers;
mod http2;
mod incoming;
mod patience;
mod replay;
mod serve;
mod settings;
mod stalls;

pub(crate) use activity::{Activity, Busy};
pub(crate) use alternative::{take_alternative, tell_alternative};
pub(crate) use body::{Limits, ReplyBody, Watch};
pub(crate) use cork::cork;
pub(crate) use deadline::{caller_deadline, forward_deadline};
#[cfg(test)]
pub(crate) use fixtures::{LocalExecutor, pass};
pub(crate) use guard::{Fault, guard, may_switch};
pub(crate) use hash_key::{connection_key, hash_key};
pub(crate) use headers::{
    HOPS_MAX, authority, clean_trailers, framing_is_clear, hops, is_grpc, normalise_path,
    origin_form, prepare_reply, prepare_request, remove_expectation, strip_hop_by_hop, upgrade,
    wants_trailers,
};
pub(crate) use http2::{
    CLIENT_STREAMS, Reach, Requests, SendError, answer as http2_answer,
    handshake as http2_handshake,
};
pub(crate) use incoming::{IncomingBody, IncomingError};
pub(crate) use patience::Patience;
pub(crate) use replay::{OutBody, Replay};
pub(crate) use serve::{DRAIN_MAX, http1_server, serve};
pub use settings::HttpConfig;
pub(crate) use settings::HttpRules;
pub(crate) use stalls::{Cut, Flowing, Stalls};
