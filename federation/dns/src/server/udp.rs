//! Queries in datagrams.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::UdpSocket;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::{Reply, Responder};
use crate::error::DnsError;
use crate::message::Transport;

/// The longest query that is read; longer ones are cut and so refused.
const QUERY_BYTES_MAX: usize = 4096;
/// How many receive errors in a row mean that the socket is beyond hope.
const ERRORS_MAX: usize = 1_000;
/// Receiving fails while memory is short: asking again at once would only burn time, and the patience.
const ERROR_PAUSE: Duration = Duration::from_millis(10);

/// Answers from memory in place; only forwarded queries need tasks, which the forwarder bounds.
pub(super) async fn serve(
    address: SocketAddr,
    socket: UdpSocket,
    responder: Arc<Responder>,
) -> Result<(), DnsError> {
    let socket = Arc::new(socket);
    let mut waiting = JoinSet::new();
    let mut buffer = vec![0; QUERY_BYTES_MAX];
    let mut errors = 0;
    loop {
        let (length, client) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
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
        let arrived = Instant::now();
        while waiting.try_join_next().is_some() {}
        match responder.respond(&buffer[..length], Transport::Udp, arrived) {
            Reply::Silence => {}
            Reply::Ready(reply) => send(&socket, &reply, client).await,
            Reply::Forward(asked) => {
                let query = buffer[..length].to_vec();
                let (socket, responder) = (Arc::clone(&socket), Arc::clone(&responder));
                waiting.spawn(async move {
                    let reply = responder.forward(&query, &asked, arrived).await;
                    send(&socket, &reply, client).await;
                });
            }
        }
    }
}

/// A reply that cannot be sent is as good as lost on the way: the client asks again.
async fn send(socket: &UdpSocket, reply: &[u8], client: SocketAddr) {
    if let Err(error) = socket.send_to(reply, client).await {
        tracing::debug!(%client, %error, "a DNS reply could not be sent");
    }
}
