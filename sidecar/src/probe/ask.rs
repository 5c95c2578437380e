//! One question of a health check: HTTP, gRPC or TCP.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST, TE, USER_AGENT};
use http::{HeaderValue, Method, Request, Response};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use portolan_model::pattern::Pattern;
use portolan_model::traffic::{HealthCheck, HealthProbe};
use portolan_transport::listen;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// How much of an answer's body is looked at.
const BODY_MAX: usize = 64 * 1024;
/// `grpc.health.v1.HealthCheckResponse.ServingStatus.SERVING`.
const SERVING: u8 = 1;
/// A field 1 that is a number, and one that is a text, in protobuf.
const NUMBER_1: u8 = 0x08;
const TEXT_1: u8 = 0x0a;
/// What precedes a gRPC message: whether it is compressed, and its length.
const PREFIX: usize = 5;

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Asks once; says what is wrong, if something is.
pub(super) async fn ask(app: IpAddr, port: u16, check: &HealthCheck) -> Result<(), String> {
    match timeout(check.timeout, put(app, port, check)).await {
        Ok(answer) => answer.map_err(|problem| problem.to_string()),
        Err(_) => Err(format!("no answer within {:?}", check.timeout)),
    }
}

async fn put(app: IpAddr, port: u16, check: &HealthCheck) -> Result<(), Failure> {
    let address = SocketAddr::from((app, port));
    let stream = listen::connect(address, check.timeout.min(Duration::from_secs(60))).await?;
    match &check.probe {
        HealthProbe::Tcp => Ok(()),
        HealthProbe::Http {
            path,
            host,
            statuses,
            body,
        } => {
            let host = host.clone().unwrap_or_else(|| address.to_string());
            let request = Request::builder()
                .uri(path)
                .header(HOST, host)
                .header(USER_AGENT, "portolan-health-check")
                .body(Full::<Bytes>::default())?;
            http(stream, request, statuses, body.as_ref()).await
        }
        HealthProbe::Grpc { service } => grpc(stream, address, service).await,
    }
}

async fn http(
    stream: TcpStream,
    request: Request<Full<Bytes>>,
    statuses: &[(u16, u16)],
    wanted: Option<&Pattern>,
) -> Result<(), Failure> {
    // What drives the connection ends with the question.
    let mut driver = JoinSet::new();
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    driver.spawn(connection);
    let response = sender.send_request(request).await?;
    let status = response.status().as_u16();
    if !statuses
        .iter()
        .any(|(first, last)| (*first..=*last).contains(&status))
    {
        return Err(format!("it answered {status}").into());
    }
    if let Some(wanted) = wanted {
        let body = beginning(response).await?;
        if !wanted.matches(&String::from_utf8_lossy(&body)) {
            return Err(format!("its answer does not match `{wanted}`").into());
        }
    }
    Ok(())
}

/// The body, as far as anybody looks at it.
async fn beginning(response: Response<Incoming>) -> Result<Vec<u8>, Failure> {
    let mut body = response.into_body();
    let mut bytes = Vec::new();
    while bytes.len() < BODY_MAX {
        let Some(frame) = body.frame().await else {
            break;
        };
        if let Some(data) = frame?.data_ref() {
            bytes.extend_from_slice(data);
        }
    }
    bytes.truncate(BODY_MAX);
    Ok(bytes)
}

/// `grpc.health.v1.Health/Check`.
async fn grpc(stream: TcpStream, address: SocketAddr, service: &str) -> Result<(), Failure> {
    let mut driver = JoinSet::new();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
    driver.spawn(connection);
    let request = Request::builder()
        .method(Method::POST)
        .uri(format!("http://{address}/grpc.health.v1.Health/Check"))
        .header(CONTENT_TYPE, HeaderValue::from_static("application/grpc"))
        .header(TE, HeaderValue::from_static("trailers"))
        .body(Full::new(question(service)))?;
    let response = sender.send_request(request).await?;
    if !response.status().is_success() {
        return Err(format!("it answered HTTP {}", response.status()).into());
    }
    let status = response.headers().get("grpc-status").cloned();
    let body = Limited::new(response.into_body(), BODY_MAX)
        .collect()
        .await?;
    let trailers = body
        .trailers()
        .and_then(|it| it.get("grpc-status"))
        .cloned();
    let message = body.to_bytes();
    match trailers.or(status) {
        Some(status) if status != "0" => {
            Err(format!("it answered gRPC status {}", status.to_str()?).into())
        }
        Some(_) | None if serves(&message) => Ok(()),
        Some(_) | None => Err("it does not say SERVING".into()),
    }
}

/// A `HealthCheckRequest`, as gRPC sends it.
fn question(service: &str) -> Bytes {
    // Schemas keep names shorter than this.
    let name = &service.as_bytes()[..service.len().min(127)];
    let mut message = Vec::new();
    if let (false, Ok(length)) = (name.is_empty(), u8::try_from(name.len())) {
        message.extend([TEXT_1, length]);
        message.extend(name);
    }
    let mut framed = vec![0];
    framed.extend(
        u32::try_from(message.len())
            .unwrap_or_default()
            .to_be_bytes(),
    );
    framed.extend(message);
    framed.into()
}

/// Whether a framed `HealthCheckResponse` says SERVING.
fn serves(framed: &[u8]) -> bool {
    framed.get(PREFIX..) == Some(&[NUMBER_1, SERVING])
}
