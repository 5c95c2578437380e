//! The one map from refusals to HTTP, gRPC and TCP.

use http::header::CONTENT_TYPE;
use http::{HeaderValue, Response, StatusCode};
use portolan_model::refusal::ERROR_HEADER;
use portolan_model::{Reason, Refusal};
use socket2::SockRef;
use tokio::net::TcpStream;

use crate::http::ReplyBody;

/// The answer for a refusal. Its sentence is told: the app is on our side.
pub(crate) fn reply(refusal: &Refusal, grpc: bool) -> Response<ReplyBody> {
    let words = refusal.header_value();
    // Words of the closed list are valid header values.
    let value = HeaderValue::try_from(&words).unwrap_or(HeaderValue::from_static("internal"));
    let mut response = if grpc {
        let mut response = Response::new(ReplyBody::text(""));
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert("grpc-status", grpc_status(refusal.reason).into());
        headers.insert("grpc-message", value.clone());
        response
    } else {
        let mut response = Response::new(ReplyBody::text(format!("{words}\n{}\n", refusal.detail)));
        *response.status_mut() = status(refusal.reason);
        let kind = HeaderValue::from_static("text/plain; charset=utf-8");
        response.headers_mut().insert(CONTENT_TYPE, kind);
        response
    };
    response.headers_mut().insert(ERROR_HEADER, value);
    response
}

/// The HTTP status for a reason.
pub(crate) fn status(reason: Reason) -> StatusCode {
    match reason {
        Reason::BadRequest => StatusCode::BAD_REQUEST,
        Reason::Denied => StatusCode::FORBIDDEN,
        Reason::RateLimited => StatusCode::TOO_MANY_REQUESTS,
        Reason::NoRoute | Reason::NotExported => StatusCode::NOT_FOUND,
        Reason::Internal | Reason::InvalidBackend => StatusCode::INTERNAL_SERVER_ERROR,
        Reason::Reset | Reason::IdentityMismatch => StatusCode::BAD_GATEWAY,
        Reason::Timeout => StatusCode::GATEWAY_TIMEOUT,
        Reason::Loop => StatusCode::LOOP_DETECTED,
        Reason::NoHealthyUpstream
        | Reason::Overloaded
        | Reason::PeerUnreachable
        | Reason::ConnectFailed
        | Reason::Draining
        | Reason::NotReady => StatusCode::SERVICE_UNAVAILABLE,
    }
}

/// gRPC's number (google.rpc.Code) for a reason.
pub(crate) fn grpc_status(reason: Reason) -> u16 {
    match reason {
        Reason::BadRequest | Reason::Internal | Reason::Loop => 13,
        Reason::Denied => 7,
        Reason::NoRoute | Reason::NotExported => 12,
        Reason::Timeout => 4,
        Reason::Overloaded | Reason::RateLimited => 8,
        Reason::Reset
        | Reason::IdentityMismatch
        | Reason::NoHealthyUpstream
        | Reason::PeerUnreachable
        | Reason::ConnectFailed
        | Reason::Draining
        | Reason::NotReady
        | Reason::InvalidBackend => 14,
    }
}

/// Ends a connection that speaks nothing we could answer in: the client sees a reset, not an end.
pub(crate) fn reset(stream: TcpStream) {
    if let Err(error) = SockRef::from(&stream).set_linger(Some(std::time::Duration::ZERO)) {
        tracing::debug!(%error, "a refused connection is closed instead of reset");
    }
    drop(stream);
}

#[cfg(test)]
mod tests {
    use super::*;
    use portolan_model::Hop;

    #[test]
    fn every_reason_has_an_answer_that_names_it() {
        for reason in Reason::ALL {
            let refusal = Refusal::new(*reason, Hop::Outbound, "why");
            let plain = reply(&refusal, false);
            assert!(plain.status().is_client_error() || plain.status().is_server_error());
            assert_eq!(plain.headers()[ERROR_HEADER], refusal.header_value());
            let grpc = reply(&refusal, true);
            assert_eq!(grpc.status(), 200);
            assert_eq!(grpc.headers()[ERROR_HEADER], refusal.header_value());
            assert_ne!(grpc.headers()["grpc-status"], "0");
        }
    }
}
