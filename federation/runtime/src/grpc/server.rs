//! Serving gRPC over mutual TLS. A certificate is optional; each service decides who may call.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use portolan_transport::mtls::{self, ClientAuth, ServerConfig, ServerTls, TlsContext};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::service::Routes;
use tonic::transport::Server;
use tonic::transport::server::Connected;

use super::{
    ALPN, CALLS_PER_CONNECTION_MAX, Caller, DRAIN, KEEP_ALIVE_INTERVAL, KEEP_ALIVE_TIMEOUT,
};
use crate::connection::{Connection, Leases};
use crate::shutdown::Shutdown;
use crate::start::{StartError, problem};
use crate::workers::chain;

/// The most connections at a time, handshakes included; further ones wait in the listener's queue.
pub const CONNECTIONS_MAX: usize = 10_000;
/// The most connections at a time whose callers showed no certificate. Anybody who reaches the port
/// can make them, so they must not take the places of those whom we know.
const ANONYMOUS_MAX: usize = 256;
/// How long such a connection may last: it is for asking for a certificate.
const ANONYMOUS_LIFE: Duration = Duration::from_secs(30);
/// The most accepted connections that wait to be served.
const READY_MAX: usize = 64;
/// How long a TLS handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long to wait when the system has no socket left.
const EXHAUSTED_WAIT: Duration = Duration::from_millis(100);

/// Serves `routes` on `listener` until the shutdown. Every request carries its [`Caller`].
///
/// # Errors
/// When serving fails for good.
pub async fn serve(
    listener: TcpListener,
    tls: &TlsContext,
    routes: Routes,
    shutdown: Shutdown,
) -> Result<(), StartError> {
    let anonymous = Leases::new(ANONYMOUS_MAX, ANONYMOUS_LIFE);
    serve_with(listener, tls, routes, anonymous, shutdown).await
}

/// [`serve`] with these bounds for callers without certificate.
pub(super) async fn serve_with(
    listener: TcpListener,
    tls: &TlsContext,
    routes: Routes,
    anonymous: Leases,
    shutdown: Shutdown,
) -> Result<(), StartError> {
    let (ready, connections) = mpsc::channel(READY_MAX);
    let door = Arc::new(Door {
        tls: tls.server_config(ALPN, ClientAuth::Optional),
        anonymous,
        ready,
    });
    let accepting = accept_all(listener, door);
    let incoming = ReceiverStream::new(connections);
    let serving = serve_streams(incoming, routes, &shutdown);
    tokio::select! {
        () = accepting => Ok(()),
        served = serving => served,
    }
}

/// Serves connections of any kind until the shutdown, then lets calls end for a moment.
pub(super) async fn serve_streams<Incoming, Stream>(
    incoming: Incoming,
    routes: Routes,
    shutdown: &Shutdown,
) -> Result<(), StartError>
where
    Incoming: futures_util::Stream<Item = io::Result<Stream>>,
    Stream: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
{
    let serving = Server::builder()
        .http2_keepalive_interval(Some(KEEP_ALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEP_ALIVE_TIMEOUT))
        .http2_adaptive_window(Some(true))
        .max_concurrent_streams(CALLS_PER_CONNECTION_MAX)
        .add_routes(routes)
        .serve_with_incoming_shutdown(incoming, shutdown.triggered());
    let drained = async {
        shutdown.triggered().await;
        tokio::time::sleep(DRAIN).await;
    };
    tokio::select! {
        served = serving => served.map_err(|error| {
            StartError::io("serve", "gRPC", io::Error::other(chain(&error)))
        }),
        () = drained => Ok(()),
    }
}

/// What connections are admitted with.
struct Door {
    tls: Arc<ServerConfig>,
    anonymous: Leases,
    ready: mpsc::Sender<io::Result<Connection<ServerTls, Caller>>>,
}

async fn accept_all(listener: TcpListener, door: Arc<Door>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut handshakes = JoinSet::new();
    while let Ok(place) = Arc::clone(&places).acquire_owned().await {
        while handshakes.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((tcp, _)) => {
                handshakes.spawn(handshake(tcp, Arc::clone(&door), place));
            }
            Err(error) => {
                tracing::warn!(problem = problem(&error), "cannot accept a connection");
                tokio::time::sleep(EXHAUSTED_WAIT).await;
            }
        }
    }
}

async fn handshake(tcp: TcpStream, door: Arc<Door>, place: OwnedSemaphorePermit) {
    // Without it small messages wait for acknowledgements; with it set nothing breaks.
    drop(tcp.set_nodelay(true));
    let remote = tcp.peer_addr().ok();
    match mtls::accept(&door.tls, tcp, HANDSHAKE_TIMEOUT).await {
        Ok(accepted) => {
            let anonymous = accepted.peer.is_none();
            let lease = anonymous.then(|| door.anonymous.lease()).flatten();
            if anonymous && lease.is_none() {
                tracing::debug!(?remote, "too many callers without certificate");
                return;
            }
            let connection = Connection::new(accepted.stream, Caller(accepted.peer))
                .leased(lease)
                .placed(place);
            // Nobody receives any more: the server is stopping.
            drop(door.ready.send(Ok(connection)).await);
        }
        Err(error) => {
            let remote = remote
                .map(|address| address.to_string())
                .unwrap_or_default();
            tracing::debug!(remote, problem = chain(&error), "a TLS handshake failed");
        }
    }
}
