//! The Gateway API's route kinds.

use portolan_model::declared::ResourceKind;
use serde_json::{Value, json};

use super::specified;

pub(super) fn http() -> Value {
    specified(
        ResourceKind::HttpRoute,
        json!({ "type": "object", "properties": {} }),
    )
}

pub(super) fn grpc() -> Value {
    specified(
        ResourceKind::GrpcRoute,
        json!({ "type": "object", "properties": {} }),
    )
}

pub(super) fn tls() -> Value {
    specified(
        ResourceKind::TlsRoute,
        json!({ "type": "object", "properties": {} }),
    )
}

pub(super) fn tcp() -> Value {
    specified(
        ResourceKind::TcpRoute,
        json!({ "type": "object", "properties": {} }),
    )
}
