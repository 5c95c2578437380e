//! The head of one HTTP/1.x request, looked at line by line as it arrives. No I/O here.

use memchr::memchr;

use super::Bounds;
use super::fault::Fault;

/// A head of which some lines were read. Offsets count from its first byte.
#[derive(Debug, Default)]
pub(super) struct Head {
    /// Where the next line begins.
    at: usize,
    /// Up to here there is no line end.
    searched: usize,
    line: Option<Line>,
    headers: usize,
    length: Option<u64>,
    chunked: bool,
    upgrade: bool,
}

#[derive(Debug, Clone, Copy)]
struct Line {
    connect: bool,
    newest: bool,
}

/// What follows a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Framing {
    /// How the body ends.
    pub(super) body: Body,
    /// Whether the connection may change protocols afterwards.
    pub(super) may_switch: bool,
}

/// How a body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Body {
    /// After so many bytes.
    Length(u64),
    /// With its last chunk.
    Chunked,
}

impl Head {
    /// Whether nothing of it was read.
    pub(super) fn is_new(&self) -> bool {
        self.at == 0 && self.searched == 0
    }

    /// Reads on in `bytes`, which begin where the head begins. Where the head ends and what follows it,
    /// or `None` while it is not whole.
    pub(super) fn read(
        &mut self,
        bytes: &[u8],
        bounds: &Bounds,
    ) -> Result<Option<(usize, Framing)>, Fault> {
        while let Some(found) = memchr(b'\n', &bytes[self.searched..]) {
            let end = self.searched + found;
            let whole = &bytes[self.at..end];
            let Some(line) = whole.strip_suffix(b"\r") else {
                // Had its beginning arrived alone, that would have been refused.
                let begins_badly = self.line.is_none() && has_control(whole);
                return Err(if begins_badly {
                    Fault::RequestLine
                } else {
                    Fault::BareLineFeed
                });
            };
            self.at = end + 1;
            self.searched = self.at;
            match self.line {
                None if line.len() > bounds.line_bytes_max => return Err(Fault::LineTooLong),
                None => self.line = Some(request_line(line)?),
                Some(_) if self.at > bounds.bytes_max => return Err(Fault::HeadTooLarge),
                Some(read) if line.is_empty() => {
                    return self.framing(read).map(|framing| Some((self.at, framing)));
                }
                Some(_) => self.header(line, bounds)?,
            }
        }
        self.partial(bytes, bounds).map(|()| None)
    }

    /// Judges what has no end yet, so that it need not be waited for.
    fn partial(&mut self, bytes: &[u8], bounds: &Bounds) -> Result<(), Fault> {
        let new = &bytes[self.searched..];
        // A line feed may follow.
        let new = new.strip_suffix(b"\r").unwrap_or(new);
        self.searched += new.len();
        if self.line.is_none() {
            if bytes.len() > bounds.line_bytes_max {
                return Err(Fault::LineTooLong);
            }
            if has_control(new) {
                return Err(Fault::RequestLine);
            }
        }
        if bytes.len() > bounds.bytes_max {
            return Err(Fault::HeadTooLarge);
        }
        Ok(())
    }

    fn header(&mut self, line: &[u8], bounds: &Bounds) -> Result<(), Fault> {
        self.headers += 1;
        if self.headers > bounds.headers_max {
            return Err(Fault::HeadTooLarge);
        }
        if matches!(line.first(), Some(b' ' | b'\t')) {
            return Err(Fault::Folded);
        }
        let name = token(line);
        let Some((b':', value)) = line[name.len()..].split_first() else {
            let spaced = matches!(line.get(name.len()), Some(b' ' | b'\t')) && !name.is_empty();
            return Err(if spaced {
                Fault::SpaceBeforeColon
            } else {
                Fault::HeaderLine
            });
        };
        if name.is_empty() {
            return Err(Fault::HeaderLine);
        }
        if has_control(value) {
            return Err(Fault::ControlCharacter);
        }
        match name.len() {
            7 if name.eq_ignore_ascii_case(b"upgrade") => self.upgrade = true,
            14 if name.eq_ignore_ascii_case(b"content-length") => {
                let length = decimal(value.trim_ascii()).ok_or(Fault::ContentLength)?;
                if self.length.replace(length).is_some() {
                    return Err(Fault::ContentLength);
                }
            }
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => {
                if self.chunked || !is_chunked(value.rsplit(|it| *it == b',').next()) {
                    return Err(Fault::NotChunkedLast);
                }
                if !is_chunked(Some(value)) {
                    return Err(Fault::TransferEncoding);
                }
                self.chunked = true;
            }
            _ => {}
        }
        Ok(())
    }

    fn framing(&self, line: Line) -> Result<Framing, Fault> {
        let body = match (self.chunked, self.length) {
            (true, Some(_)) => return Err(Fault::BothFramings),
            (true, None) if !line.newest => return Err(Fault::OldTransferEncoding),
            (true, None) => Body::Chunked,
            (false, length) => Body::Length(length.unwrap_or(0)),
        };
        if line.connect && body != Body::Length(0) {
            return Err(Fault::ConnectBody);
        }
        Ok(Framing {
            body,
            may_switch: line.connect || (self.upgrade && line.newest),
        })
    }
}

fn is_chunked(coding: Option<&[u8]>) -> bool {
    coding.is_some_and(|it| it.trim_ascii().eq_ignore_ascii_case(b"chunked"))
}

/// RFC 9112 §3: method, target, version, with one space between them.
fn request_line(line: &[u8]) -> Result<Line, Fault> {
    if has_control(line) {
        return Err(Fault::RequestLine);
    }
    let mut words = line.split(|byte| *byte == b' ');
    let (Some(method), Some(target), Some(version), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(Fault::RequestLine);
    };
    if method.is_empty() || token(method).len() < method.len() || target.is_empty() {
        return Err(Fault::RequestLine);
    }
    let newest = match version {
        b"HTTP/1.1" => true,
        b"HTTP/1.0" => false,
        _ if version.starts_with(b"HTTP/") => return Err(Fault::Version),
        _ => return Err(Fault::RequestLine),
    };
    Ok(Line {
        connect: method == b"CONNECT",
        newest,
    })
}

/// Whether it holds a control character other than a tab. Written so that it is done many bytes at a
/// time.
fn has_control(bytes: &[u8]) -> bool {
    let found = bytes.iter().fold(0, |found, byte| {
        found | u8::from((*byte < b' ') & (*byte != b'\t')) | u8::from(*byte == 0x7f)
    });
    found != 0
}

/// The token that they begin with (RFC 9110 §5.6.2).
fn token(bytes: &[u8]) -> &[u8] {
    const TOKEN: [bool; 256] = {
        let mut table = [false; 256];
        let mut byte = 0;
        while byte < 128 {
            let it = byte as u8;
            table[byte] = it.is_ascii_alphanumeric()
                || matches!(
                    it,
                    b'!' | b'#'
                        | b'$'
                        | b'%'
                        | b'&'
                        | b'\''
                        | b'*'
                        | b'+'
                        | b'-'
                        | b'.'
                        | b'^'
                        | b'_'
                        | b'`'
                        | b'|'
                        | b'~'
                );
            byte += 1;
        }
        table
    };
    let end = bytes.iter().position(|byte| !TOKEN[usize::from(*byte)]);
    end.map_or(bytes, |end| &bytes[..end])
}

/// RFC 9110 §8.6. Nineteen digits always fit.
fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || digits.len() > 19 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = digits.iter().fold(0, |number: u64, digit| {
        number * 10 + u64::from(*digit - b'0')
    });
    Some(number)
}
