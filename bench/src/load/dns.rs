//! A DNS client that does no more than it must: one question under way, and the answer looked at.

use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::net::UdpSocket;

/// How long an answer is waited for.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);
/// The largest answer, in bytes.
const ANSWER_MAX: usize = 4096;
const HEAD: usize = 12;

/// One client, with a port of its own.
pub(crate) struct Client {
    socket: UdpSocket,
    queries: Rc<[Vec<u8>]>,
    next: usize,
    id: u16,
    buffer: Box<[u8; ANSWER_MAX]>,
}

/// Questions for the addresses of these names.
pub(crate) fn queries(names: &[String]) -> Result<Rc<[Vec<u8>]>> {
    names.iter().map(|name| query(name)).collect()
}

impl Client {
    /// A client that begins with question number `next`.
    pub(crate) async fn open(
        server: SocketAddr,
        queries: &Rc<[Vec<u8>]>,
        next: usize,
    ) -> Result<Self> {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await?;
        socket.connect(server).await?;
        Ok(Self {
            socket,
            queries: Rc::clone(queries),
            next,
            id: 0,
            buffer: Box::new([0; ANSWER_MAX]),
        })
    }

    /// Asks the next question, and waits for its answer.
    pub(crate) async fn call(&mut self) -> Result<()> {
        self.next = (self.next + 1) % self.queries.len();
        self.id = self.id.wrapping_add(1);
        let mut question = [0; 512];
        let query = &self.queries[self.next];
        let question = question
            .get_mut(..query.len())
            .context("the question is too long")?;
        question.copy_from_slice(query);
        question[..2].copy_from_slice(&self.id.to_be_bytes());
        self.socket.send(question).await?;
        loop {
            let length = self.socket.recv(&mut *self.buffer).await?;
            let answer = &self.buffer[..length];
            // One that comes too late for the question before.
            if answer.get(..2) != Some(&self.id.to_be_bytes()) {
                continue;
            }
            return judge(answer);
        }
    }
}

/// An answer must succeed, and carry a record.
fn judge(answer: &[u8]) -> Result<()> {
    let Some(head) = answer.get(..HEAD) else {
        bail!("an answer of {} bytes", answer.len());
    };
    let (code, records) = (head[3] & 0x0f, u16::from_be_bytes([head[6], head[7]]));
    if code != 0 || records == 0 {
        bail!("the server answered with code {code} and {records} records");
    }
    Ok(())
}

fn query(name: &str) -> Result<Vec<u8>> {
    // Recursion is not asked for, and there is one question.
    let mut query = vec![0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        query.push(u8::try_from(label.len()).context("a label is too long")?);
        query.extend(label.as_bytes());
    }
    // The root, type A, class IN.
    query.extend([0, 0, 1, 0, 1]);
    Ok(query)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_in_wire_form() {
        let query = query("a.bc").unwrap();
        assert_eq!(query[HEAD..], *b"\x01a\x02bc\0\0\x01\0\x01");
    }

    #[test]
    fn an_answer_without_records_does_not_count() {
        let mut answer = [0; HEAD];
        assert!(judge(&answer).is_err());
        answer[7] = 1;
        assert!(judge(&answer).is_ok());
        answer[3] = 3;
        assert!(judge(&answer).is_err());
        assert!(judge(&answer[..5]).is_err());
    }
}
