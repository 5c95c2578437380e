//! Messages as bytes: what a query asks, and answers that fit where they are going. Pure.

use hickory_proto::op::{Edns, Message, MessageType, Metadata, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Record, RecordType};

/// The length of a message's header.
pub(crate) const HEADER_BYTES: usize = 12;
/// The longest answer over UDP for clients that do not say what they can take (RFC 1035).
const UDP_BYTES_MIN: u16 = 512;
/// The longest answer over UDP that we make: no path fragments it (DNS flag day 2020).
const UDP_BYTES_MAX: u16 = 1232;
/// The longest message over TCP.
pub(crate) const TCP_BYTES_MAX: usize = u16::MAX as usize;

/// How a query came, and so how long an answer may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    Udp,
    Tcp,
}

/// What somebody sent.
#[derive(Debug)]
pub(crate) enum Received {
    /// A question that deserves an answer.
    Asked(Box<Asked>),
    /// Something that is refused right away.
    Refused(Vec<u8>),
    /// A reply, or too short to be replied to: answering could start a loop.
    Ignored,
}

/// One question.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) question: Query,
    metadata: Metadata,
    edns: Option<Edns>,
    transport: Transport,
}

/// The sections of an answer.
#[derive(Debug, Default)]
pub(crate) struct Sections {
    pub(crate) answers: Vec<Record>,
    pub(crate) authorities: Vec<Record>,
    pub(crate) additionals: Vec<Record>,
}

/// Reads what was sent.
pub(crate) fn read(bytes: &[u8], transport: Transport) -> Received {
    // Bit 7 of the third byte says that it is a reply.
    if bytes.len() < HEADER_BYTES || bytes[2] & 0x80 != 0 {
        return Received::Ignored;
    }
    let Ok(message) = Message::from_vec(bytes) else {
        return refuse_unread(bytes);
    };
    let [question] = &message.queries[..] else {
        return refuse_unread(bytes);
    };
    let asked = Asked {
        question: question.clone(),
        metadata: message.metadata,
        edns: message.edns.clone(),
        transport,
    };
    match asked.objection() {
        Some(code) => Received::Refused(asked.reply(code, Sections::default())),
        None => Received::Asked(Box::new(asked)),
    }
}

impl Asked {
    /// Why the question is not even looked at.
    fn objection(&self) -> Option<ResponseCode> {
        let is_transfer = matches!(
            self.question.query_type(),
            RecordType::AXFR | RecordType::IXFR
        );
        if self.metadata.op_code != OpCode::Query {
            Some(ResponseCode::NotImp)
        } else if self.edns.as_ref().is_some_and(|edns| edns.version() > 0) {
            Some(ResponseCode::BADVERS)
        } else if self.question.query_class() != DNSClass::IN || is_transfer {
            Some(ResponseCode::Refused)
        } else {
            None
        }
    }

    /// An authoritative reply.
    pub(crate) fn reply_own(&self, code: ResponseCode, sections: Sections) -> Vec<u8> {
        let mut reply = self.begin(code);
        reply.metadata.authoritative = true;
        self.finish(reply, sections)
    }

    /// A reply of no authority: refusals and failures.
    pub(crate) fn reply(&self, code: ResponseCode, sections: Sections) -> Vec<u8> {
        self.finish(self.begin(code), sections)
    }

    /// A reply that only says: ask again over TCP.
    pub(crate) fn reply_truncated(&self) -> Vec<u8> {
        let mut reply = self.begin(ResponseCode::NoError);
        reply.metadata.truncation = true;
        self.finish(reply, Sections::default())
    }

    /// A number that differs between queries.
    pub(crate) fn turn(&self) -> usize {
        usize::from(self.metadata.id)
    }

    /// The longest reply that the client takes.
    pub(crate) fn reply_bytes_max(&self) -> usize {
        match self.transport {
            Transport::Tcp => TCP_BYTES_MAX,
            Transport::Udp => {
                let offered = self.edns.as_ref().map_or(UDP_BYTES_MIN, Edns::max_payload);
                usize::from(offered.max(UDP_BYTES_MIN))
            }
        }
    }

