//! Finds the server name in a TLS ClientHello (RFC 8446 §4.1.2, RFC 6066 §3), and nothing else.

use std::borrow::Cow;

/// The most bytes within which a ClientHello must end. Post-quantum ones have about 2 KB.
pub const HELLO_MAX: usize = 16 * 1024;

const RECORD_HEADER: usize = 5;
const RECORD_MAX: usize = 16 * 1024;
const HANDSHAKE_HEADER: usize = 4;
const CONTENT_HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const EXTENSION_SERVER_NAME: u16 = 0;
const NAME_TYPE_HOST: u8 = 0;
const RANDOM: usize = 32;
const SESSION_ID_MAX: usize = 32;
const HOST_NAME_MAX: usize = 255;

/// What the bytes so far say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Parsed {
    /// The ClientHello goes on: read more and ask again.
    NeedMore,
    /// The ClientHello is complete. `None`: it names no server.
    Name(Option<String>),
}

/// Why the bytes are no ClientHello that we read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HelloError {
    /// The first byte is not that of a TLS handshake.
    #[error("the connection does not begin with TLS")]
    NotTls,
    /// It is longer than [`HELLO_MAX`].
    #[error("the TLS ClientHello is longer than {HELLO_MAX} bytes")]
    TooLong,
    /// A part contradicts another.
    #[error("the TLS ClientHello is malformed: {0}")]
    Malformed(&'static str),
}

/// Looks for the server name in what a connection sent so far, from its first byte on.
///
/// # Errors
/// When the bytes cannot become a ClientHello that fits in [`HELLO_MAX`], whatever follows.
pub fn server_name(bytes: &[u8]) -> Result<Parsed, HelloError> {
    let within = &bytes[..bytes.len().min(HELLO_MAX)];
    let message = handshake_bytes(within)?;
    let Some((header, body)) = message.split_first_chunk::<HANDSHAKE_HEADER>() else {
        return need_more(bytes);
    };
    let [kind, high, middle, low] = *header;
    if kind != CLIENT_HELLO {
        return Err(HelloError::Malformed("the first message is another one"));
    }
    let length = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
    if length > HELLO_MAX {
        return Err(HelloError::TooLong);
    }
    match body.get(..length) {
        Some(hello) => find_name(hello).map(Parsed::Name),
        None => need_more(bytes),
    }
}

/// The random bytes of the ClientHello that these bytes begin with.
pub(super) fn random(bytes: &[u8]) -> Option<[u8; RANDOM]> {
    let message = handshake_bytes(&bytes[..bytes.len().min(HELLO_MAX)]).ok()?;
    let (header, hello) = message.split_first_chunk::<HANDSHAKE_HEADER>()?;
    let (_version, rest) = hello.split_first_chunk::<2>()?;
    (header[0] == CLIENT_HELLO)
        .then(|| rest.first_chunk().copied())
        .flatten()
}

fn need_more(bytes: &[u8]) -> Result<Parsed, HelloError> {
    if bytes.len() >= HELLO_MAX {
        return Err(HelloError::TooLong);
    }
    Ok(Parsed::NeedMore)
}

/// Joins the payloads of the records; borrowed in the usual case of one record.
fn handshake_bytes(mut bytes: &[u8]) -> Result<Cow<'_, [u8]>, HelloError> {
    let mut joined: Cow<'_, [u8]> = Cow::Borrowed(&[]);
    while let Some(first) = bytes.first() {
        if *first != CONTENT_HANDSHAKE {
            // After a complete ClientHello other records may follow; whether it is complete is
            // the caller's question.
            if joined.is_empty() {
                return Err(HelloError::NotTls);
            }
            break;
        }
        if bytes.get(1).is_some_and(|major| *major != 3) {
            return Err(HelloError::NotTls);
        }
        let Some((header, rest)) = bytes.split_first_chunk::<RECORD_HEADER>() else {
            break;
        };
        let length = usize::from(u16::from_be_bytes([header[3], header[4]]));
        if length == 0 || length > RECORD_MAX {
            return Err(HelloError::Malformed("a record's length is out of bounds"));
        }
        let (payload, next) = rest.split_at(length.min(rest.len()));
        if joined.is_empty() {
            joined = Cow::Borrowed(payload);
        } else {
            joined.to_mut().extend_from_slice(payload);
        }
        bytes = next;
    }
    Ok(joined)
}

fn find_name(hello: &[u8]) -> Result<Option<String>, HelloError> {
    let mut hello = Reader(hello);
    hello.take(2, "version")?;
    hello.take(RANDOM, "random")?;
    if hello.prefixed_u8("session id")?.0.len() > SESSION_ID_MAX {
        return Err(HelloError::Malformed("the session id is too long"));
    }
    hello.prefixed_u16("cipher suites")?;
    hello.prefixed_u8("compression methods")?;
    if hello.0.is_empty() {
        return Ok(None);
    }
    let mut extensions = hello.prefixed_u16("extensions")?;
    if !hello.0.is_empty() {
        return Err(HelloError::Malformed("bytes follow the extensions"));
    }
    let mut name = None;
    let mut found = false;
    while !extensions.0.is_empty() {
        let kind = extensions.u16("extension type")?;
        let body = extensions.prefixed_u16("extension")?;
        if kind != EXTENSION_SERVER_NAME {
            continue;
        }
        if found {
            return Err(HelloError::Malformed("it names its server twice"));
        }
        found = true;
        name = host_name(body)?;
    }
    Ok(name)
}

