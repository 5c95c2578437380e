//! Bytes in one direction: the first byte says which, eight more how many.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// One write or read, in bytes.
const CHUNK: usize = 256 * 1024;
const UP: u8 = b'U';
const DOWN: u8 = b'D';

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// From the caller to the origin.
    Up,
    /// From the origin to the caller.
    Down,
}

/// What opens the way: a CONNECT for a proxy, nothing for a plain address.
pub(crate) struct BulkEntrance {
    pub(crate) address: SocketAddr,
    pub(crate) connect: Option<String>,
}

/// Moves `bytes`, and tells how long it took.
pub(crate) async fn carry(entrance: &BulkEntrance, way: Way, bytes: u64) -> Result<Duration> {
    let mut stream = TcpStream::connect(entrance.address)
        .await
        .with_context(|| format!("cannot connect to {}", entrance.address))?;
    stream.set_nodelay(true)?;
    if let Some(target) = &entrance.connect {
        promise(&mut stream, target).await?;
    }
    let begun = Instant::now();
    let mut order = vec![if way == Way::Up { UP } else { DOWN }];
    order.extend(bytes.to_be_bytes());
    stream.write_all(&order).await?;
    match way {
        Way::Up => {
            send(&mut stream, bytes).await?;
            // The origin says when it has it all.
            stream
                .read_u8()
                .await
                .context("the origin did not confirm")?;
        }
        Way::Down => take(&mut stream, bytes).await?,
    }
    Ok(begun.elapsed())
}

/// The origin's part.
pub(crate) async fn answer(mut stream: TcpStream) {
    let serve = async {
        loop {
            // A probe connects and says nothing.
            let Ok(way) = stream.read_u8().await else {
                return Ok(());
            };
            let bytes = stream.read_u64().await?;
            if way == UP {
                take(&mut stream, bytes).await?;
                stream.write_u8(way).await?;
            } else {
                send(&mut stream, bytes).await?;
            }
        }
    };
    // A caller that goes away is none of our concern.
    let _ended: Result<()> = serve.await;
}

async fn promise(stream: &mut TcpStream, target: &str) -> Result<()> {
    let request = format!("CONNECT {target} HTTP/1.1\r\nhost: {target}\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.context("CONNECT was not answered")?);
    }
    if !head.starts_with(b"HTTP/1.1 200") {
        bail!("CONNECT was refused: {}", String::from_utf8_lossy(&head));
    }
    Ok(())
}

async fn send(stream: &mut TcpStream, bytes: u64) -> Result<()> {
    let chunk = vec![b'x'; CHUNK];
    let mut left = bytes;
    while left > 0 {
        let size = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
        stream.write_all(&chunk[..size]).await?;
        left -= size as u64;
    }
    Ok(())
}

async fn take(stream: &mut TcpStream, bytes: u64) -> Result<()> {
    let mut chunk = vec![0; CHUNK];
    let mut left = bytes;
    while left > 0 {
        let count = stream.read(&mut chunk).await?;
        if count == 0 {
            bail!("the connection was closed with {left} bytes to come");
        }
        left = left.saturating_sub(count as u64);
    }
    Ok(())
}
