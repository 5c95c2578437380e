//! Connections of other sidecars: their handshake, and who serves them.

use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use portolan_model::{Hop, Reason, Refusal};
use portolan_transport::hello;
use portolan_transport::mtls::{self, ALPN_H2, ALPN_HTTP1, ALPN_TCP, ClientAuth};
use portolan_transport::wire::alert::Alert;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::spawn_local;
use tokio::time::{sleep, timeout};

use super::replay::Replay;
use super::{
    ACCEPT_PAUSE, Arrival, CONNECTIONS_MAX, HANDSHAKE_TIMEOUT, Shared, Worker, http, judge, opaque,
};
use crate::sessions::{Facts, Open};

/// Accepts connections for ever, at most [`CONNECTIONS_MAX`] at a time.
pub(super) async fn accept_all(worker: &Rc<Worker>, listener: &TcpListener) {
    let protocols = [ALPN_H2, ALPN_HTTP1, ALPN_TCP];
    let config = worker
        .shared
        .tls
        .server_config(&protocols, ClientAuth::Required);
    loop {
        let (stream, from) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let handshakes = Rc::strong_count(&worker.handshakes) - 1;
        if handshakes + worker.sessions.len() >= CONNECTIONS_MAX {
            let why = format!("{CONNECTIONS_MAX} connections are open");
            worker.refuse(&Refusal::new(Reason::Overloaded, Hop::Inbound, why));
            continue;
        }
        let handshake = Rc::clone(&worker.handshakes);
        let (worker, config) = (Rc::clone(worker), Arc::clone(&config));
        spawn_local(async move {
            let accepted = accept(&worker, &config, stream, from.ip().to_canonical()).await;
            drop(handshake);
            match accepted {
                Ok(caller) => caller.serve(worker).await,
                Err(refusal) => worker.refuse(&refusal),
            }
        });
    }
}

/// A caller whose handshake is done.
struct Caller {
    session: Open,
    from: IpAddr,
    stream: mtls::ServerTls<Replay<TcpStream>>,
    alpn: Option<Vec<u8>>,
}

/// Reads the ClientHello, refuses names that are not for this workload, and shakes hands.
async fn accept(
    worker: &Worker,
    config: &Arc<mtls::ServerConfig>,
    mut stream: TcpStream,
    from: IpAddr,
) -> Result<Caller, Refusal> {
    let refuse = |reason, why: String| Refusal::new(reason, Hop::Inbound, why);
    if let Err(error) = stream.set_nodelay(true) {
        return Err(refuse(Reason::Internal, error.to_string()));
    }
    let hello = hello::read(&mut stream, HANDSHAKE_TIMEOUT)
        .await
        .map_err(|error| refuse(Reason::BadRequest, error.to_string()))?;
    let Shared {
        cluster, workload, ..
    } = &worker.shared;
    let snapshot = worker.shared.snapshot.load_full();
    let name = hello.server_name.as_deref();
    let target = judge::target(&snapshot, cluster, workload, name);
    let port = match target.and_then(|port| worker.alive(port)) {
        Ok(port) => port,
        Err(refusal) => {
            let alert = Alert::for_reason(refusal.reason);
            // The caller may be gone, and then needs no answer.
            let _ = timeout(HANDSHAKE_TIMEOUT, hello::refuse(&mut stream, alert)).await;
            return Err(refusal);
        }
    };
    let stream = Replay::new(hello.bytes, stream);
    let accepted = mtls::accept(config, stream, HANDSHAKE_TIMEOUT)
        .await
        .map_err(|error| refuse(error.reason(), error.to_string()))?;
    let mtls::Accepted {
        stream,
        peer,
        chain,
        alpn,
        ..
    } = accepted;
    let facts = Facts {
        caller: peer
            .ok_or_else(|| refuse(Reason::IdentityMismatch, "no certificate".to_owned()))?,
        chain,
        service: port.service,
        port: port.port,
        tunnel: hello.trace.map(|trace| trace.id()),
    };
    let judgement = worker.judge(&facts);
    Ok(Caller {
        session: worker.sessions.open(facts, judgement),
        from,
        stream,
        alpn,
    })
}

impl Caller {
    async fn serve(self, worker: Rc<Worker>) {
        let Self {
            session,
            from,
            stream,
            alpn,
        } = self;
        let (connected, limited) = worker.limits.connect(session.facts()).await;
        let arrival = Arrival {
            session,
            from,
            limited,
        };
        match alpn.as_deref() {
            Some(ALPN_H2) => http::serve_http2(worker, arrival, stream).await,
            Some(ALPN_TCP) => opaque::serve(&worker, &arrival, stream).await,
            // TLS lets through what both offer, or nothing at all.
            Some(_) | None => http::serve_http1(worker, arrival, stream).await,
        }
        drop(connected);
    }
}
