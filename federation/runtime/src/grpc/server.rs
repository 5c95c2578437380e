//! Serving gRPC over mutual TLS. A certificate is optional; each service decides who may call.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use portolan_model::SpiffeId;
use portolan_transport::mtls::{self, ClientAuth, ServerConfig, ServerTls, TlsContext};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
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
use crate::shutdown::Shutdown;
use crate::start::{StartError, problem};
use crate::workers::chain;

/// The most connections at a time, handshakes included; further ones wait in the listener's queue.
pub const CONNECTIONS_MAX: usize = 10_000;
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
    let tls = tls.server_config(ALPN, ClientAuth::Optional);
    let (ready, connections) = mpsc::channel(READY_MAX);
    let accepting = accept_all(listener, tls, ready);
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

async fn accept_all(
    listener: TcpListener,
    tls: Arc<ServerConfig>,
    ready: mpsc::Sender<io::Result<Connection>>,
) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut handshakes = JoinSet::new();
    while let Ok(place) = Arc::clone(&places).acquire_owned().await {
        while handshakes.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((tcp, _)) => {
                let (tls, ready) = (Arc::clone(&tls), ready.clone());
                handshakes.spawn(handshake(tcp, tls, ready, place));
            }
            Err(error) => {
                tracing::warn!(problem = problem(&error), "cannot accept a connection");
                tokio::time::sleep(EXHAUSTED_WAIT).await;
            }
        }
    }
}

async fn handshake(
    tcp: TcpStream,
    tls: Arc<ServerConfig>,
    ready: mpsc::Sender<io::Result<Connection>>,
    place: OwnedSemaphorePermit,
) {
    // Without it small messages wait for acknowledgements; with it set nothing breaks.
    drop(tcp.set_nodelay(true));
    let remote = tcp.peer_addr().ok();
    match mtls::accept(&tls, tcp, HANDSHAKE_TIMEOUT).await {
        Ok(accepted) => {
            let connection = Connection {
                stream: accepted.stream,
                peer: accepted.peer,
                _place: place,
            };
            // Nobody receives any more: the server is stopping.
            drop(ready.send(Ok(connection)).await);
        }
        Err(error) => {
            let remote = remote
                .map(|address| address.to_string())
                .unwrap_or_default();
            tracing::debug!(remote, problem = chain(&error), "a TLS handshake failed");
        }
    }
}

/// An accepted connection, who is at its other end, and its place among [`CONNECTIONS_MAX`].
struct Connection {
    stream: ServerTls,
    peer: Option<SpiffeId>,
    _place: OwnedSemaphorePermit,
}

impl Connected for Connection {
    type ConnectInfo = Caller;

    fn connect_info(&self) -> Caller {
        Caller(self.peer.clone())
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
