//! Bytes in one direction: the first byte says which, eight more how many or for how many milliseconds.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::WriteHalf;

/// One write or read, in bytes.
const CHUNK: usize = 256 * 1024;
const UP: u8 = b'U';
const DOWN: u8 = b'D';
const UP_FOR: u8 = b'u';
const DOWN_FOR: u8 = b'd';
/// How long the origin goes on for a caller that should have gone, in case it is slow to.
const AFTER: Duration = Duration::from_secs(10);

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
    let mut stream = open(entrance).await?;
    let begun = Instant::now();
    order(&mut stream, if way == Way::Up { UP } else { DOWN }, bytes).await?;
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

/// Moves as much as there is time for; returns bytes per second, as they arrive after `warm`, over
/// `measured`.
pub(crate) async fn flow(
    entrance: &BulkEntrance,
    way: Way,
    window: (Duration, Duration),
) -> Result<f64> {
    let mut stream = open(entrance).await?;
    let bytes = match way {
        Way::Up => {
            order(&mut stream, UP_FOR, milliseconds(window.0)).await?;
            stream.write_u64(milliseconds(window.1)).await?;
            let (mut reader, mut writer) = stream.split();
            tokio::select! {
                answer = reader.read_u64() => answer.context("the origin did not say how much arrived")?,
                sent = send_to(&mut writer, u64::MAX) => {
                    sent?;
                    bail!("the origin never had enough");
                }
            }
        }
        Way::Down => {
            order(&mut stream, DOWN_FOR, milliseconds(window.0 + window.1)).await?;
            count(&mut stream, window).await?
        }
    };
    // What is still under way is for nobody.
    stream.set_zero_linger()?;
    Ok(bytes as f64 / window.1.as_secs_f64())
}

/// Opens connections that have carried a byte each way, and then nothing.
pub(crate) async fn idle(entrance: &BulkEntrance, count: usize) -> Result<Vec<TcpStream>> {
    let mut streams = Vec::with_capacity(count);
    for _ in 0..count {
        let mut stream = open(entrance).await?;
        order(&mut stream, UP, 1).await?;
        stream.write_u8(0).await?;
        stream
            .read_u8()
            .await
            .context("the origin did not confirm")?;
        streams.push(stream);
    }
    Ok(streams)
}

async fn open(entrance: &BulkEntrance) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(entrance.address)
        .await
        .with_context(|| format!("cannot connect to {}", entrance.address))?;
    stream.set_nodelay(true)?;
    if let Some(target) = &entrance.connect {
        promise(&mut stream, target).await?;
    }
    Ok(stream)
}

async fn order(stream: &mut TcpStream, what: u8, how_much: u64) -> Result<()> {
    let mut order = vec![what];
    order.extend(how_much.to_be_bytes());
    Ok(stream.write_all(&order).await?)
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// The origin's part.
pub(crate) async fn answer(mut stream: TcpStream) {
    let serve = async {
        loop {
            // A probe connects and says nothing.
            let Ok(way) = stream.read_u8().await else {
                return Ok(());
            };
            let much = stream.read_u64().await?;
            let time = Duration::from_millis(much);
            match way {
                UP => {
                    take(&mut stream, much).await?;
                    stream.write_u8(way).await?;
                }
                UP_FOR => {
                    let measured = Duration::from_millis(stream.read_u64().await?);
                    let arrived = count(&mut stream, (time, measured)).await?;
                    stream.write_u64(arrived).await?;
                    take(&mut stream, u64::MAX).await?;
                }
                DOWN_FOR => {
                    let longest = time + AFTER;
                    tokio::time::timeout(longest, send(&mut stream, u64::MAX)).await??;
                }
                _ => send(&mut stream, much).await?,
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
    send_to(&mut stream.split().1, bytes).await
}

async fn send_to(stream: &mut WriteHalf<'_>, bytes: u64) -> Result<()> {
    let chunk = vec![b'x'; CHUNK];
    let mut left = bytes;
    while left > 0 {
        let size = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
        stream.write_all(&chunk[..size]).await?;
        left -= size as u64;
    }
    Ok(())
}

/// How many bytes arrive within `measured` after `warm`.
async fn count(stream: &mut TcpStream, (warm, measured): (Duration, Duration)) -> Result<u64> {
    let begun = tokio::time::Instant::now();
    let (from, to) = (begun + warm, begun + warm + measured);
    let mut chunk = vec![0; CHUNK];
    let mut arrived = 0;
    while let Ok(read) = tokio::time::timeout_at(to, stream.read(&mut chunk)).await {
        let count = read?;
        if count == 0 {
            bail!("the connection was closed before its time");
        }
        if tokio::time::Instant::now() >= from {
            arrived += count as u64;
        }
    }
    Ok(arrived)
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
