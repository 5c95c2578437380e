//! The name of a TLS connection that crosses proxies, for their logs.
//!
//! Gateways read nothing of a connection but its ClientHello, and that is the same bytes at every hop, up to
//! the sidecar that ends the TLS. So its random bytes (RFC 8446 §4.1.2) name the connection everywhere, and
//! nobody has to hand a name on. Between gateways it travels in the form of W3C `traceparent`.

use std::fmt::{self, Display};

use super::client_hello;

const TRACE_ID: usize = 16;
const PARENT_ID: usize = 8;

/// A connection's name: W3C trace context of version 00, never sampled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceParent {
    trace_id: [u8; TRACE_ID],
    parent_id: [u8; PARENT_ID],
}

/// The part of it that logs show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceId([u8; TRACE_ID]);

impl TraceParent {
    /// The name of a connection that sent these bytes first. Random bytes that are none make no name.
    #[must_use]
    pub fn of_hello(bytes: &[u8]) -> Option<Self> {
        let random = client_hello::random(bytes)?;
        let (trace_id, rest) = random.split_first_chunk()?;
        Self::valid(*trace_id, *rest.first_chunk()?)
    }

    /// Reads a `traceparent` of version 00, and nothing else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let rest = text.strip_prefix("00-")?;
        let (trace_id, rest) = hex(rest)?;
        let (parent_id, rest) = hex(rest.strip_prefix('-')?)?;
        let ([_flags], "") = hex(rest.strip_prefix('-')?)? else {
            return None;
        };
        Self::valid(trace_id, parent_id)
    }

    /// What logs show.
    #[must_use]
    pub fn id(&self) -> TraceId {
        TraceId(self.trace_id)
    }

    fn valid(trace_id: [u8; TRACE_ID], parent_id: [u8; PARENT_ID]) -> Option<Self> {
        let is_some = |bytes: &[u8]| bytes.iter().any(|byte| *byte != 0);
        (is_some(&trace_id) && is_some(&parent_id)).then_some(Self {
            trace_id,
            parent_id,
        })
    }
}

impl Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{}-", self.id())?;
        write_hex(&self.parent_id, f)?;
        f.write_str("-00")
    }
}

impl Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(&self.0, f)
    }
}

fn write_hex(bytes: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

/// Reads bytes from lower-case hexadecimal digits, which W3C asks for, and gives the rest.
fn hex<const N: usize>(text: &str) -> Option<([u8; N], &str)> {
    let (digits, rest) = text.split_at_checked(2 * N)?;
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.as_bytes().chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some((bytes, rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::client_hello;
    use proptest::prelude::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";

    #[test]
    fn every_connection_has_a_name_of_its_own() {
        let hello = client_hello("web.example");
        let name = TraceParent::of_hello(&hello).unwrap();
        let random = &hello[11..43];
        let id: String = random[..16].iter().map(|it| format!("{it:02x}")).collect();
        assert_eq!(name.id().to_string(), id);
        assert_eq!(TraceParent::parse(&name.to_string()), Some(name));
        let other = TraceParent::of_hello(&client_hello("web.example")).unwrap();
        assert_ne!(name, other);
        assert_eq!(TraceParent::of_hello(&hello[..42]), None);
    }

    #[test]
    fn nothing_else_is_a_traceparent() {
        assert_eq!(TraceParent::parse(GOOD).unwrap().to_string(), GOOD);
        for bad in [
            "",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00-x",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-00",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-00",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-00",
            "00-4bf92f3577b34da6a3ce929d0e0e473é-00f067aa0ba902b7-00",
        ] {
            assert_eq!(TraceParent::parse(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics(text in "\\PC{0,80}", bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = TraceParent::parse(&text);
            let _ = TraceParent::of_hello(&bytes);
        }
    }
}
