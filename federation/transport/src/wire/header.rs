//! The first bytes of a tunnel between gateways, and the answer to them.
//!
//! A header is a version (one byte), the length of the body (two bytes, big endian) and the body:
//! target, hops and trace, each text with a one-byte length before it, the hops with their count.
//! A later minor change appends to the body; readers ignore what they do not know.

use portolan_model::{ClusterName, Reason};

use super::sni::SniName;

/// The version that is written, and the only one that is read.
pub const VERSION: u8 = 1;

/// Version and length: read these first, then [`body_len`] more.
pub const PREFIX_LEN: usize = 3;

/// The longest body, in bytes.
pub const BODY_MAX: usize = 1024;

/// The most clusters a tunnel may have come through.
pub const HOPS_MAX: usize = 8;

/// The longest trace context, in bytes.
pub const TRACE_MAX: usize = 200;

/// The length of an [`Answer`], in bytes.
pub const ANSWER_LEN: usize = 2;

const ACCEPTED: u8 = 0;

/// What a tunnel is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamHeader {
    /// Who is meant.
    pub target: SniName,
    /// The clusters it came through, the caller's first. The last is believed only as far as it
    /// agrees with the link's identity.
    pub hops: Vec<ClusterName>,
    /// What the tunnel is called, in the form of W3C `traceparent`. Only [`super::trace::TraceParent`]
    /// tells whether it really is one.
    pub trace: Option<String>,
}

/// What the other gateway says to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// An endpoint is connected; its bytes follow.
    Accepted,
    /// Nothing follows.
    Refused(Reason),
}

/// Why bytes are no header or answer, or a header cannot be written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// The peer speaks another version.
    #[error("the tunnel's header has version {0}, and only {VERSION} is understood")]
    Version(u8),
    /// A bound is exceeded.
    #[error("the tunnel's {what} exceeds its bound of {max}")]
    TooLong {
        /// What.
        what: &'static str,
        /// The bound.
        max: usize,
    },
    /// A part is malformed.
    #[error("the tunnel's header is malformed: {0}")]
    Malformed(&'static str),
}

impl StreamHeader {
    /// The bytes of the header.
    ///
    /// # Errors
    /// When it has too many hops or too long a trace context.
    pub fn encode(&self) -> Result<Vec<u8>, HeaderError> {
        if self.hops.len() > HOPS_MAX {
            return Err(too_long("hops", HOPS_MAX));
        }
        let trace = self.trace.as_deref().unwrap_or_default();
        if trace.len() > TRACE_MAX {
            return Err(too_long("trace context", TRACE_MAX));
        }
        let mut bytes = vec![VERSION, 0, 0];
        put_text(&mut bytes, &self.target.to_string(), "target")?;
        bytes.push(byte(self.hops.len(), "hops")?);
        for hop in &self.hops {
            put_text(&mut bytes, hop.as_str(), "hop")?;
        }
        put_text(&mut bytes, trace, "trace context")?;
        let length = bytes.len() - PREFIX_LEN;
        let length = u16::try_from(length).map_err(|_| too_long("header", BODY_MAX))?;
        bytes[1..PREFIX_LEN].copy_from_slice(&length.to_be_bytes());
        Ok(bytes)
    }

    /// Reads the body that follows the prefix.
    ///
    /// # Errors
    /// Says what is malformed or out of bounds.
    pub fn decode_body(body: &[u8]) -> Result<Self, HeaderError> {
        if body.len() > BODY_MAX {
            return Err(too_long("header", BODY_MAX));
        }
        let mut rest = body;
        let target = SniName::parse(take_text(&mut rest, "target")?)
            .map_err(|_| HeaderError::Malformed("target"))?;
        let count = usize::from(take(&mut rest, 1, "hops")?[0]);
        if count > HOPS_MAX {
            return Err(too_long("hops", HOPS_MAX));
        }
        let hops = (0..count)
            .map(|_| {
                ClusterName::parse(take_text(&mut rest, "hop")?)
                    .map_err(|_| HeaderError::Malformed("hop"))
            })
            .collect::<Result<_, _>>()?;
        let trace = take_text(&mut rest, "trace context")?;
        if trace.len() > TRACE_MAX {
            return Err(too_long("trace context", TRACE_MAX));
        }
        if !trace.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(HeaderError::Malformed("trace context"));
        }
        Ok(Self {
            target,
            hops,
            trace: (!trace.is_empty()).then(|| trace.to_owned()),
        })
    }
}

/// How many bytes of body follow this prefix.
///
/// # Errors
/// When the version is unknown, or the length out of bounds.
pub fn body_len(prefix: [u8; PREFIX_LEN]) -> Result<usize, HeaderError> {
    let [version, high, low] = prefix;
    if version != VERSION {
        return Err(HeaderError::Version(version));
    }
    let length = usize::from(u16::from_be_bytes([high, low]));
    if length > BODY_MAX {
        return Err(too_long("header", BODY_MAX));
    }
    Ok(length)
}

impl Answer {
    /// The bytes of the answer.
    #[must_use]
    pub fn encode(self) -> [u8; ANSWER_LEN] {
        match self {
            Self::Accepted => [VERSION, ACCEPTED],
            Self::Refused(reason) => [VERSION, reason.code()],
        }
    }

