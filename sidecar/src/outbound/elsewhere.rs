//! Hosts outside the mesh: passed on unchanged, as any forward proxy would.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use http::{Request, Response, Version, request};
use portolan_model::refusal::ERROR_HEADER;
use portolan_model::{Hop, Reason, Refusal};
use portolan_policy::route::Timeouts;
use portolan_runtime::workers::chain;
use portolan_transport::listen;
use tokio::net::{TcpStream, lookup_host};
use tokio::task::spawn_local;
use tokio::time::timeout;

use super::call::Answer;
use super::destination::Host;
use super::exchange::{Exchange, Held};
use super::request::limits;
use super::upgrade::send_http1;
use crate::http::{
    IncomingBody, OutBody, Reach, Replay, SendError, framing_is_clear, http2_handshake,
};
use crate::worker::Worker;

/// How long resolving a name, and then connecting to each of its addresses, may take.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(5);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Addresses of one name that are tried.
const ADDRESSES_MAX: usize = 4;
/// How long an answer's head may take: as long as the app itself would wait.
const HEAD_TIMEOUT: Duration = Duration::from_secs(300);

/// Passes a request on.
///
/// # Errors
/// When the host cannot be reached, or does not answer.
pub(super) async fn forward(
    worker: &Rc<Worker>,
    host: &Host,
    head: request::Parts,
    replay: &Replay,
    upgrades: bool,
    exchange: &mut Exchange,
) -> Result<Answer, Refusal> {
    let (stream, address) = connect(worker, host).await?;
    exchange.entry.upstream = address.to_string();
    exchange.entry.tries = 1;
    let body = replay.body();
    let sending = async {
        if head.version == Version::HTTP_2 && !upgrades {
            send_http2(stream, head, body)
                .await
                .map_err(|error| chain(&error))
        } else {
            send_http1(worker, stream, head, body)
                .await
                .map(|response| response.map(IncomingBody::from))
                .map_err(|error| chain(&error))
        }
    };
    let sent = timeout(HEAD_TIMEOUT, Box::pin(sending)).await;
    let refuse = |reason, why: String| Refusal::new(reason, Hop::Outbound, why);
    let answered =
        sent.map_err(|_| refuse(Reason::Timeout, format!("{} does not answer", host.name)))?;
    let mut response =
        answered.map_err(|error| refuse(Reason::Reset, format!("{}: {}", host.name, error)))?;
    if response.version() < Version::HTTP_2 && !framing_is_clear(response.headers()) {
        let why = format!("{} does not say clearly where its answer ends", host.name);
        return Err(refuse(Reason::Reset, why));
    }
    // Only proxies of the mesh speak for it.
    response.headers_mut().remove(ERROR_HEADER);
    Ok(Answer {
        response,
        limits: limits(&Timeouts::default(), None),
        target: None,
        held: Held::default(),
    })
}

/// Connects to a host outside the mesh.
///
/// # Errors
/// When it has no address, or none that accepts connections.
pub(super) async fn connect(
    worker: &Worker,
    host: &Host,
) -> Result<(TcpStream, SocketAddr), Refusal> {
    let refuse = |reason, why: String| Refusal::new(reason, Hop::Outbound, why);
    let name = host.name.trim_start_matches('[').trim_end_matches(']');
    let resolving = timeout(RESOLVE_TIMEOUT, lookup_host((name, host.port)));
    let addresses = resolving
        .await
        .map_err(|_| refuse(Reason::Timeout, format!("resolving `{name}` took too long")))?
        .map_err(|error| refuse(Reason::NoRoute, format!("`{name}` has no address: {error}")))?;
    let mut problem = format!("`{name}` has no address");
    for address in addresses.take(ADDRESSES_MAX) {
        if worker.listens_on(address) {
            let why = format!(
                "`{address}` is this sidecar itself: it passes requests on, to the host that they name; \
                 use it as a proxy, as in `curl -x http://{address} http://orders.shop.global/`, or \
                 send the header `host: orders.shop.global`"
            );
            return Err(refuse(Reason::BadRequest, why));
        }
        match listen::connect(address, CONNECT_TIMEOUT).await {
            Ok(stream) => return Ok((stream, address)),
            Err(error) => problem = format!("{address}: {error}"),
        }
    }
    Err(refuse(Reason::ConnectFailed, problem))
}

async fn send_http2(
    stream: TcpStream,
    mut head: request::Parts,
    body: OutBody,
) -> Result<Response<IncomingBody>, SendError> {
    head.extensions.clear();
    let (requests, driver) = http2_handshake(stream, Reach::Far)
        .await
        .map_err(SendError::Unsent)?;
    spawn_local(async move {
        if let Err(error) = driver.await {
            tracing::debug!(error = chain(&error), "a connection of one request ended");
        }
    });
    requests.send(Request::from_parts(head, body)).await
}
