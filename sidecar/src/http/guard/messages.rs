//! Where each message begins and ends in the bytes of an HTTP/1.x connection. No I/O here.

use super::Bounds;
use super::chunks::Chunks;
use super::fault::Fault;
use super::head::{Body, Head};

/// Follows the messages that a client sends on one connection.
#[derive(Debug)]
pub(super) struct Messages {
    bounds: Bounds,
    place: Place,
    /// Whether the connection may change protocols after the message that is being read.
    may_switch: bool,
}

#[derive(Debug)]
enum Place {
    Head(Head),
    Length(u64),
    Chunked(Chunks),
    /// What follows is another message, or another protocol.
    Undecided,
    /// Another protocol.
    Switched,
}

/// Why no more bytes may pass for now.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// All may.
    Nothing,
    /// A head begins here and is not whole: show it again with what follows it.
    Partial,
    /// It is not decided yet what they are.
    Undecided,
    /// The head that begins here must not pass, nor anything after it.
    Refused(Fault),
    /// The body breaks off here.
    Malformed,
}

impl Messages {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            place: Place::Head(Head::default()),
            may_switch: false,
        }
    }

    /// Reads on. How many of the bytes may pass, and what stops the others.
    pub(super) fn read(&mut self, bytes: &[u8]) -> (usize, Stop) {
        let mut at = 0;
        while at < bytes.len() {
            let rest = &bytes[at..];
            match &mut self.place {
                Place::Head(head) if head.is_new() && rest.starts_with(b"\r\n") => {
                    // RFC 9112 §2.2: empty lines before a request are ignored.
                    *head = Head::default();
                    at += 2;
                }
                Place::Head(head) => match head.read(rest, &self.bounds) {
                    Ok(None) => return (at, Stop::Partial),
                    Ok(Some((end, framing))) => {
                        at += end;
                        self.may_switch = framing.may_switch;
                        self.place = match framing.body {
                            Body::Length(0) => self.after(),
                            Body::Length(length) => Place::Length(length),
                            Body::Chunked => Place::Chunked(Chunks::default()),
                        };
                    }
                    Err(fault) => return (at, Stop::Refused(fault)),
                },
                Place::Length(left) => {
                    let step = (*left).min(rest.len() as u64);
                    *left -= step;
                    at += usize::try_from(step).unwrap_or(usize::MAX);
                    if *left == 0 {
                        self.place = self.after();
                    }
                }
                Place::Chunked(chunks) => match chunks.read(rest) {
                    Ok((count, ended)) => {
                        at += count;
                        if ended {
                            self.place = self.after();
                        }
                    }
                    Err(_) => return (at, Stop::Malformed),
                },
                Place::Undecided => return (at, Stop::Undecided),
                Place::Switched => at = bytes.len(),
            }
        }
        (at, Stop::Nothing)
    }

    /// Whether it is to be decided what follows.
    pub(super) fn undecided(&self) -> bool {
        matches!(self.place, Place::Undecided)
    }

    /// Whether another protocol is spoken.
    pub(super) fn switched(&self) -> bool {
        matches!(self.place, Place::Switched)
    }

    /// Decides what follows.
    pub(super) fn decide(&mut self, switched: bool) {
        self.place = if switched {
            Place::Switched
        } else {
            Place::Head(Head::default())
        };
    }

    fn after(&self) -> Place {
        if self.may_switch {
            Place::Undecided
        } else {
            Place::Head(Head::default())
        }
    }
}
