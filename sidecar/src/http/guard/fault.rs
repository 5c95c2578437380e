//! What is wrong with a request, and how the proxy is told: the bytes of a head that is refused are
//! replaced by a small request that says so, which is answered in its turn like any other.

use http::{Request, StatusCode};
use portolan_model::{Hop, Reason, Refusal};

use super::Bounds;

/// The method of the request that stands for a refused one. A client that sends it itself is refused,
/// as it asked for.
const REFUSED: &str = "PORTOLAN-REFUSED";

macro_rules! faults {
    ($($(#[$doc:meta])* $variant:ident = $status:ident, $text:literal;)*) => {
        /// What is wrong with a request.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
        pub(crate) enum Fault { $($(#[$doc])* #[error($text)] $variant,)* }

        impl Fault {
            const ALL: &[Self] = &[$(Self::$variant),*];

            /// The answer's status.
            pub(crate) fn status(self) -> StatusCode {
                match self { $(Self::$variant => StatusCode::$status,)* }
            }
        }
    };
}

faults! {
    /// The request line is none.
    RequestLine = BAD_REQUEST, "the request line is malformed";
    /// Another version of HTTP.
    Version = HTTP_VERSION_NOT_SUPPORTED, "only HTTP/1.0, HTTP/1.1 and HTTP/2 are spoken";
    /// A line of the head is no header.
    HeaderLine = BAD_REQUEST, "a header is malformed";
    /// RFC 9112 §5.1.
    SpaceBeforeColon = BAD_REQUEST, "there is a space between a header's name and its colon";
    /// RFC 9112 §5.2.
    Folded = BAD_REQUEST, "a header is folded over several lines";
    /// RFC 9112 §2.2.
    BareLineFeed = BAD_REQUEST, "a line ends without a carriage return";
    /// RFC 9110 §5.5.
    ControlCharacter = BAD_REQUEST, "a header holds a control character";
    /// RFC 9112 §6.1: the usual way to smuggle a request.
    BothFramings = BAD_REQUEST, "the request has both `Transfer-Encoding` and `Content-Length`";
    /// RFC 9112 §6.3.
    ContentLength = BAD_REQUEST, "`Content-Length` is not one decimal number";
    /// RFC 9112 §6.3: nobody knows where such a request ends.
    NotChunkedLast = BAD_REQUEST, "`chunked` is not the last `Transfer-Encoding`, or not the only time";
    /// RFC 9112 §6.1.
    TransferEncoding = NOT_IMPLEMENTED, "the only `Transfer-Encoding` that is understood is `chunked`";
    /// RFC 9112 §6.1.
    OldTransferEncoding = BAD_REQUEST, "HTTP/1.0 has no `Transfer-Encoding`";
    /// RFC 9110 §9.3.6.
    ConnectBody = BAD_REQUEST, "CONNECT has no body";
    /// RFC 9112 §3.
    LineTooLong = URI_TOO_LONG, "the request line is too long";
    /// Bytes of the head, or headers.
    HeadTooLarge = REQUEST_HEADER_FIELDS_TOO_LARGE, "the request's head is too large";
    /// It came too slowly.
    HeadTooSlow = REQUEST_TIMEOUT, "the request's head took too long to arrive";
    /// More than is allowed.
    BodyTooLarge = PAYLOAD_TOO_LARGE, "the request's body is too large";
    /// It stopped coming.
    BodyTooSlow = REQUEST_TIMEOUT, "the request's body stopped arriving";
}

impl Fault {
    /// The fault of a request, if it stands for a refused one or exceeds the bounds.
    pub(crate) fn of<B>(request: &Request<B>, bounds: &Bounds) -> Option<Self> {
        if Self::replaced(request) {
            let number = request.uri().path().strip_prefix('/')?.parse();
            let known = number.ok().and_then(|at: usize| Self::ALL.get(at));
            return Some(known.copied().unwrap_or(Self::RequestLine));
        }
        let target = request.uri().path_and_query();
        if target.is_some_and(|it| it.as_str().len() > bounds.line_bytes_max) {
            return Some(Self::LineTooLong);
        }
        (request.headers().len() > bounds.headers_max).then_some(Self::HeadTooLarge)
    }

    /// Whether a request stands for a refused one.
    pub(crate) fn replaced<B>(request: &Request<B>) -> bool {
        request.method().as_str() == REFUSED
    }

    /// The request that stands for the refused one.
    pub(super) fn stand_in(self) -> Vec<u8> {
        let number = Self::ALL.iter().position(|fault| *fault == self);
        let number = number.unwrap_or_default();
        format!("{REFUSED} /{number} HTTP/1.1\r\nconnection: close\r\n\r\n").into_bytes()
    }

    /// The refusal that it is.
    pub(crate) fn refusal(self, hop: Hop) -> Refusal {
        Refusal::new(Reason::BadRequest, hop, self.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_is_told_and_answered() {
        for fault in Fault::ALL {
            let text = String::from_utf8(fault.stand_in()).unwrap();
            let mut words = text.split(' ');
            let request = Request::builder()
                .method(words.next().unwrap())
                .uri(words.next().unwrap())
                .body(())
                .unwrap();
            assert_eq!(Fault::of(&request, &Bounds::default()), Some(*fault));
            assert!(fault.status().is_client_error() || fault.status().is_server_error());
        }
        let forged = Request::builder().method(REFUSED).uri("/99");
        let fault = Fault::of(&forged.body(()).unwrap(), &Bounds::default());
        assert_eq!(fault, Some(Fault::RequestLine));
    }
}
