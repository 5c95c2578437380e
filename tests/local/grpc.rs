//! gRPC through two gateways: unary and streaming, with the caller's identity.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use hyper_util::rt::TokioIo;
use tokio_stream::StreamExt;
use tonic::transport::{Channel, Endpoint};

use super::call::runtime;
use super::demo::Demo;

#[derive(Clone, PartialEq, prost::Message)]
struct EchoRequest {
    #[prost(string, tag = "1")]
    text: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct EchoReply {
    #[prost(string, tag = "1")]
    json: String,
    #[prost(string, tag = "2")]
    text: String,
}

pub(crate) const PAYMENTS: &str = "http://payments.shop.svc.clusterset.local:9090";

/// A channel whose connections go to the sidecar, as if the name resolved to it.
async fn channel(outbound: SocketAddr, origin: &str) -> Result<Channel, tonic::Status> {
    let connector = tower::service_fn(move |_| async move {
        tokio::net::TcpStream::connect(outbound)
            .await
            .map(TokioIo::new)
    });
    Endpoint::from_shared(origin.to_owned())
        .unwrap()
        .connect_with_connector(connector)
        .await
        .map_err(|error| tonic::Status::unavailable(error.to_string()))
}

/// One call of `method`; what the app saw, as JSON.
pub(crate) async fn call_payments(
    outbound: SocketAddr,
    method: &'static str,
) -> Result<String, tonic::Status> {
    let reply = call_grpc(outbound, PAYMENTS, method, &BTreeMap::new()).await?;
    Ok(reply.0)
}

/// One call of a method of `origin`, with metadata; what the app saw, as JSON, and the answer's metadata.
pub(crate) async fn call_grpc(
    outbound: SocketAddr,
    origin: &str,
    method: &str,
    metadata: &BTreeMap<String, String>,
) -> Result<(String, http::HeaderMap), tonic::Status> {
    let mut client = tonic::client::Grpc::new(channel(outbound, origin).await?);
    let ready = client.ready().await;
    ready.map_err(|error| tonic::Status::unavailable(error.to_string()))?;
    let codec = tonic_prost::ProstCodec::<EchoRequest, EchoReply>::default();
    let path = http::uri::PathAndQuery::try_from(method).unwrap();
    let headers = metadata.iter().map(|(name, value)| {
        let name = http::HeaderName::try_from(name.as_str()).unwrap();
        (name, value.parse().unwrap())
    });
    let metadata = tonic::metadata::MetadataMap::from_headers(headers.collect());
    let request = tonic::Request::from_parts(
        metadata,
        tonic::Extensions::default(),
        EchoRequest::default(),
    );
    let (metadata, reply, _) = client.unary(request, path, codec).await?.into_parts();
    Ok((reply.json, metadata.into_headers()))
}

#[test]
fn unary_and_streaming_calls_cross_clusters_with_the_caller_s_identity() {
    let demo = Demo::start();
    runtime().block_on(async {
        let mut client =
            tonic::client::Grpc::new(channel(demo.frontend(), PAYMENTS).await.unwrap());
        client.ready().await.unwrap();
        let codec = tonic_prost::ProstCodec::<EchoRequest, EchoReply>::default();
        let path = http::uri::PathAndQuery::from_static("/portolan.demo.v1.Echo/Call");
        let request = tonic::Request::new(EchoRequest {
            text: "one".to_owned(),
        });
        let reply = client
            .unary(request, path, codec)
            .await
            .unwrap()
            .into_inner();
        let seen: serde_json::Value = serde_json::from_str(&reply.json).unwrap();
        assert_eq!(
            (seen["cluster"].as_str(), reply.text.as_str()),
            (Some("eu-west"), "one")
        );
        let caller = seen["headers"]["x-forwarded-client-cert"].as_str().unwrap();
        assert!(
            caller.contains("URI=spiffe://us-east.demo/ns/shop/sa/frontend"),
            "{caller}"
        );

        client.ready().await.unwrap();
        let (ask, asked) = tokio::sync::mpsc::channel(1);
        let codec = tonic_prost::ProstCodec::<EchoRequest, EchoReply>::default();
        let path = http::uri::PathAndQuery::from_static("/portolan.demo.v1.Echo/Converse");
        let requests = tokio_stream::wrappers::ReceiverStream::new(asked);
        let mut replies = client
            .streaming(tonic::Request::new(requests), path, codec)
            .await
            .unwrap()
            .into_inner();
        // Each message is sent only after the one before it was answered: the streams run both ways at once.
        for text in ["a", "b", "c"] {
            ask.send(EchoRequest {
                text: text.to_owned(),
            })
            .await
            .unwrap();
            assert_eq!(replies.next().await.unwrap().unwrap().text, text);
        }
        drop(ask);
        assert!(replies.next().await.is_none());
    });
}