    pub(crate) fn transport(&self) -> Transport {
        self.transport
    }

    fn begin(&self, code: ResponseCode) -> Message {
        let mut reply = Message::new(self.metadata.id, MessageType::Response, OpCode::Query);
        reply.metadata = Metadata::response_from_request(&self.metadata);
        reply.metadata.response_code = code;
        reply.metadata.recursion_available = true;
        reply.add_query(self.question.clone());
        // A client that sent EDNS gets EDNS, and nobody else does (RFC 6891 §6.1.1).
        if let Some(asked) = &self.edns {
            let mut edns = Edns::new();
            edns.set_max_payload(UDP_BYTES_MAX);
            edns.set_version(0);
            edns.set_dnssec_ok(asked.flags().dnssec_ok);
            reply.set_edns(edns);
        }
        reply
    }

    /// Encodes as much as fits: without additional records if need be, and without any, and marked
    /// as truncated, if even the answers are too long.
    fn finish(&self, mut reply: Message, sections: Sections) -> Vec<u8> {
        let limit = self.own_bytes_max();
        let fits = |reply: &Message| reply.to_vec().ok().filter(|bytes| bytes.len() <= limit);
        reply.answers = sections.answers;
        reply.authorities = sections.authorities;
        reply.additionals = sections.additionals;
        if let Some(bytes) = fits(&reply) {
            return bytes;
        }
        reply.additionals.clear();
        if let Some(bytes) = fits(&reply) {
            return bytes;
        }
        let cut = reply.truncate();
        fits(&cut).unwrap_or_default()
    }

    fn own_bytes_max(&self) -> usize {
        match self.transport {
            Transport::Tcp => TCP_BYTES_MAX,
            Transport::Udp => self.reply_bytes_max().min(usize::from(UDP_BYTES_MAX)),
        }
    }
}

/// FORMERR for what could not be read: only the header can be echoed.
fn refuse_unread(bytes: &[u8]) -> Received {
    let code = ResponseCode::FormErr;
    let mut reply = bytes[..HEADER_BYTES].to_vec();
    // QR set, opcode and RD kept; FORMERR; no sections.
    reply[2] = 0x80 | (reply[2] & 0x79);
    reply[3] = code.low();
    reply[4..].fill(0);
    Received::Refused(reply)
}

/// Where the question section of a query with one question ends.
pub(crate) fn question_end(bytes: &[u8]) -> Option<usize> {
    let mut at = HEADER_BYTES;
    loop {
        let label = usize::from(*bytes.get(at)?);
        if label > 63 {
            return None;
        }
        at += 1 + label;
        if label == 0 {
            break;
        }
    }
    // Type and class.
    let end = at + 4;
    (end <= bytes.len()).then_some(end)
}

