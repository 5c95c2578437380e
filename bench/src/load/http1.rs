//! An HTTP/1.1 caller that does no more than it must.

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::Entrance;
use crate::origin::find;

/// The largest answer head, in bytes.
const HEAD_MAX: usize = 16 * 1024;

/// One connection, and its one request.
pub(super) struct Connection {
    stream: TcpStream,
    request: Vec<u8>,
    buffer: Vec<u8>,
}

impl Connection {
    pub(super) async fn open(entrance: &Entrance) -> Result<Self> {
        let stream = TcpStream::connect(entrance.address)
            .await
            .with_context(|| format!("cannot connect to {}", entrance.address))?;
        stream.set_nodelay(true)?;
        let request = format!(
            "GET /orders/42 HTTP/1.1\r\nhost: {}\r\nuser-agent: portolan-bench\r\naccept: */*\r\n\r\n",
            entrance.host
        );
        Ok(Self {
            stream,
            request: request.into_bytes(),
            buffer: Vec::with_capacity(HEAD_MAX),
        })
    }

    /// Sends the request, and reads the whole answer.
    pub(super) async fn call(&mut self) -> Result<()> {
        self.stream.write_all(&self.request).await?;
        self.buffer.clear();
        let head = loop {
            self.more().await?;
            if let Some(end) = find(&self.buffer, b"\r\n\r\n") {
                break end + 4;
            }
            if self.buffer.len() >= HEAD_MAX {
                bail!("the answer's head is too large");
            }
        };
        let length = self.body_length(head)?;
        while self.buffer.len() < head + length {
            self.more().await?;
        }
        Ok(())
    }

    /// Ends the connection without leaving its port in use for a minute.
    pub(super) fn reset(self) -> Result<()> {
        Ok(self.stream.set_zero_linger()?)
    }

    async fn more(&mut self) -> Result<()> {
        if self.stream.read_buf(&mut self.buffer).await? == 0 {
            bail!("the connection was closed before the answer was whole");
        }
        Ok(())
    }

    fn body_length(&self, head: usize) -> Result<usize> {
        let head = self.buffer.get(..head).unwrap_or_default();
        if !head.starts_with(b"HTTP/1.1 200") {
            let text = String::from_utf8_lossy(head);
            bail!("refused: {}", text.replace("\r\n", "; "));
        }
        const NAME: &[u8] = b"content-length:";
        let line = head
            .split(|byte| *byte == b'\n')
            .find(|line| line.len() > NAME.len() && line[..NAME.len()].eq_ignore_ascii_case(NAME))
            .context("the answer has no content-length")?;
        let digits = std::str::from_utf8(&line[NAME.len()..])?.trim();
        Ok(digits.parse()?)
    }
}