    /// Reads an answer. Reasons of a newer peer are [`Reason::Internal`].
    ///
    /// # Errors
    /// When the version is unknown.
    pub fn decode(bytes: [u8; ANSWER_LEN]) -> Result<Self, HeaderError> {
        let [version, code] = bytes;
        if version != VERSION {
            return Err(HeaderError::Version(version));
        }
        Ok(if code == ACCEPTED {
            Self::Accepted
        } else {
            Self::Refused(Reason::from_code(code))
        })
    }
}

fn too_long(what: &'static str, max: usize) -> HeaderError {
    HeaderError::TooLong { what, max }
}

fn byte(number: usize, what: &'static str) -> Result<u8, HeaderError> {
    u8::try_from(number).map_err(|_| too_long(what, usize::from(u8::MAX)))
}

fn put_text(bytes: &mut Vec<u8>, text: &str, what: &'static str) -> Result<(), HeaderError> {
    bytes.push(byte(text.len(), what)?);
    bytes.extend_from_slice(text.as_bytes());
    Ok(())
}

fn take<'a>(
    rest: &mut &'a [u8],
    count: usize,
    what: &'static str,
) -> Result<&'a [u8], HeaderError> {
    let (taken, left) = rest
        .split_at_checked(count)
        .ok_or(HeaderError::Malformed(what))?;
    *rest = left;
    Ok(taken)
}

fn take_text<'a>(rest: &mut &'a [u8], what: &'static str) -> Result<&'a str, HeaderError> {
    let length = usize::from(take(rest, 1, what)?[0]);
    std::str::from_utf8(take(rest, length, what)?).map_err(|_| HeaderError::Malformed(what))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn header(hops: &[&str], trace: Option<&str>) -> StreamHeader {
        StreamHeader {
            target: SniName::parse("p80.web.shop.east.portolan.internal").unwrap(),
            hops: hops
                .iter()
                .map(|hop| ClusterName::parse(hop).unwrap())
                .collect(),
            trace: trace.map(str::to_owned),
        }
    }

    fn decode(bytes: &[u8]) -> Result<StreamHeader, HeaderError> {
        let (prefix, rest) = bytes.split_first_chunk::<PREFIX_LEN>().unwrap();
        assert_eq!(body_len(*prefix)?, rest.len());
        StreamHeader::decode_body(rest)
    }

    #[test]
    fn bounds_hold_on_both_sides() {
        let many = vec!["west"; HOPS_MAX + 1];
        assert!(header(&many, None).encode().is_err());
        assert!(
            header(&[], Some(&"x".repeat(TRACE_MAX + 1)))
                .encode()
                .is_err()
        );
        let longest = "c".repeat(63);
        let full = header(&[longest.as_str(); HOPS_MAX], Some(&"x".repeat(TRACE_MAX)));
        assert_eq!(decode(&full.encode().unwrap()), Ok(full));
        assert!(body_len([VERSION, 0xff, 0xff]).is_err());
        assert_eq!(body_len([9, 0, 1]), Err(HeaderError::Version(9)));
        assert!(StreamHeader::decode_body(&[0; BODY_MAX + 1]).is_err());
    }

    #[test]
    fn what_a_newer_peer_appends_is_ignored() {
        let mut bytes = header(&["west"], None).encode().unwrap();
        bytes.extend_from_slice(b"new");
        bytes[2] += 3;
        assert_eq!(decode(&bytes), Ok(header(&["west"], None)));
    }

    #[test]
    fn answers_round_trip() {
        for answer in Reason::ALL.iter().map(|reason| Answer::Refused(*reason)) {
            assert_eq!(Answer::decode(answer.encode()), Ok(answer));
        }
        let accepted = Answer::Accepted.encode();
        assert_eq!(Answer::decode(accepted), Ok(Answer::Accepted));
        assert!(Answer::decode([VERSION + 1, 0]).is_err());
        let newer = Answer::decode([VERSION, 250]);
        assert_eq!(newer, Ok(Answer::Refused(Reason::Internal)));
    }

    proptest! {
        #[test]
        fn headers_round_trip(
            port in 1u16..,
            cluster in "[a-z]{1,63}",
            hops in proptest::collection::vec("[a-z0-9]{1,63}", 0..=HOPS_MAX),
            trace in proptest::option::of("[!-~]{1,200}"),
        ) {
            let header = StreamHeader {
                target: SniName::parse(&format!("p{port}.web.shop.{cluster}.portolan.internal")).unwrap(),
                hops: hops.iter().map(|hop| ClusterName::parse(hop).unwrap()).collect(),
                trace,
            };
            let bytes = header.encode().unwrap();
            prop_assert!(bytes.len() <= PREFIX_LEN + BODY_MAX);
            prop_assert_eq!(decode(&bytes), Ok(header));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..1200)) {
            let _ = StreamHeader::decode_body(&bytes);
        }

        #[test]
        fn a_cut_header_is_refused(cut in 1usize..60) {
            let bytes = header(&["west", "north"], Some("00-trace-01")).encode().unwrap();
            let body = &bytes[PREFIX_LEN..];
            prop_assert!(StreamHeader::decode_body(&body[..body.len() - cut.min(body.len())]).is_err());
        }
    }
}
