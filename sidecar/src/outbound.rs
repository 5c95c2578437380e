//! From the app to the mesh: what arrives at the outbound and capture listeners.
//!
//! A connection is read just far enough to see what it speaks. Requests go through [`request`], one
//! by one: facts, then the decisions of `portolan_policy`, then the act ([`call`] in the mesh,
//! [`elsewhere`] outside it), then the record ([`exchange`]). Everything else is bytes, and goes
//! through [`tunnel`].

mod after;
mod call;
mod choice;
mod client;
mod destination;
mod due;
mod elsewhere;
mod exchange;
mod failure;
mod hedge;
pub(crate) mod mirror;
mod opaque;
mod request;
mod routing;
mod tunnel;
mod upgrade;
mod verdict;

#[cfg(test)]
mod fixtures;
#[cfg(test)]
mod tests;

use std::rc::Rc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;

use self::client::Client;
use self::destination::Origin;
use crate::capture;
use crate::http;
use crate::respond;
use crate::sniff::{Spoken, sniff};
use crate::worker::{CLIENTS_MAX, Worker};

/// How long the app may take to say its first bytes.
const FIRST_BYTES_TIMEOUT: Duration = Duration::from_secs(120);
/// The pause after the system refused to accept, for example for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves the outbound listener until the shutdown.
pub(crate) async fn serve(worker: Rc<Worker>, listener: TcpListener) {
    accept_all(&worker, listener, |stream| {
        proxied(Rc::clone(&worker), stream)
    })
    .await;
}

/// Serves the capture listener until the shutdown.
pub(crate) async fn serve_captured(worker: Rc<Worker>, listener: TcpListener) {
    accept_all(&worker, listener, |stream| {
        captured(Rc::clone(&worker), stream)
    })
    .await;
}

async fn accept_all<F>(worker: &Rc<Worker>, listener: TcpListener, serve: impl Fn(TcpStream) -> F)
where
    F: Future<Output = ()> + 'static,
{
    if let Ok(address) = listener.local_addr() {
        worker.note_listener(address);
    }
    let accept = async {
        loop {
            match listener.accept().await {
                Ok((stream, _)) if worker.clients.len() < CLIENTS_MAX => {
                    let connection = Connected::new(worker);
                    let serving = serve(stream);
                    worker.clients.spawn_local(async move {
                        let _connection = connection;
                        serving.await;
                    });
                }
                Ok((stream, client)) => {
                    tracing::warn!(%client, "too many connections from the app: refused one");
                    respond::reset(stream);
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    };
    worker.shutdown.unless_triggered::<()>(accept).await;
}

/// A connection of an app that knows it talks to a proxy.
async fn proxied(worker: Rc<Worker>, stream: TcpStream) {
    let first = sniff(stream, FIRST_BYTES_TIMEOUT);
    let Some(Ok((spoken, stream))) = worker.shutdown.unless_triggered(first).await else {
        return;
    };
    match spoken {
        Spoken::Silence | Spoken::Closed => {}
        // HTTP/1.1's parser answers what is no HTTP.
        Spoken::Http1 | Spoken::Http2 | Spoken::Opaque => {
            serve_requests(&worker, stream, spoken, Origin::Listener).await;
        }
    }
}

/// A connection of an app that knows nothing.
async fn captured(worker: Rc<Worker>, stream: TcpStream) {
    match capture::original_destination(&stream) {
        Ok(address) => tunnel::captured(worker, stream, address).await,
        Err(error) => {
            tracing::warn!(%error, "a captured connection leads nowhere");
            respond::reset(stream);
        }
    }
}

async fn serve_requests<S>(worker: &Rc<Worker>, stream: S, spoken: Spoken, origin: Origin)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let client = Rc::new(Client::new(worker, origin));
    // Boxed, it is copied once; otherwise from place to place within the HTTP library.
    let activity = Rc::clone(&client.activity);
    let answer = move |request| Box::pin(request::handle(Rc::clone(&client), request));
    let bounds = &worker.shared.http.bounds;
    http::serve(stream, spoken, bounds, answer, &activity, &worker.shutdown).await;
}

/// Counts one connection of the app.
struct Connected(prometheus_client::metrics::gauge::Gauge);

impl Connected {
    fn new(worker: &Worker) -> Self {
        let gauge = worker.shared.metrics.clients.clone();
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        self.0.dec();
    }
}
