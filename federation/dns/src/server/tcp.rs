//! Queries over connections.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::{Reply, Responder};
use crate::error::DnsError;
use crate::forward::framed;
use crate::message::Transport;

/// The most connections at once, per address; more are closed at once.
const CONNECTIONS_MAX: usize = 256;
/// How long a client may take to send its next query, or to take a reply.
const IDLE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection may live, so that nobody occupies a place for ever.
const LIFE_MAX: Duration = Duration::from_secs(120);
/// The longest query that is read.
const QUERY_BYTES_MAX: usize = 4096;
/// How many accept errors in a row mean that the socket is beyond hope: a flood that takes all file
/// descriptors for a minute is not.
const ERRORS_MAX: usize = 6_000;
/// Accepting fails while file descriptors are short: asking again at once would only burn time.
const ERROR_PAUSE: Duration = Duration::from_millis(50);

pub(super) async fn serve(
    address: SocketAddr,
    listener: TcpListener,
    responder: Arc<Responder>,
) -> Result<(), DnsError> {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    let mut errors = 0;
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _client)) => stream,
            Err(source) => {
                errors += 1;
                if errors > ERRORS_MAX {
                    return Err(DnsError::Serve { address, source });
                }
                sleep(ERROR_PAUSE).await;
                continue;
            }
        };
        errors = 0;
        while connections.try_join_next().is_some() {}
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            continue;
        };
        let responder = Arc::clone(&responder);
        connections.spawn(async move {
            let _place = place;
            // Whatever ends a connection is the client's business.
            let _ended = timeout(LIFE_MAX, converse(stream, &responder)).await;
        });
    }
}

/// One query after the other: a client cannot occupy us with more than one at a time.
async fn converse(mut stream: TcpStream, responder: &Responder) -> io::Result<()> {
    loop {
        let query = timeout(IDLE_TIMEOUT, read_query(&mut stream)).await??;
        let arrived = Instant::now();
        let reply = match responder.respond(&query, Transport::Tcp, arrived) {
            Reply::Silence => return Ok(()),
            Reply::Ready(reply) => reply,
            Reply::Forward(asked) => responder.forward(&query, &asked, arrived).await,
        };
        timeout(IDLE_TIMEOUT, stream.write_all(&framed(&reply))).await??;
    }
}

async fn read_query(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let length = usize::from(stream.read_u16().await?);
    if length > QUERY_BYTES_MAX {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut query = vec![0; length];
    stream.read_exact(&mut query).await?;
    Ok(query)
}
