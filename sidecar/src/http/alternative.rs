//! What a caller's sidecar tells the other one: whether somebody else could serve a request.

use http::{HeaderMap, HeaderName, HeaderValue};
use portolan_policy::stall::Alternative;

const ALTERNATIVE: HeaderName = HeaderName::from_static("x-portolan-alternative");
const ANY: &str = "any";
const UNSENT: &str = "unsent";

/// Says whether somebody else could serve the request.
pub(crate) fn tell_alternative(headers: &mut HeaderMap, alternative: Alternative) {
    let value = match alternative {
        Alternative::None => {
            headers.remove(ALTERNATIVE);
            return;
        }
        Alternative::Unsent => UNSENT,
        Alternative::Any => ANY,
    };
    headers.insert(ALTERNATIVE, HeaderValue::from_static(value));
}

/// Whether somebody else could serve the request. Nobody behind this sees it.
pub(crate) fn take_alternative(headers: &mut HeaderMap) -> Alternative {
    match headers.remove(ALTERNATIVE) {
        Some(value) if value == ANY => Alternative::Any,
        Some(value) if value == UNSENT => Alternative::Unsent,
        Some(_) | None => Alternative::None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_is_taken() {
        let mut headers = HeaderMap::new();
        for alternative in [Alternative::Any, Alternative::Unsent, Alternative::None] {
            tell_alternative(&mut headers, alternative);
            assert_eq!(take_alternative(&mut headers), alternative);
            assert!(headers.is_empty());
        }
        headers.insert(ALTERNATIVE, HeaderValue::from_static("nonsense"));
        assert_eq!(take_alternative(&mut headers), Alternative::None);
    }
}
