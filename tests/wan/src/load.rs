//! `load`: requests at a fixed rate, each counted.
//!
//! A request is due at its own moment, whether or not those before it were answered, and its latency
//! counts from then: a stalled system cannot hide by slowing its callers down.

use std::error::Error;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use clap::Parser;
use http::uri::PathAndQuery;
use http::{Method, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use portolan_wan::outcome::Outcome;

/// Requests without an answer at a time; what comes on top fails here.
const OPEN_MAX: usize = 8_192;
/// Outcomes that wait to be printed.
const OUTCOMES_MAX: usize = 1_024;
const HTTP_PORT: u16 = 80;
/// The largest answer, in bytes.
const ANSWER_MAX: usize = 1 << 20;

/// Sends requests until its standard input ends, waits for the last answers, and prints one JSON line for
/// each request.
#[derive(Parser, Clone)]
struct Arguments {
    /// The HTTP proxy to call through. Without it the URL's host is asked for by name and called, as by a
    /// program that knows of no proxy.
    #[arg(long)]
    proxy: Option<SocketAddr>,
    #[arg(long)]
    url: Uri,
    #[arg(long, default_value = "GET")]
    method: Method,
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    per_second: u32,
    /// When a request without an answer has failed, in seconds.
    #[arg(long, default_value_t = 20)]
    patience: u64,
}

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let ended = runtime.and_then(|runtime| runtime.block_on(run(Arguments::parse())));
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _nobody_reads = writeln!(io::stderr(), "load: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> io::Result<()> {
    let (outcomes, mut printed) = mpsc::channel::<Outcome>(OUTCOMES_MAX);
    let printer = tokio::spawn(async move {
        while let Some(outcome) = printed.recv().await {
            let line = serde_json::to_string(&outcome)?;
            writeln!(io::stdout().lock(), "{line}")?;
        }
        io::Result::Ok(())
    });
    let mut open = JoinSet::new();
    let stop = input_ends();
    tokio::pin!(stop);
    let begin = Instant::now();
    let begin_us = unix_us();
    for number in 0_u32.. {
        let due = Duration::from_secs_f64(f64::from(number) / f64::from(arguments.per_second));
        tokio::select! {
            () = &mut stop => break,
            () = tokio::time::sleep_until(begin + due) => {}
        }
        while open.try_join_next().is_some() {}
        let at_us = begin_us + u64::try_from(due.as_micros()).unwrap_or(u64::MAX);
        let full = open.len() >= OPEN_MAX;
        let (arguments, outcomes) = (arguments.clone(), outcomes.clone());
        open.spawn(async move {
            let answer = if full {
                Err("too many requests without an answer".to_owned())
            } else {
                send(&arguments).await
            };
            let took = (begin.elapsed().saturating_sub(due)).as_micros();
            let took_us = u64::try_from(took).unwrap_or(u64::MAX);
            let _printer_ended = outcomes.send(Outcome::new(at_us, took_us, answer)).await;
        });
    }
    while open.join_next().await.is_some() {}
    drop(outcomes);
    printer.await.map_err(io::Error::other)?
}

async fn input_ends() {
    let mut buffer = [0; 64];
    let mut input = tokio::io::stdin();
    while input.read(&mut buffer).await.is_ok_and(|bytes| bytes > 0) {}
}

fn unix_us() -> u64 {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(now.as_micros()).unwrap_or(u64::MAX)
}

/// The cluster that answered.
async fn send(arguments: &Arguments) -> Result<String, String> {
    let patience = Duration::from_secs(arguments.patience);
    tokio::time::timeout(patience, exchange(arguments))
        .await
        .unwrap_or_else(|_| Err(format!("no answer in {} s", arguments.patience)))
}

async fn exchange(arguments: &Arguments) -> Result<String, String> {
    let stream = connect(arguments).await.map_err(|error| chain(&error))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| chain(&error))?;
    let driver = tokio::spawn(connection);
    let authority = arguments.url.authority().map(ToString::to_string);
    // Only a proxy is told the whole URL.
    let target = match arguments.proxy {
        Some(_) => arguments.url.to_string(),
        None => arguments
            .url
            .path_and_query()
            .map_or("/", PathAndQuery::as_str)
            .to_owned(),
    };
    let request = http::Request::builder()
        .method(arguments.method.clone())
        .uri(target)
        .header(http::header::HOST, authority.unwrap_or_default())
        .body(Full::<Bytes>::default())
        .map_err(|error| chain(&error))?;
    let response = sender
        .send_request(request)
        .await
        .map_err(|error| chain(&error))?;
    let status = response.status();
    let refusal = response
        .headers()
        .get("x-portolan-error")
        .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    let body = Limited::new(response.into_body(), ANSWER_MAX)
        .collect()
        .await
        .map_err(|error| chain(error.as_ref()))?
        .to_bytes();
    driver.abort();
    if !status.is_success() {
        return Err(format!(
            "{}: {}",
            status.as_u16(),
            refusal.unwrap_or_default()
        ));
    }
    let answer: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
    Ok(answer["cluster"].as_str().unwrap_or("?").to_owned())
}

async fn connect(arguments: &Arguments) -> io::Result<TcpStream> {
    if let Some(proxy) = arguments.proxy {
        return TcpStream::connect(proxy).await;
    }
    let host = arguments.url.host().unwrap_or_default();
    let port = arguments.url.port_u16().unwrap_or(HTTP_PORT);
    TcpStream::connect((host, port)).await
}

/// What an error says, and those that caused it.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}