/// The response code in a message's header (the four bits that every message has).
pub(crate) fn rcode(bytes: &[u8]) -> u8 {
    bytes.get(3).map_or(0, |byte| byte & 0x0F)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    use hickory_proto::rr::rdata::A;
    use hickory_proto::rr::{Name, RData};
    use proptest::prelude::*;

    fn query(payload: Option<u16>) -> Message {
        let name = Name::from_ascii("Orders.shop.global.").unwrap();
        let mut message = Message::new(7, MessageType::Query, OpCode::Query);
        message.metadata.recursion_desired = true;
        message.add_query(Query::query(name, RecordType::A));
        if let Some(payload) = payload {
            let mut edns = Edns::new();
            edns.set_max_payload(payload);
            message.set_edns(edns);
        }
        message
    }

    fn asked(message: &Message, transport: Transport) -> Asked {
        let received = read(&message.to_vec().unwrap(), transport);
        let Received::Asked(asked) = received else {
            panic!("{received:?}");
        };
        *asked
    }

    fn addresses(count: u8) -> Sections {
        let name = Name::from_ascii("Orders.shop.global.").unwrap();
        let record = |last| {
            let address = RData::A(A(Ipv4Addr::new(10, 0, 0, last)));
            Record::from_rdata(name.clone(), 5, address)
        };
        Sections {
            answers: (0..count).map(record).collect(),
            ..Sections::default()
        }
    }

    #[test]
    fn a_reply_fits_its_transport_or_says_that_it_was_cut() {
        let reply = |payload, transport, count| {
            let asked = asked(&query(payload), transport);
            let bytes = asked.reply_own(ResponseCode::NoError, addresses(count));
            let reply = Message::from_vec(&bytes).unwrap();
            (
                bytes.len(),
                reply.answers.len(),
                reply.metadata.truncation,
                reply.edns.is_some(),
            )
        };
        let (bytes, count, cut, edns) = reply(None, Transport::Udp, 20);
        assert!(bytes <= 512 && count == 20 && !cut && !edns);
        let (bytes, count, cut, edns) = reply(None, Transport::Udp, 60);
        assert!(bytes <= 512 && count == 0 && cut && !edns);
        let (bytes, count, cut, edns) = reply(Some(4096), Transport::Udp, 60);
        assert!(bytes <= 1232 && count == 60 && !cut && edns);
        let (bytes, count, cut, edns) = reply(Some(4096), Transport::Udp, 200);
        assert!(bytes <= 1232 && count == 0 && cut && edns);
        let (_, count, cut, _) = reply(None, Transport::Tcp, 200);
        assert!(count == 200 && !cut);
    }

    #[test]
    fn additional_records_give_way_before_anything_is_cut() {
        let mut sections = addresses(10);
        sections.additionals = addresses(100).answers;
        let bytes = asked(&query(None), Transport::Udp).reply_own(ResponseCode::NoError, sections);
        let reply = Message::from_vec(&bytes).unwrap();
        assert_eq!((reply.answers.len(), reply.additionals.len()), (10, 0));
        assert!(!reply.metadata.truncation);
    }

    #[test]
    fn what_is_no_plain_question_is_refused_by_its_code() {
        let code = |message: &Message| {
            let received = read(&message.to_vec().unwrap(), Transport::Udp);
            let Received::Refused(reply) = received else {
                panic!("{received:?}");
            };
            let reply = Message::from_vec(&reply).unwrap();
            assert_eq!(reply.metadata.id, 7);
            reply.metadata.response_code
        };
        let mut update = query(None);
        update.metadata.op_code = OpCode::Notify;
        assert_eq!(code(&update), ResponseCode::NotImp);
        let mut transfer = query(None);
        transfer.queries[0].set_query_type(RecordType::AXFR);
        assert_eq!(code(&transfer), ResponseCode::Refused);
        let mut chaos = query(None);
        chaos.queries[0].set_query_class(DNSClass::CH);
        assert_eq!(code(&chaos), ResponseCode::Refused);
        let mut two = query(None);
        two.add_query(query(None).queries[0].clone());
        assert_eq!(code(&two), ResponseCode::FormErr);
        let mut future = query(Some(512));
        future.edns.as_mut().unwrap().set_version(1);
        // BADVERS and BADSIG share the number 16.
        assert_eq!(u16::from(code(&future)), 16);
    }

    #[test]
    fn replies_are_never_answered() {
        let mut reply = query(None);
        reply.metadata.message_type = MessageType::Response;
        let bytes = reply.to_vec().unwrap();
        assert!(matches!(read(&bytes, Transport::Udp), Received::Ignored));
        assert!(matches!(
            read(&bytes[..5], Transport::Udp),
            Received::Ignored
        ));
    }

    proptest! {
        #[test]
        fn reading_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(&bytes, Transport::Udp);
            let _ = question_end(&bytes);
        }

        #[test]
        fn a_damaged_query_never_panics(at in 0_usize..40, byte in any::<u8>(), len in 0_usize..60) {
            let mut bytes = query(Some(1232)).to_vec().unwrap();
            if let Some(place) = bytes.get_mut(at) {
                *place = byte;
            }
            bytes.truncate(len);
            let _ = read(&bytes, Transport::Tcp);
            prop_assert!(question_end(&bytes).is_none_or(|end| end <= bytes.len()));
        }
    }
}
