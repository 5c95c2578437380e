//! The demo's apps: small real servers that know nothing of the mesh.
//!
//! Over HTTP/1.1, HTTP/2 in clear text and gRPC an app answers with what it saw; a WebSocket's messages
//! come back; over TCP it answers each line with one line. `/status/<code>` and `/delay/<ms>` make it
//! misbehave on purpose, and `/__fail?status=<code>&delay=<ms>&places=<n>` makes every later answer do so until
//! `/__fail`. Over gRPC it also says how it is (`grpc.health.v1.Health/Check`).

mod grpc;
mod http;
mod lines;
mod socket;

use std::net::SocketAddr;
use std::sync::Arc;

use serde::Serialize;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::args::DemoAppArgs;
use crate::exit::Failure;

/// The most connections that one listener of an app holds at a time.
const CONNECTIONS_MAX: usize = 4_096;

/// Who answers.
#[derive(Debug, Clone, Serialize)]
struct Card {
    service: String,
    version: String,
    cluster: String,
    region: String,
    instance: String,
}

/// Serves until the process is told to stop.
pub(crate) fn run(args: DemoAppArgs) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::internal(format!("cannot start the app's runtime: {error}")))?;
    let card = Arc::new(Card {
        service: args.service,
        version: args.version,
        cluster: args.cluster,
        region: args.region,
        instance: args.instance,
    });
    runtime.block_on(async move {
        let mut tasks = tokio::task::JoinSet::new();
        for address in args.http {
            tasks.spawn(http::serve(bind(address).await?, Arc::clone(&card)));
        }
        for address in args.tcp {
            tasks.spawn(lines::serve(bind(address).await?, Arc::clone(&card)));
        }
        tokio::select! {
            Some(ended) = tasks.join_next() => {
                Err(Failure::internal(format!("the app's listener ended: {ended:?}")))
            }
            () = crate::daemon::stop_signal() => Ok(()),
        }
    })
}

async fn bind(address: SocketAddr) -> Result<TcpListener, Failure> {
    TcpListener::bind(address).await.map_err(|error| {
        Failure::bind(format!(
            "cannot listen on {address}: {error}; choose another address"
        ))
    })
}

/// Accepts connections for ever, at most [`CONNECTIONS_MAX`] at a time.
async fn accept_each<F>(listener: TcpListener, serve: impl Fn(tokio::net::TcpStream) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, _)) => {
                // Without it small answers wait for the caller's delayed acknowledgement.
                let _gone = stream.set_nodelay(true);
                let connection = serve(stream);
                tokio::spawn(async move {
                    connection.await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "accepting a connection failed");
                tokio::task::yield_now().await;
            }
        }
    }
}
