//! Refusals of this hop, as HTTP and gRPC say them.

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Response};
use portolan_model::refusal::ERROR_HEADER;
use portolan_model::{Hop, Refusal};

use crate::http::Fault;
use crate::respond::{grpc_status, status};

/// Why a request is refused, and what is wrong with it, if it is the request's own fault.
#[derive(Debug)]
pub(super) struct Refused {
    pub(super) refusal: Refusal,
    fault: Option<Fault>,
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        let fault = None;
        Self { refusal, fault }
    }
}

impl From<Fault> for Refused {
    fn from(fault: Fault) -> Self {
        Self {
            refusal: fault.refusal(Hop::Inbound),
            fault: Some(fault),
        }
    }
}

/// The response for a refusal. Its sentence stays here: callers may be of another cluster, and
/// learn the reason alone.
pub(super) fn response(refused: &Refused, grpc: bool) -> Response<Bytes> {
    let Refused { refusal, fault } = refused;
    let value = refusal.header_value();
    let header = HeaderValue::try_from(&value).unwrap_or(HeaderValue::from_static(""));
    let mut response = if grpc {
        let mut response = Response::new(Bytes::new());
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert("grpc-status", grpc_status(refusal.reason).into());
        headers.insert("grpc-message", header.clone());
        response
    } else {
        let mut response = Response::new(Bytes::from(format!("{value}\n")));
        *response.status_mut() = fault.map_or_else(|| status(refusal.reason), Fault::status);
        let kind = HeaderValue::from_static("text/plain; charset=utf-8");
        response.headers_mut().insert(CONTENT_TYPE, kind);
        response
    };
    response.headers_mut().insert(ERROR_HEADER, header);
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use portolan_model::Reason;

    #[test]
    fn the_reason_is_told_and_the_sentence_is_not() {
        let refusal = Refusal::new(
            Reason::ConnectFailed,
            Hop::Inbound,
            "10.0.0.7:8080 is closed",
        )
        .into();
        let plain = response(&refusal, false);
        assert_eq!(plain.status(), 503);
        assert_eq!(plain.headers()[ERROR_HEADER], "connect_failed; hop=inbound");
        assert_eq!(plain.body(), "connect_failed; hop=inbound\n");
        let grpc = response(&refusal, true);
        assert_eq!(grpc.status(), 200);
        assert_eq!(grpc.headers()["grpc-status"], "14");
        assert!(grpc.body().is_empty());
        let large = response(&Fault::BodyTooLarge.into(), false);
        assert_eq!(large.status(), 413);
        assert_eq!(large.headers()[ERROR_HEADER], "bad_request; hop=inbound");
    }
}
