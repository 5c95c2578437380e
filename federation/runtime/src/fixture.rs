//! A control plane for tests: real TLS on a free port, answers from the test's own hand.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use portolan_api::authority::authority_server::{Authority, AuthorityServer};
use portolan_api::authority::{CertifyRequest, CertifyResponse};
use portolan_api::discovery::aggregated_discovery_service_server::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
};
use portolan_api::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use portolan_api::presence::presence_server::{Presence, PresenceServer};
use portolan_api::presence::report::Report as Body;
use portolan_api::presence::{Reply, Report};
use portolan_model::SpiffeId;
use portolan_model::names::TrustDomain;
use portolan_transport::mtls::TlsContext;
use portolan_trust::{
    CertificateAuthority, Identity, KeyRequest, RootAuthority, TrustBundle, check_token, mint_token,
};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::service::Routes;
use tonic::{Request, Response, Status, Streaming};

use crate::grpc::{self, Caller, UnixPeer};
use crate::settings::{ControlClientConfig, JoinConfig};
use crate::shutdown::Shutdown;

const DAY: Duration = Duration::from_secs(86_400);
const SECRET: [u8; 32] = [7; 32];
pub(crate) const PROXY: &str = "spiffe://us-east.set/ns/shop/sa/orders";

/// Fails a test that hangs.
pub(crate) async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), what)
        .await
        .expect("it should have happened by now")
}

pub(crate) fn now_s() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs()
}

/// A cluster with its authority, and a proxy's folder.
pub(crate) struct World {
    root: RootAuthority,
    authority_pem: (String, String),
    pub(crate) folder: TempDir,
}

impl World {
    pub(crate) fn new() -> Self {
        let root = RootAuthority::create(&"set".parse().unwrap(), 10 * DAY, now_s()).unwrap();
        let domain: TrustDomain = "us-east.set".parse().unwrap();
        let pem = root.sign_intermediate(&domain, now_s()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("bundle.pem"), root.cert_pem()).unwrap();
        Self {
            root,
            authority_pem: (pem.cert_pem, pem.key_pem),
            folder,
        }
    }

    pub(crate) fn bundle(&self) -> TrustBundle {
        TrustBundle::from_pem(&self.root.cert_pem()).unwrap()
    }

    pub(crate) fn authority(&self) -> CertificateAuthority {
        let (certificate, key) = &self.authority_pem;
        CertificateAuthority::from_pem(certificate, key).unwrap()
    }

    pub(crate) fn identity(&self, id: &str) -> Identity {
        let request = KeyRequest::new().unwrap();
        let id: SpiffeId = id.parse().unwrap();
        let chain = self.authority().issue(&request.csr_der, &id, DAY, now_s());
        request.into_identity(chain.unwrap()).unwrap()
    }

    pub(crate) fn tls(&self, id: &str) -> TlsContext {
        TlsContext::new(Some(self.identity(id)), self.bundle()).unwrap()
    }

    pub(crate) fn state_dir(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    pub(crate) fn config(&self, control: Vec<SocketAddr>) -> ControlClientConfig {
        std::fs::create_dir_all(self.state_dir()).unwrap();
        ControlClientConfig {
            control,
            cluster: "us-east".parse().unwrap(),
            trust_domain: "us-east.set".parse().unwrap(),
            trust_bundle: self.folder.path().join("bundle.pem"),
            state_dir: self.state_dir(),
            join: JoinConfig::default(),
        }
    }

    /// The configuration of a proxy that joins with this token.
    pub(crate) fn joining(&self, control: Vec<SocketAddr>, token: &str) -> ControlClientConfig {
        let file = self.folder.path().join("token");
        std::fs::write(&file, format!("{token}\n")).unwrap();
        let mut config = self.config(control);
        config.join.token_file = Some(file);
        config
    }

    pub(crate) fn token(&self) -> String {
        mint_token(&SECRET, &PROXY.parse().unwrap(), now_s() + 60)
    }

    pub(crate) async fn control(&self, ttl: Duration) -> FakeControl {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (discovery, streams) = mpsc::channel(8);
        let (presence, presences) = mpsc::channel(8);
        let (authority, certified) = mpsc::channel(64);
        let issuing = Issuing {
            authority: self.authority(),
            root: self.root.cert_der().to_vec(),
            ttl,
            events: authority,
        };
        let routes = Routes::new(AggregatedDiscoveryServiceServer::new(Discovery(discovery)))
            .add_service(PresenceServer::new(Presences(presence)))
            .add_service(AuthorityServer::new(issuing));
        let tls = self.tls("spiffe://us-east.set/portolan/control/us-east");
        let shutdown = Shutdown::new();
        let stop = shutdown.clone();
        let serving = routes.clone();
        tokio::spawn(async move { grpc::serve(listener, &tls, serving, stop).await });
        FakeControl {
            address,
            streams,
            presences,
            certified,
            routes,
            shutdown,
        }
    }
}

pub(crate) struct FakeControl {
    pub(crate) address: SocketAddr,
    streams: mpsc::Receiver<DiscoveryStream>,
    presences: mpsc::Receiver<PresenceStream>,
    /// How each certificate was asked for.
    pub(crate) certified: mpsc::Receiver<&'static str>,
    pub(crate) routes: Routes,
    pub(crate) shutdown: Shutdown,
}

impl FakeControl {
    pub(crate) async fn discovery(&mut self) -> DiscoveryStream {
        soon(self.streams.recv()).await.unwrap()
    }

