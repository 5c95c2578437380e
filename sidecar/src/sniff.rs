//! What a client speaks, told from its first bytes, which are then read again.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::time::timeout;

/// What HTTP/2 clients that know beforehand send first (RFC 9113 §3.4).
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The longest method name that is taken for HTTP.
const METHOD_MAX: usize = 24;

/// What a client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Spoken {
    /// HTTP/1.x.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
    /// Something else.
    Opaque,
    /// Nothing in time: perhaps the server speaks first.
    Silence,
    /// The client ended before it said enough.
    Closed,
}

/// Reads until it is clear what the client speaks, at most for `wait`.
///
/// # Errors
/// When reading fails.
pub(crate) async fn sniff<S>(mut stream: S, wait: Duration) -> io::Result<(Spoken, Prefixed<S>)>
where
    S: AsyncRead + Unpin,
{
    let mut first = BytesMut::with_capacity(HTTP2_PREFACE.len());
    let read = async {
        loop {
            if let Some(spoken) = classify(&first) {
                return Ok::<_, io::Error>(spoken);
            }
            if stream.read_buf(&mut first).await? == 0 {
                return Ok(Spoken::Closed);
            }
        }
    };
    let spoken = match timeout(wait, read).await {
        Ok(read) => read?,
        Err(_) => Spoken::Silence,
    };
    let prefix = first.freeze();
    Ok((spoken, Prefixed { prefix, stream }))
}

/// `None`: more bytes are needed.
fn classify(first: &[u8]) -> Option<Spoken> {
    if first.starts_with(HTTP2_PREFACE) {
        return Some(Spoken::Http2);
    }
    if HTTP2_PREFACE.starts_with(first) {
        return None;
    }
    let method = first
        .iter()
        .take_while(|byte| byte.is_ascii_uppercase() || matches!(byte, b'-' | b'_'));
    let length = method.count();
    match first.get(length) {
        Some(b' ') if length > 0 => Some(Spoken::Http1),
        None if length <= METHOD_MAX => None,
        Some(_) | None => Some(Spoken::Opaque),
    }
}

/// A stream whose first bytes were read already; it gives them again.
#[derive(Debug)]
pub(crate) struct Prefixed<S> {
    prefix: Bytes,
    stream: S,
}

impl<S> Prefixed<S> {
    /// A stream that gives these bytes before its own.
    pub(crate) fn new(prefix: impl Into<Bytes>, stream: S) -> Self {
        Self {
            prefix: prefix.into(),
            stream,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Prefixed<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.prefix.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buf);
        }
        let count = self.prefix.len().min(buf.remaining());
        buf.put_slice(&self.prefix[..count]);
        self.prefix.advance(count);
        if self.prefix.is_empty() {
            // The stream may live for hours; what was read need not.
            self.prefix = Bytes::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Prefixed<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;

    #[test]
    fn protocols_are_told_by_their_first_bytes() {
        let table: &[(&[u8], Option<Spoken>)] = &[
            (b"", None),
            (b"GE", None),
            (b"GET / HTTP/1.1\r\n", Some(Spoken::Http1)),
            (b"M-SEARCH * HTTP/1.1", Some(Spoken::Http1)),
            (b"PRI * HT", None),
            (b"PRI / HTTP/1.1", Some(Spoken::Http1)),
            (HTTP2_PREFACE, Some(Spoken::Http2)),
            (b"\x16\x03\x01", Some(Spoken::Opaque)),
            (b" GET", Some(Spoken::Opaque)),
            (b"hello", Some(Spoken::Opaque)),
            (b"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", Some(Spoken::Opaque)),
        ];
        for (bytes, spoken) in table {
            assert_eq!(classify(bytes), *spoken, "{}", bytes.escape_ascii());
        }
    }

    #[tokio::test]
    async fn what_was_read_is_given_again() {
        let (mut near, far) = tokio::io::duplex(64);
        near.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        near.shutdown().await.unwrap();
        let (spoken, mut stream) = sniff(far, Duration::from_secs(5)).await.unwrap();
        assert_eq!(spoken, Spoken::Http1);
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "GET / HTTP/1.1\r\n\r\n");
    }

    #[tokio::test]
    async fn silence_and_ends_are_no_protocol() {
        let (_near, far) = tokio::io::duplex(64);
        let (spoken, _) = sniff(far, Duration::from_millis(1)).await.unwrap();
        assert_eq!(spoken, Spoken::Silence);
        let (near, far) = tokio::io::duplex(64);
        drop(near);
        let (spoken, _) = sniff(far, Duration::from_secs(5)).await.unwrap();
        assert_eq!(spoken, Spoken::Closed);
    }
}
