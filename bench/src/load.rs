//! The load: who calls, how often, and what it saw.

pub(crate) mod bulk;
mod closed;
mod http1;
mod http2;
mod open;

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, bail};
use hdrhistogram::Histogram;

pub(crate) use closed::closed;
pub(crate) use open::open;

/// Latencies up to this are told apart, in nanoseconds.
const LATENCY_MAX: u64 = 60_000_000_000;
/// Callers that share one HTTP/2 connection.
const STREAMS: usize = 16;
/// How long a caller may wait for its answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// Where a path begins, and what is asked for there.
#[derive(Debug, Clone)]
pub(crate) struct Entrance {
    pub(crate) address: SocketAddr,
    pub(crate) host: String,
}

/// What callers speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Work {
    /// HTTP/1.1, each caller on a connection that is kept
    Http1,
    /// HTTP/1.1, a new connection for each request
    Fresh,
    /// HTTP/2, sixteen callers on each connection
    Http2,
    /// Unary gRPC calls of 100 bytes, sixteen callers on each connection
    Grpc,
}

/// What callers saw.
pub(crate) struct Seen {
    /// Requests answered.
    pub(crate) answered: u64,
    /// For how long was counted.
    pub(crate) over: Duration,
    /// How long each took, in nanoseconds.
    pub(crate) latency: Histogram<u64>,
}

/// A caller, one request at a time.
enum Caller {
    Http1(http1::Connection),
    Fresh(Entrance),
    Http2(http2::Stream),
}

impl Caller {
    async fn call(&mut self) -> Result<()> {
        let calling = async {
            match self {
                Self::Http1(connection) => connection.call().await,
                Self::Fresh(entrance) => {
                    let mut connection = http1::Connection::open(entrance).await?;
                    connection.call().await?;
                    connection.reset()
                }
                Self::Http2(stream) => stream.call().await,
            }
        };
        match tokio::time::timeout(PATIENCE, calling).await {
            Ok(called) => called,
            Err(_) => bail!("no answer within {} s", PATIENCE.as_secs()),
        }
    }
}

/// Connects `count` callers.
async fn callers(entrance: &Entrance, work: Work, count: usize) -> Result<Vec<Caller>> {
    let mut callers = Vec::with_capacity(count);
    match work {
        Work::Http1 => {
            for _ in 0..count {
                callers.push(Caller::Http1(http1::Connection::open(entrance).await?));
            }
        }
        Work::Fresh => callers.resize_with(count, || Caller::Fresh(entrance.clone())),
        Work::Http2 | Work::Grpc => {
            while callers.len() < count {
                let share = STREAMS.min(count - callers.len());
                let connection = http2::Stream::open(entrance, work == Work::Grpc).await?;
                callers.extend((0..share).map(|_| Caller::Http2(connection.clone())));
            }
        }
    }
    Ok(callers)
}

fn histogram() -> Result<Histogram<u64>> {
    Ok(Histogram::new_with_bounds(1_000, LATENCY_MAX, 3)?)
}

fn record(latency: &mut Histogram<u64>, took: Duration) {
    let nanoseconds = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
    latency.saturating_record(nanoseconds);
}

/// One call, to see whether the path works.
pub(crate) async fn probe(entrance: &Entrance) -> Result<()> {
    let mut connection = http1::Connection::open(entrance).await?;
    match tokio::time::timeout(Duration::from_secs(2), connection.call()).await {
        Ok(called) => called,
        Err(_) => bail!("no answer"),
    }
}
