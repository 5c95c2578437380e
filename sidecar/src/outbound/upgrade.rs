//! Requests that change protocols, as WebSocket does: each has a connection of its own, and both
//! ends' bytes are carried once the upstream agrees.

use std::rc::Rc;
use std::time::Duration;

use http::{Request, Response, StatusCode, request};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::upgrade::{OnUpgrade, on as upgrade_of};
use hyper_util::rt::TokioIo;
use portolan_model::Reason;
use portolan_policy::retry::Outcome;
use portolan_runtime::workers::chain;
use portolan_transport::mtls::ALPN_HTTP1;
use portolan_transport::pipe;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::spawn_local;
use tokio::time::Instant;

use super::call::Call;
use super::failure::Failure;
use crate::http::{OutBody, origin_form};
use crate::upstreams::Target;
use crate::worker::Worker;

/// How long a connection that changed protocols may be silent.
const TUNNEL_IDLE: Duration = Duration::from_secs(3600);

/// Sends the request on a connection of its own.
///
/// # Errors
/// When there is no answer.
pub(super) async fn send(
    call: &Call<'_>,
    target: &Target,
    patience: Duration,
) -> Result<Response<Incoming>, Failure> {
    let begun = Instant::now();
    let dialler = call.worker.upstreams.dialler();
    let config = dialler.config(target, ALPN_HTTP1);
    let dialled = dialler.dial(target, &config, patience).await?;
    let body = call.request.replay.body();
    // Boxed: it is large, and every request's future would have to hold it.
    let sending = Box::pin(send_http1(call.worker, dialled.stream, call.head(), body));
    call.until_head(begun, async {
        sending.await.map_err(|error| {
            let why = format!("{target}: {}", chain(&error));
            Failure::refused(Outcome::ResetBeforeResponse, Reason::Reset, why)
        })
    })
    .await
}

/// Sends a request in HTTP/1.1 on a fresh connection. If the answer is that the protocol changes,
/// carries the bytes from then on.
///
/// # Errors
/// When the connection ends before the answer.
pub(super) async fn send_http1<S>(
    worker: &Rc<Worker>,
    stream: S,
    mut head: request::Parts,
    body: OutBody,
) -> Result<Response<Incoming>, hyper::Error>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let client = head.extensions.remove::<OnUpgrade>();
    head.extensions.clear();
    origin_form(&mut head);
    let (mut sender, driver) = http1::handshake(TokioIo::new(stream)).await?;
    spawn_local(async move {
        if let Err(error) = driver.with_upgrades().await {
            tracing::debug!(error = chain(&error), "a connection of one request ended");
        }
    });
    let mut response = sender.send_request(Request::from_parts(head, body)).await?;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS
        && let Some(client) = client
    {
        worker
            .clients
            .spawn_local(splice(client, upgrade_of(&mut response)));
    }
    Ok(response)
}

async fn splice(client: OnUpgrade, upstream: OnUpgrade) {
    let (Ok(client), Ok(upstream)) = tokio::join!(client, upstream) else {
        return;
    };
    let end = pipe::copy_both(TokioIo::new(client), TokioIo::new(upstream), TUNNEL_IDLE).await;
    tracing::debug!(sent = end.sent, received = end.received, ended = ?end.ended, "upgraded connection ended");
}