fn host_name(mut extension: Reader<'_>) -> Result<Option<String>, HelloError> {
    let mut list = extension.prefixed_u16("server name list")?;
    if !extension.0.is_empty() {
        return Err(HelloError::Malformed("bytes follow the server names"));
    }
    let mut name = None;
    while !list.0.is_empty() {
        let kind = list.take(1, "name type")?[0];
        let text = list.prefixed_u16("server name")?.0;
        if kind != NAME_TYPE_HOST {
            continue;
        }
        if name.is_some() {
            return Err(HelloError::Malformed("it names its server twice"));
        }
        if text.is_empty() || text.len() > HOST_NAME_MAX || !text.iter().all(u8::is_ascii_graphic) {
            return Err(HelloError::Malformed("the server name is not a host name"));
        }
        name = Some(text.iter().map(|byte| char::from(*byte)).collect());
    }
    Ok(name)
}

/// The rest of a structure whose end is known.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize, what: &'static str) -> Result<&'a [u8], HelloError> {
        let (taken, rest) = self
            .0
            .split_at_checked(count)
            .ok_or(HelloError::Malformed(what))?;
        self.0 = rest;
        Ok(taken)
    }

    fn u16(&mut self, what: &'static str) -> Result<u16, HelloError> {
        let bytes = self.take(2, what)?;
        Ok(u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    fn prefixed_u8(&mut self, what: &'static str) -> Result<Self, HelloError> {
        let length = self.take(1, what)?[0];
        Ok(Self(self.take(usize::from(length), what)?))
    }

    fn prefixed_u16(&mut self, what: &'static str) -> Result<Self, HelloError> {
        let length = self.u16(what)?;
        Ok(Self(self.take(usize::from(length), what)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::client_hello;
    use proptest::prelude::*;

    fn named(name: &str) -> Parsed {
        Parsed::Name(Some(name.to_owned()))
    }

    /// The same handshake message in records of at most `size` bytes.
    fn fragment(hello: &[u8], size: usize) -> Vec<u8> {
        hello[RECORD_HEADER..]
            .chunks(size)
            .flat_map(|chunk| {
                let length = u16::try_from(chunk.len()).unwrap().to_be_bytes();
                let mut record = vec![CONTENT_HANDSHAKE, 3, 1, length[0], length[1]];
                record.extend_from_slice(chunk);
                record
            })
            .collect()
    }

    #[test]
    fn the_name_is_found_however_the_bytes_arrive() {
        let name = "p80.web.shop.east.portolan.internal";
        let hello = client_hello(name);
        assert!(hello.len() > 1200, "post-quantum key shares are large");
        for end in 0..hello.len() {
            assert_eq!(server_name(&hello[..end]), Ok(Parsed::NeedMore), "{end}");
        }
        assert_eq!(server_name(&hello), Ok(named(name)));
        let mut longer = hello;
        longer.extend_from_slice(b"\x14\x03\x03 and what follows");
        assert_eq!(server_name(&longer), Ok(named(name)));
    }

    #[test]
    fn fragments_are_joined() {
        let hello = client_hello("a.example");
        for size in [1, 2, 3, 4, 5, 100, 1000] {
            let records = fragment(&hello, size);
            assert_eq!(server_name(&records), Ok(named("a.example")), "{size}");
            let cut = &records[..records.len() - 1];
            assert_eq!(server_name(cut), Ok(Parsed::NeedMore), "{size}");
        }
    }

    #[test]
    fn what_is_no_client_hello_is_refused_early() {
        assert_eq!(server_name(b"GET / HTTP/1.1"), Err(HelloError::NotTls));
        assert_eq!(server_name(b"\x16\x02"), Err(HelloError::NotTls));
        assert_eq!(server_name(b""), Ok(Parsed::NeedMore));
        let server_hello = b"\x16\x03\x03\x00\x04\x02\x00\x00\x00";
        assert!(matches!(
            server_name(server_hello),
            Err(HelloError::Malformed(_))
        ));
        let endless = b"\x16\x03\x03\x40\x00\x01\xff\xff\xff";
        assert_eq!(server_name(endless), Err(HelloError::TooLong));
        let mut drip = fragment(&[0; RECORD_HEADER + 1], 1);
        drip[RECORD_HEADER] = CLIENT_HELLO;
        drip.extend([CONTENT_HANDSHAKE, 3, 3, 0, 3, 0, 0x3f, 0xff]);
        drip.resize(HELLO_MAX, CONTENT_HANDSHAKE);
        assert!(server_name(&drip).is_err());
    }

    #[test]
    fn a_hello_without_a_name_says_so() {
        let hello = client_hello("127.0.0.1");
        assert_eq!(server_name(&hello), Ok(Parsed::Name(None)));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _ = server_name(&bytes);
        }

        #[test]
        fn a_damaged_hello_never_panics(at in 0usize..4000, with: u8, cut in 0usize..4000) {
            let mut hello = client_hello("web.example");
            let at = at % hello.len();
            hello[at] = with;
            hello.truncate(cut);
            let _ = server_name(&hello);
        }

        #[test]
        fn names_of_any_length_are_found(label in "[a-z]{1,60}", size in 1usize..3000) {
            let name = format!("{label}.shop.east.portolan.internal");
            prop_assert_eq!(server_name(&fragment(&client_hello(&name), size)), Ok(named(&name)));
        }
    }
}
