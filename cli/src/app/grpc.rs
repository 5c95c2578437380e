//! The app's gRPC face: any method answers each message of the call with one message that tells what
//! the app saw, so one server shows unary and streaming calls alike (`deploy/demo/echo.proto`).

use std::sync::Arc;

use http::{HeaderMap, Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio_stream::{Stream, StreamExt};
use tonic::{Status, Streaming};

use super::Card;
use super::http::{Body, Misbehaviour, seen};

/// Where health checks ask.
const HEALTH: &str = "/grpc.health.v1.Health/Check";
/// `grpc.health.v1.HealthCheckResponse.ServingStatus`.
const SERVING: i32 = 1;
const NOT_SERVING: i32 = 2;

/// `portolan.demo.v1.EchoRequest`
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct EchoRequest {
    #[prost(string, tag = "1")]
    pub(crate) text: String,
}

/// `portolan.demo.v1.EchoReply`
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct EchoReply {
    /// The same JSON that HTTP callers get.
    #[prost(string, tag = "1")]
    pub(crate) json: String,
    /// The request's text.
    #[prost(string, tag = "2")]
    pub(crate) text: String,
}

#[derive(Clone)]
struct Echo {
    card: Arc<Card>,
    path: String,
    headers: HeaderMap,
}

impl tonic::server::StreamingService<EchoRequest> for Echo {
    type Response = EchoReply;
    type ResponseStream = std::pin::Pin<Box<dyn Stream<Item = Result<EchoReply, Status>> + Send>>;
    type Future = std::future::Ready<Result<tonic::Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: tonic::Request<Streaming<EchoRequest>>) -> Self::Future {
        let echo = self.clone();
        let replies = request.into_inner().map(move |message| {
            let text = message?.text;
            let json = seen(&echo.card, "POST", &echo.path, &echo.headers, text.len());
            Ok(EchoReply { json, text })
        });
        std::future::ready(Ok(tonic::Response::new(Box::pin(replies))))
    }
}

/// `grpc.health.v1.HealthCheckRequest`
#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckRequest {
    /// The service that is asked for; it does not matter here.
    #[prost(string, tag = "1")]
    service: String,
}

/// `grpc.health.v1.HealthCheckResponse`
#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckResponse {
    #[prost(int32, tag = "1")]
    status: i32,
}

/// Says how the app is.
struct Health(i32);

impl tonic::server::UnaryService<HealthCheckRequest> for Health {
    type Response = HealthCheckResponse;
    type Future = std::future::Ready<Result<tonic::Response<HealthCheckResponse>, Status>>;

    fn call(&mut self, _: tonic::Request<HealthCheckRequest>) -> Self::Future {
        std::future::ready(Ok(tonic::Response::new(HealthCheckResponse {
            status: self.0,
        })))
    }
}

pub(super) async fn answer(
    request: Request<Incoming>,
    card: Arc<Card>,
    wrong: &Misbehaviour,
) -> Response<Body> {
    if request.uri().path() == HEALTH {
        let status = if wrong.fails() { NOT_SERVING } else { SERVING };
        let codec = tonic_prost::ProstCodec::<HealthCheckResponse, HealthCheckRequest>::default();
        let mut grpc = tonic::server::Grpc::new(codec);
        let answer = grpc.unary(Health(status), request).await;
        return answer.map(BodyExt::boxed_unsync);
    }
    let echo = Echo {
        card,
        path: request.uri().path().to_owned(),
        headers: request.headers().clone(),
    };
    let codec = tonic_prost::ProstCodec::<EchoReply, EchoRequest>::default();
    let mut grpc = tonic::server::Grpc::new(codec);
    grpc.streaming(echo, request)
        .await
        .map(BodyExt::boxed_unsync)
}
