//! Connections whose destination is known before their first byte: CONNECT, and captured ones.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use http::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use portolan_model::snapshot::Snapshot;
use portolan_model::{Hop, Reason, Refusal};
use portolan_policy::route::Route;
use portolan_policy::rules::Name;
use portolan_transport::hello;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use super::destination::{Destination, Host, Origin, by_address, by_host, not_passed_on};
use super::exchange::Exchange;
use super::{elsewhere, opaque, routing, serve_requests};
use crate::http::{IncomingBody, ReplyBody};
use crate::respond;
use crate::sniff::{Prefixed, Spoken, sniff};
use crate::worker::Worker;

/// How long a client of an HTTP port may be silent before it is taken for one that waits for the
/// server's first word.
const SILENCE_MAX: Duration = Duration::from_secs(3);

/// How long a client's ClientHello may take to arrive.
const HELLO_MAX: Duration = Duration::from_secs(10);

/// What is at the other end.
enum Far {
    /// Requests, that are routed one by one.
    Requests(Rc<Route>),
    /// Bytes to another sidecar, that the server name in them decides on.
    Named(Rc<Route>),
    /// Bytes to another sidecar.
    Mesh(Box<opaque::Opened>),
    /// Bytes to a host outside the mesh.
    Elsewhere(TcpStream),
}

/// Answers CONNECT. The way is open before it is promised, where that can be.
pub(super) async fn connect(
    worker: &Rc<Worker>,
    request: Request<IncomingBody>,
    mut exchange: Exchange,
) -> Response<ReplyBody> {
    let far = open_named(worker, &request, &mut exchange).await;
    let (origin, far) = match far {
        Ok(far) => far,
        Err(refusal) => {
            let response = respond::reply(&refusal, false);
            exchange.refuse(&refusal, response.status().as_u16());
            return response;
        }
    };
    exchange.answered(200);
    let tunnel = Rc::clone(worker);
    worker.clients.spawn_local(async move {
        let (head, body) = request.into_parts();
        if let IncomingBody::Connect(opened) = body {
            return match opened.await {
                Ok(client) => carry(tunnel, client, far, origin, exchange).await,
                Err(_) => tracing::debug!("a client gave its tunnel up"),
            };
        }
        match hyper::upgrade::on(Request::from_parts(head, ())).await {
            Ok(client) => carry(tunnel, TokioIo::new(client), far, origin, exchange).await,
            Err(error) => tracing::debug!(%error, "a client gave its tunnel up"),
        }
    });
    Response::new(ReplyBody::text(""))
}

async fn open_named(
    worker: &Rc<Worker>,
    request: &Request<IncomingBody>,
    exchange: &mut Exchange,
) -> Result<(Origin, Far), Refusal> {
    let authority = request.uri().authority();
    let target = authority.and_then(|it| Some((it.host(), it.port_u16()?)));
    let Some((host, port)) = target else {
        let why = "CONNECT names host and port";
        return Err(Refusal::new(Reason::BadRequest, Hop::Outbound, why));
    };
    let snapshot = worker.snapshot();
    let destination = by_host(&snapshot, host, Some(port))?;
    let far = open(worker, &snapshot, destination, exchange).await?;
    Ok((Origin::Tunnel(host.into(), port), far))
}

/// Serves a captured connection to `address`.
pub(super) async fn captured(worker: Rc<Worker>, stream: TcpStream, address: SocketAddr) {
    let mut exchange = Exchange::begin(&worker, &Method::CONNECT, "");
    exchange.entry.method = None;
    exchange.entry.host = address.to_string();
    match open_captured(&worker, address, &mut exchange).await {
        Ok(far) => carry(worker, stream, far, Origin::Captured(address), exchange).await,
        Err(refusal) => {
            exchange.refuse(&refusal, 0);
            respond::reset(stream);
        }
    }
}

async fn open_captured(
    worker: &Rc<Worker>,
    address: SocketAddr,
    exchange: &mut Exchange,
) -> Result<Far, Refusal> {
    exchange.admitted = Some(worker.admit()?);
    let snapshot = worker.snapshot();
    let destination = by_address(&snapshot, address)?;
    open(worker, &snapshot, destination, exchange).await
}

