//! Where a chunked body ends (RFC 9112 §7.1), by the same grammar as hyper's decoder. No I/O here.

use memchr::memchr;

/// A place in a chunked body.
#[derive(Debug, Default)]
pub(super) struct Chunks {
    place: Place,
    /// Of the chunk's data.
    left: u64,
}

#[derive(Debug, Default, Clone, Copy)]
enum Place {
    #[default]
    Start,
    Size,
    Spaces,
    Extension,
    SizeEnd,
    Data,
    DataEnd,
    DataEnded,
    /// At the beginning of a trailer, or of the last line.
    Line,
    Trailer,
    TrailerEnd,
    LastEnd,
}

/// It is no chunked body.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Malformed;

impl Chunks {
    /// Reads on. How many bytes belong to the body, and whether it ends with them.
    pub(super) fn read(&mut self, bytes: &[u8]) -> Result<(usize, bool), Malformed> {
        let mut at = 0;
        while let Some(byte) = bytes.get(at) {
            if let Place::Data = self.place {
                let here = (bytes.len() - at) as u64;
                let step = here.min(self.left);
                self.left -= step;
                at += usize::try_from(step).unwrap_or(usize::MAX);
                if self.left == 0 {
                    self.place = Place::DataEnd;
                }
            } else if let Place::Trailer = self.place {
                let end = memchr(b'\r', &bytes[at..]);
                at = end.map_or(bytes.len(), |end| at + end + 1);
                if end.is_some() {
                    self.place = Place::TrailerEnd;
                }
            } else if let (Place::LastEnd, b'\n') = (self.place, *byte) {
                return Ok((at + 1, true));
            } else {
                self.place = self.step(*byte)?;
                at += 1;
            }
        }
        Ok((at, false))
    }

    fn step(&mut self, byte: u8) -> Result<Place, Malformed> {
        match (self.place, byte) {
            (Place::Start | Place::Size, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                let digit = char::from(byte).to_digit(16).unwrap_or_default();
                let more = self.left.checked_mul(16).ok_or(Malformed)?;
                self.left = more + u64::from(digit);
                Ok(Place::Size)
            }
            (Place::Size | Place::Spaces, b' ' | b'\t') => Ok(Place::Spaces),
            (Place::Size | Place::Spaces, b';') => Ok(Place::Extension),
            (Place::Size | Place::Spaces | Place::Extension, b'\r') => Ok(Place::SizeEnd),
            (Place::Extension, b'\n') => Err(Malformed),
            (Place::Extension, _) => Ok(Place::Extension),
            (Place::SizeEnd, b'\n') if self.left == 0 => Ok(Place::Line),
            (Place::SizeEnd, b'\n') => Ok(Place::Data),
            (Place::DataEnd, b'\r') => Ok(Place::DataEnded),
            (Place::DataEnded, b'\n') => Ok(Place::Start),
            (Place::Line, b'\r') => Ok(Place::LastEnd),
            (Place::Line, _) => Ok(Place::Trailer),
            (Place::TrailerEnd, b'\n') => Ok(Place::Line),
            (
                Place::Start
                | Place::Size
                | Place::Spaces
                | Place::SizeEnd
                | Place::Data
                | Place::DataEnd
                | Place::DataEnded
                | Place::Trailer
                | Place::TrailerEnd
                | Place::LastEnd,
                _,
            ) => Err(Malformed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(body: &[u8]) -> Result<(usize, bool), Malformed> {
        let at_once = Chunks::default().read(body);
        let mut chunks = Chunks::default();
        let mut total = 0;
        for byte in body {
            let (count, ended) = match chunks.read(&[*byte]) {
                Ok(read) => read,
                Err(malformed) => {
                    assert_eq!(at_once, Err(Malformed));
                    return Err(malformed);
                }
            };
            total += count;
            if ended {
                assert_eq!(at_once, Ok((total, true)));
                return Ok((total, true));
            }
        }
        assert_eq!(at_once, Ok((total, false)));
        Ok((total, false))
    }

    #[test]
    fn bodies_end_where_they_should() {
        for body in [
            "0\r\n\r\n",
            "5\r\nhello\r\n0\r\n\r\n",
            "A \t;x=\"y\"\r\n0123456789\r\n000\r\n\r\n",
            "1\r\na\r\n0\r\nx-sum: 1\r\ny: 2\r\n\r\n",
        ] {
            let with_more = format!("{body}GET / HTTP/1.1\r\n");
            assert_eq!(
                whole(with_more.as_bytes()),
                Ok((body.len(), true)),
                "{body:?}"
            );
        }
        assert_eq!(whole(b"5\r\nhel"), Ok((6, false)));
    }

    #[test]
    fn what_is_malformed_is_known() {
        for body in [
            "\r\n",
            "g\r\n",
            "+1\r\na\r\n",
            "0x1\r\n",
            "1\n",
            "1\r\nab\r\n",
            "1 2\r\n",
            "-1\r\n",
            "fffffffffffffffff\r\n",
            "1;a\nb\r\n",
            "0\r\n\ra",
            "1\r\na\n",
            "0\r\nx: y\rz",
        ] {
            assert_eq!(whole(body.as_bytes()), Err(Malformed), "{body:?}");
        }
    }
}
