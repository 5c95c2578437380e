//! What outbound reads and changes of HTTP.

mod alternative;
mod body;
mod cork;
mod deadline;
mod headers;
mod replay;
mod serve;

pub(crate) use alternative::{take_alternative, tell_alternative};
pub(crate) use body::{Limits, ReplyBody, Watch};
pub(crate) use cork::cork;
pub(crate) use deadline::{caller_deadline, forward_deadline};
pub(crate) use headers::{
    HOPS_MAX, authority, hops, is_grpc, origin_form, prepare_reply, prepare_request,
    strip_hop_by_hop, upgrade,
};
pub(crate) use replay::{OutBody, Replay};
pub(crate) use serve::{DRAIN_MAX, LocalExecutor, serve};
