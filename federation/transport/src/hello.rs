//! Reads a connection's TLS ClientHello without answering it, and refuses by alert.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use crate::wire::alert::Alert;
use crate::wire::client_hello::{self, HELLO_MAX, HelloError, Parsed};
use crate::wire::trace::TraceParent;

/// Room for the usual post-quantum ClientHello.
const HELLO_USUAL: usize = 2 * 1024;

/// A ClientHello as it arrived.
#[derive(Debug)]
pub struct Hello {
    /// All bytes read so far. Whoever serves the connection must get them first.
    pub bytes: Vec<u8>,
    /// The server name in it.
    pub server_name: Option<String>,
    /// What the connection is called in logs.
    pub trace: Option<TraceParent>,
}

/// Why no ClientHello was read.
#[derive(Debug, thiserror::Error)]
pub enum HelloReadError {
    /// It did not arrive in time.
    #[error("no complete TLS ClientHello arrived within {0:?}")]
    Timeout(Duration),
    /// The connection ended before.
    #[error("the connection ended before its TLS ClientHello was complete")]
    Closed,
    /// The connection broke.
    #[error("the connection broke before its TLS ClientHello was complete")]
    Io(#[source] io::Error),
    /// It cannot be read.
    #[error("the connection's first bytes are refused")]
    Hello(#[from] HelloError),
}

/// Reads the ClientHello: at most [`HELLO_MAX`] bytes, within `limit`.
///
/// # Errors
/// When it is malformed, too long, too late or cut.
pub async fn read<R>(io: &mut R, limit: Duration) -> Result<Hello, HelloReadError>
where
    R: AsyncRead + Unpin,
{
    timeout(limit, read_all(io))
        .await
        .map_err(|_| HelloReadError::Timeout(limit))?
}

async fn read_all<R>(io: &mut R) -> Result<Hello, HelloReadError>
where
    R: AsyncRead + Unpin,
{
    let mut bytes = Vec::with_capacity(HELLO_USUAL);
    loop {
        let room = HELLO_MAX.saturating_sub(bytes.len()) as u64;
        let read = (&mut *io).take(room).read_buf(&mut bytes).await;
        if read.map_err(HelloReadError::Io)? == 0 {
            return Err(HelloReadError::Closed);
        }
        match client_hello::server_name(&bytes)? {
            Parsed::NeedMore => {}
            Parsed::Name(server_name) => {
                let trace = TraceParent::of_hello(&bytes);
                return Ok(Hello {
                    bytes,
                    server_name,
                    trace,
                });
            }
        }
    }
}

/// Refuses the connection with an alert and ends it.
///
/// # Errors
/// When the connection broke.
pub async fn refuse<W>(io: &mut W, alert: Alert) -> io::Result<()>
where
    W: AsyncWrite + Unpin,
{
    io.write_all(&alert.record()).await?;
    io.shutdown().await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::client_hello;

    const AMPLE: Duration = Duration::from_secs(10);

    #[tokio::test]
    async fn the_name_and_all_bytes_are_kept() {
        let sent = client_hello("web.example");
        let (mut near, mut far) = tokio::io::duplex(100);
        let writing = async { near.write_all(&sent).await.unwrap() };
        let (hello, ()) = tokio::join!(read(&mut far, AMPLE), writing);
        let hello = hello.unwrap();
        assert_eq!(hello.server_name.as_deref(), Some("web.example"));
        assert_eq!(hello.bytes, sent);
    }

    #[tokio::test]
    async fn slow_cut_and_foreign_connections_are_refused() {
        let (mut near, mut far) = tokio::io::duplex(100);
        let slow = read(&mut far, Duration::from_millis(20)).await;
        assert!(matches!(slow, Err(HelloReadError::Timeout(_))));
        near.write_all(b"GET /").await.unwrap();
        let foreign = read(&mut far, AMPLE).await;
        assert!(matches!(
            foreign,
            Err(HelloReadError::Hello(HelloError::NotTls))
        ));
        near.write_all(b"\x16").await.unwrap();
        near.shutdown().await.unwrap();
        let cut = read(&mut far, AMPLE).await;
        assert!(matches!(cut, Err(HelloReadError::Closed)));
        refuse(&mut far, Alert::DecodeError).await.unwrap();
        let mut alert = Vec::new();
        near.read_to_end(&mut alert).await.unwrap();
        assert_eq!(alert, Alert::DecodeError.record());
    }
}
