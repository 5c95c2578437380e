//! Reads and writes the header and the answer of a tunnel, on any stream, within a time limit.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use crate::wire::header::{
    ANSWER_LEN, Answer, BODY_MAX, HeaderError, PREFIX_LEN, StreamHeader, body_len,
};

/// Why a tunnel did not come about.
#[derive(Debug, thiserror::Error)]
pub enum TunnelError {
    /// The other gateway did not write in time.
    #[error("the other gateway said nothing for {0:?}")]
    Timeout(Duration),
    /// The tunnel broke.
    #[error("the tunnel broke before it was established")]
    Io(#[from] io::Error),
    /// The other gateway wrote something else.
    #[error("the other gateway does not speak this protocol")]
    Header(#[from] HeaderError),
}

/// Writes the header and flushes.
///
/// # Errors
/// When the header is out of bounds or the tunnel breaks.
pub async fn write_header<W>(io: &mut W, header: &StreamHeader) -> Result<(), TunnelError>
where
    W: AsyncWrite + Unpin,
{
    io.write_all(&header.encode()?).await?;
    Ok(io.flush().await?)
}

/// Reads the header.
///
/// # Errors
/// When it is malformed, takes longer than `limit`, or the tunnel breaks.
pub async fn read_header<R>(io: &mut R, limit: Duration) -> Result<StreamHeader, TunnelError>
where
    R: AsyncRead + Unpin,
{
    within(limit, async {
        let mut prefix = [0; PREFIX_LEN];
        io.read_exact(&mut prefix).await?;
        let mut body = [0; BODY_MAX];
        let body = &mut body[..body_len(prefix)?];
        io.read_exact(body).await?;
        Ok(StreamHeader::decode_body(body)?)
    })
    .await
}

/// Writes the answer and flushes.
///
/// # Errors
/// When the tunnel breaks.
pub async fn write_answer<W>(io: &mut W, answer: Answer) -> Result<(), TunnelError>
where
    W: AsyncWrite + Unpin,
{
    io.write_all(&answer.encode()).await?;
    Ok(io.flush().await?)
}

/// Reads the answer.
///
/// # Errors
/// When it is malformed, takes longer than `limit`, or the tunnel breaks.
pub async fn read_answer<R>(io: &mut R, limit: Duration) -> Result<Answer, TunnelError>
where
    R: AsyncRead + Unpin,
{
    within(limit, async {
        let mut bytes = [0; ANSWER_LEN];
        io.read_exact(&mut bytes).await?;
        Ok(Answer::decode(bytes)?)
    })
    .await
}

async fn within<T>(
    limit: Duration,
    work: impl Future<Output = Result<T, TunnelError>>,
) -> Result<T, TunnelError> {
    timeout(limit, work)
        .await
        .map_err(|_| TunnelError::Timeout(limit))?
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::sni::SniName;
    use portolan_model::{ClusterName, Reason};

    const SOON: Duration = Duration::from_millis(20);
    const AMPLE: Duration = Duration::from_secs(10);

    #[tokio::test]
    async fn header_and_answer_cross() {
        let (mut near, mut far) = tokio::io::duplex(7);
        let header = StreamHeader {
            target: SniName::parse("control.east.portolan.internal").unwrap(),
            hops: vec![ClusterName::parse("west").unwrap()],
            trace: None,
        };
        let calling = async {
            write_header(&mut near, &header).await.unwrap();
            read_answer(&mut near, AMPLE).await.unwrap()
        };
        let answering = async {
            let read = read_header(&mut far, AMPLE).await.unwrap();
            let answer = Answer::Refused(Reason::Overloaded);
            write_answer(&mut far, answer).await.unwrap();
            read
        };
        let (answer, read) = tokio::join!(calling, answering);
        assert_eq!(read, header);
        assert_eq!(answer, Answer::Refused(Reason::Overloaded));
    }

    #[tokio::test]
    async fn silence_cuts_and_garbage_are_told_apart() {
        let (mut near, mut far) = tokio::io::duplex(64);
        let silent = read_header(&mut far, SOON).await;
        assert!(matches!(silent, Err(TunnelError::Timeout(_))));
        near.write_all(b"GET / HTTP/1.1").await.unwrap();
        let garbage = read_header(&mut far, AMPLE).await;
        assert!(matches!(
            garbage,
            Err(TunnelError::Header(HeaderError::Version(b'G')))
        ));
        drop(far);
        let cut = read_answer(&mut near, AMPLE).await;
        assert!(matches!(cut, Err(TunnelError::Io(_))));
    }
}