async fn open(
    worker: &Rc<Worker>,
    snapshot: &Snapshot,
    destination: Destination,
    exchange: &mut Exchange,
) -> Result<Far, Refusal> {
    match destination {
        Destination::Mesh(route) if route.protocol.is_http() => {
            exchange.routed(&route.destination.service, &route.name);
            Ok(Far::Requests(route))
        }
        Destination::Mesh(route) if routing::wants_server_name(worker, &route) => {
            Ok(Far::Named(route))
        }
        Destination::Mesh(route) => {
            let route = routing::connection(worker, snapshot, route, None)?;
            let opened = opaque::open(worker, snapshot, &route, exchange).await?;
            Ok(Far::Mesh(Box::new(opened)))
        }
        Destination::Elsewhere(host) => pass_on(worker, &host, exchange).await,
    }
}

async fn pass_on(worker: &Worker, host: &Host, exchange: &mut Exchange) -> Result<Far, Refusal> {
    if !worker.shared.passthrough {
        return Err(not_passed_on(host));
    }
    exchange.entry.route = Name::Word("passthrough");
    let (stream, address) = elsewhere::connect(worker, host).await?;
    exchange.entry.upstream = address.to_string();
    exchange.entry.tries = 1;
    Ok(Far::Elsewhere(stream))
}

async fn carry<S>(worker: Rc<Worker>, client: S, far: Far, origin: Origin, mut exchange: Exchange)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let route = match far {
        Far::Requests(route) => route,
        Far::Named(route) => return named(worker, client, route, exchange).await,
        Far::Mesh(opened) => return opaque::carry(client, *opened, exchange).await,
        Far::Elsewhere(upstream) => return opaque::copy(client, upstream, exchange).await,
    };
    let Ok((spoken, client)) = sniff(client, SILENCE_MAX).await else {
        return;
    };
    match spoken {
        Spoken::Http1 | Spoken::Http2 => {
            match &origin {
                Origin::Captured(_) => exchange.leave_to_requests(),
                // CONNECT was a request itself.
                Origin::Listener | Origin::Tunnel(..) => {
                    exchange.entry.complete = true;
                    drop(exchange);
                }
            }
            serve_requests(&worker, client, spoken, origin).await;
        }
        Spoken::Closed => {}
        Spoken::Opaque if routing::wants_server_name(&worker, &route) => {
            named(worker, client, route, exchange).await;
        }
        Spoken::Opaque | Spoken::Silence => {
            let snapshot = worker.snapshot();
            let route = routing::connection(&worker, &snapshot, route, None);
            open_and_carry(&worker, client, route, exchange).await;
        }
    }
}

/// Reads the server name that the client asks for, and lets it decide.
async fn named<S>(worker: Rc<Worker>, mut client: S, route: Rc<Route>, exchange: Exchange)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let Ok(hello) = hello::read(&mut client, HELLO_MAX).await else {
        let why = "a connection to a port with TLS routes begins with a ClientHello";
        let refusal = Refusal::new(Reason::BadRequest, Hop::Outbound, why);
        return open_and_carry(&worker, client, Err(refusal), exchange).await;
    };
    let snapshot = worker.snapshot();
    let name = hello.server_name.as_deref();
    let route = routing::connection(&worker, &snapshot, route, name);
    let client = Prefixed::new(hello.bytes, client);
    open_and_carry(&worker, client, route, exchange).await;
}

async fn open_and_carry<S>(
    worker: &Rc<Worker>,
    client: S,
    route: Result<Rc<Route>, Refusal>,
    mut exchange: Exchange,
) where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let snapshot = worker.snapshot();
    let opened = match &route {
        Ok(route) => opaque::open(worker, &snapshot, route, &mut exchange).await,
        Err(refusal) => Err(refusal.clone()),
    };
    match opened {
        Ok(opened) => opaque::carry(client, opened, exchange).await,
        Err(refusal) => exchange.refused(refusal.reason, refusal.hop),
    }
}
