//! The load: who calls, how often, and what it saw.

pub(crate) mod bulk;
mod closed;
pub(crate) mod dns;
mod failures;
mod http1;
mod http2;
mod open;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use hdrhistogram::Histogram;
use tokio::task::JoinSet;

pub(crate) use closed::closed;
pub(crate) use open::open;

/// Latencies up to this are told apart, in nanoseconds.
const LATENCY_MAX: u64 = 60_000_000_000;
/// Callers that share one HTTP/2 connection.
const STREAMS: usize = 16;
/// How long a caller may wait for its answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// The same while paths start, when another call may be answered sooner.
const PROBE_PATIENCE: Duration = Duration::from_secs(2);

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
    /// Requests that were not, and why the last one was not.
    pub(crate) failed: u64,
    pub(crate) why: Option<String>,
    /// For how long was counted.
    pub(crate) over: Duration,
    /// How long each took, in nanoseconds.
    pub(crate) latency: Histogram<u64>,
}

impl Seen {
    /// Refuses figures that failures have spoiled.
    pub(crate) fn whole(self) -> Result<Self> {
        match self.why {
            Some(why) => bail!("{} requests failed: {why}", self.failed),
            None => Ok(self),
        }
    }

    /// A percentile of the latency, in microseconds.
    pub(crate) fn microseconds(&self, percentile: f64) -> f64 {
        self.latency.value_at_percentile(percentile) as f64 / 1_000.0
    }
}

/// A caller, one request at a time.
pub(crate) struct Caller {
    entrance: Entrance,
    way: CallerWay,
}

enum CallerWay {
    Http1(http1::Connection),
    Fresh,
    Http2(http2::Stream, Work),
    Dns(dns::Client),
}

impl Caller {
    async fn call(&mut self) -> Result<()> {
        let patience = match self.way {
            CallerWay::Http1(_) | CallerWay::Fresh | CallerWay::Http2(..) => PATIENCE,
            CallerWay::Dns(_) => dns::PATIENCE,
        };
        let calling = async {
            match &mut self.way {
                CallerWay::Http1(connection) => connection.call().await,
                CallerWay::Fresh => {
                    let mut connection = http1::Connection::open(&self.entrance).await?;
                    connection.call().await?;
                    connection.reset()
                }
                CallerWay::Http2(stream, _) => stream.call().await,
                CallerWay::Dns(client) => client.call().await,
            }
        };
        match tokio::time::timeout(patience, calling).await {
            Ok(called) => called,
            Err(_) => bail!("no answer within {} s", patience.as_secs()),
        }
    }

    /// Gets ready for the next call after one that failed.
    async fn recover(&mut self) -> Result<()> {
        match &mut self.way {
            CallerWay::Http1(connection) => {
                *connection = http1::Connection::open(&self.entrance).await?;
            }
            CallerWay::Http2(stream, work) => {
                *stream = http2::Stream::open(&self.entrance, *work == Work::Grpc).await?;
            }
            CallerWay::Fresh | CallerWay::Dns(_) => {}
        }
        Ok(())
    }
}

/// Connects `count` callers.
pub(crate) async fn callers(entrance: &Entrance, work: Work, count: usize) -> Result<Vec<Caller>> {
    let mut callers = Vec::with_capacity(count);
    let caller = |way| Caller {
        entrance: entrance.clone(),
        way,
    };
    match work {
        Work::Http1 => {
            // All at once: one after the other takes long where the origin is far away.
            let mut opening = JoinSet::new();
            for _ in 0..count {
                let entrance = entrance.clone();
                opening.spawn_local(async move { http1::Connection::open(&entrance).await });
            }
            while let Some(opened) = opening.join_next().await {
                callers.push(caller(CallerWay::Http1(opened??)));
            }
        }
        Work::Fresh => callers.resize_with(count, || caller(CallerWay::Fresh)),
        Work::Http2 | Work::Grpc => {
            while callers.len() < count {
                let share = STREAMS.min(count - callers.len());
                let connection = http2::Stream::open(entrance, work == Work::Grpc).await?;
                callers
                    .extend((0..share).map(|_| caller(CallerWay::Http2(connection.clone(), work))));
            }
        }
    }
    Ok(callers)
}

/// Callers that ask a name server for the same names, each from another one on.
pub(crate) async fn askers(
    server: SocketAddr,
    names: &[String],
    count: usize,
) -> Result<Vec<Caller>> {
    let queries = dns::queries(names)?;
    let mut callers = Vec::with_capacity(count);
    for number in 0..count {
        let client = dns::Client::open(server, &queries, number).await?;
        callers.push(Caller {
            entrance: Entrance {
                address: server,
                host: String::new(),
            },
            way: CallerWay::Dns(client),
        });
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

/// Asks for every name once.
pub(crate) async fn ask(server: SocketAddr, names: &[String]) -> Result<()> {
    for mut caller in askers(server, names, 1).await? {
        for _ in names {
            caller.call().await?;
        }
    }
    Ok(())
}

/// How long the first call on a new connection takes, and each of `more` on the same.
pub(crate) async fn first(entrance: &Entrance, more: usize) -> Result<(Duration, Vec<Duration>)> {
    let calling = async {
        let begun = Instant::now();
        let mut connection = http1::Connection::open(entrance).await?;
        connection.call().await?;
        let first = begun.elapsed();
        let mut later = Vec::new();
        for _ in 0..more {
            let begun = Instant::now();
            connection.call().await?;
            later.push(begun.elapsed());
        }
        Ok((first, later))
    };
    match tokio::time::timeout(PATIENCE, calling).await {
        Ok(called) => called,
        Err(_) => bail!("no answer within {} s", PATIENCE.as_secs()),
    }
}

/// One call, to see whether the path works.
pub(crate) async fn probe(entrance: &Entrance, work: Work) -> Result<()> {
    let calling = async {
        for mut caller in callers(entrance, work, 1).await? {
            caller.call().await?;
        }
        Ok(())
    };
    match tokio::time::timeout(PROBE_PATIENCE, calling).await {
        Ok(called) => called,
        Err(_) => bail!("no answer within {} s", PROBE_PATIENCE.as_secs()),
    }
}