    pub(crate) async fn presence(&mut self) -> PresenceStream {
        soon(self.presences.recv()).await.unwrap()
    }
}

/// The server's end of a discovery stream.
pub(crate) struct DiscoveryStream {
    pub(crate) caller: SpiffeId,
    requests: Streaming<DeltaDiscoveryRequest>,
    responses: mpsc::Sender<Result<DeltaDiscoveryResponse, Status>>,
}

impl DiscoveryStream {
    pub(crate) async fn request(&mut self) -> DeltaDiscoveryRequest {
        soon(self.requests.message()).await.unwrap().unwrap()
    }

    pub(crate) async fn send(&self, response: DeltaDiscoveryResponse) {
        self.responses.send(Ok(response)).await.unwrap();
    }
}

/// The server's end of a presence stream.
pub(crate) struct PresenceStream {
    reports: Streaming<Report>,
    pub(crate) replies: mpsc::Sender<Result<Reply, Status>>,
}

impl PresenceStream {
    /// The next report; `None` at the stream's end.
    pub(crate) async fn report(&mut self) -> Option<Body> {
        let report = soon(self.reports.message()).await.unwrap()?;
        Some(report.report.unwrap())
    }
}

struct Discovery(mpsc::Sender<DiscoveryStream>);

#[tonic::async_trait]
impl AggregatedDiscoveryService for Discovery {
    type DeltaAggregatedResourcesStream = ReceiverStream<Result<DeltaDiscoveryResponse, Status>>;

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let caller = Caller::of(&request).cloned();
        let (responses, outgoing) = mpsc::channel(8);
        let stream = DiscoveryStream {
            caller: caller.ok_or_else(|| Status::unauthenticated("no certificate"))?,
            requests: request.into_inner(),
            responses,
        };
        self.0.send(stream).await.unwrap();
        Ok(Response::new(ReceiverStream::new(outgoing)))
    }
}

struct Presences(mpsc::Sender<PresenceStream>);

#[tonic::async_trait]
impl Presence for Presences {
    type HoldStream = ReceiverStream<Result<Reply, Status>>;

    async fn hold(
        &self,
        request: Request<Streaming<Report>>,
    ) -> Result<Response<Self::HoldStream>, Status> {
        let (replies, outgoing) = mpsc::channel(8);
        let reports = request.into_inner();
        self.0
            .send(PresenceStream { reports, replies })
            .await
            .unwrap();
        Ok(Response::new(ReceiverStream::new(outgoing)))
    }
}

struct Issuing {
    authority: CertificateAuthority,
    root: Vec<u8>,
    ttl: Duration,
    events: mpsc::Sender<&'static str>,
}

#[tonic::async_trait]
impl Authority for Issuing {
    async fn certify(
        &self,
        request: Request<CertifyRequest>,
    ) -> Result<Response<CertifyResponse>, Status> {
        let caller = Caller::of(&request).cloned();
        let unix = UnixPeer::of(&request);
        let request = request.into_inner();
        let id: SpiffeId = request.spiffe_id.parse().unwrap();
        let way = match (caller, unix) {
            (Some(caller), _) if caller == id => "certificate",
            (_, Some(_)) => "socket",
            _ if check_token(&SECRET, &request.join_token, &id, now_s()).is_ok() => "token",
            _ => {
                self.events.send("refused").await.unwrap();
                return Err(Status::permission_denied(
                    "the token is not for this identity",
                ));
            }
        };
        let chain = self
            .authority
            .issue(&request.csr_der, &id, self.ttl, now_s());
        self.events.send(way).await.unwrap();
        Ok(Response::new(CertifyResponse {
            chain_der: chain.unwrap().iter().map(|der| der.to_vec()).collect(),
            roots_der: vec![self.root.clone()],
            not_before_s: 0,
            not_after_s: 0,
        }))
    }
}
