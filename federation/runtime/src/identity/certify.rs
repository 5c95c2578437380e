//! One try to get a certificate: with the one we have, by join token, or through the local socket.

use std::path::Path;
use std::time::Duration;

use portolan_api::authority::authority_client::AuthorityClient;
use portolan_api::authority::{CertifyRequest, CertifyResponse};
use portolan_model::SpiffeId;
use portolan_transport::mtls::TlsContext;
use portolan_trust::{Identity, KeyRequest, TrustBundle, Usage, verify};
use rustls_pki_types::{CertificateDer, UnixTime};
use tonic::Code;
use tonic::transport::Channel;

use super::now_s;
use crate::admin;
use crate::config::ConfigError;
use crate::grpc::{self, ControlTarget, Credentials, describe};
use crate::settings::{ControlClientConfig, JoinConfig};
use crate::start::{StartError, problem};
use crate::workers::chain;

/// How long the authority may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// The longest join token, in bytes.
const TOKEN_BYTES_MAX: usize = 8 * 1024;

/// A new identity.
pub(super) struct Certified {
    pub(super) identity: Identity,
    /// The roots that the authority named, if it named any.
    pub(super) roots: Option<TrustBundle>,
    /// How it was gained, for the log.
    pub(super) way: &'static str,
}

/// Why a try failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum CertifyError {
    /// The authority said no. Asking again changes nothing.
    #[error("the control plane refused ({way}): {problem}")]
    Refused { way: &'static str, problem: String },
    /// No answer.
    #[error("no answer from the control plane ({way}): {problem}")]
    Unreachable { way: &'static str, problem: String },
    /// An answer that does not hold.
    #[error("the control plane's answer cannot be used ({way}): {problem}")]
    Unusable { way: &'static str, problem: String },
    /// The join token cannot be read.
    #[error("cannot read the join token in {file}: {problem}")]
    Token { file: String, problem: String },
    /// No key could be made.
    #[error("cannot make a key: {problem}")]
    Key { problem: String },
}

impl CertifyError {
    pub(super) fn is_refusal(&self) -> bool {
        match self {
            Self::Refused { .. } => true,
            Self::Unreachable { .. }
            | Self::Unusable { .. }
            | Self::Token { .. }
            | Self::Key { .. } => false,
        }
    }
}

/// Knows every way to a certificate.
pub(super) struct Certifier {
    id: SpiffeId,
    join: JoinConfig,
    target: ControlTarget,
    tls: TlsContext,
}

impl Certifier {
    pub(super) fn new(config: &ControlClientConfig, id: SpiffeId, tls: TlsContext) -> Self {
        Self {
            id,
            join: config.join.clone(),
            target: ControlTarget::own(config),
            tls,
        }
    }

    /// Whether there is a way at all without a certificate.
    pub(super) fn check_can_join(&self) -> Result<(), StartError> {
        if self.join.token_file.is_some() || self.join.socket.is_some() {
            return Ok(());
        }
        let problem = format!("{} has no valid certificate and no way to join", self.id);
        let remedy = "set `join.tokenFile` (made with `portolan token create`) or `join.socket`";
        Err(ConfigError::unusable("join", problem, remedy).into())
    }

    /// Tries every way once and answers with the first success, else with the last error.
    pub(super) async fn certify(&self) -> Result<Certified, CertifyError> {
        let renewed = match self.tls.identity() {
            Some(current) if current.is_valid_at(now_s()) => Some(self.by_certificate().await),
            Some(_) | None => None,
        };
        match renewed {
            Some(Ok(certified)) => return Ok(certified),
            // A control plane that does not answer is no reason to use up another way.
            Some(Err(error)) if !error.is_refusal() || self.check_can_join().is_err() => {
                return Err(error);
            }
            Some(Err(error)) => tracing::warn!(problem = chain(&error), "joining anew"),
            None => {}
        }
        let by_token = match &self.join.token_file {
            Some(file) => Some(self.by_token(file).await),
            None => None,
        };
        match (by_token, &self.join.socket) {
            (Some(Ok(certified)), _) => Ok(certified),
            (Some(Err(error)), None) => Err(error),
            (Some(Err(error)), Some(socket)) => {
                tracing::debug!(problem = chain(&error), "trying the local socket");
                self.by_socket(socket).await
            }
            (None, Some(socket)) => self.by_socket(socket).await,
            (None, None) => Err(CertifyError::Refused {
                way: "no certificate",
                problem: "neither `join.tokenFile` nor `join.socket` is set".to_owned(),
            }),
        }
    }

    async fn by_certificate(&self) -> Result<Certified, CertifyError> {
        let channel = grpc::channel(&self.target, &self.tls, Credentials::Certificate);
        self.ask("by the current certificate", channel, String::new())
            .await
    }

    async fn by_token(&self, file: &Path) -> Result<Certified, CertifyError> {
        let fail = |problem| CertifyError::Token {
            file: file.display().to_string(),
            problem,
        };
        let text = std::fs::read_to_string(file).map_err(|error| fail(problem(&error)))?;
        let token = text.trim();
        if token.is_empty() || token.len() > TOKEN_BYTES_MAX {
            return Err(fail("it holds no token".to_owned()));
        }
        let channel = grpc::channel(&self.target, &self.tls, Credentials::None);
        self.ask("by join token", channel, token.to_owned()).await
    }

    async fn by_socket(&self, socket: &Path) -> Result<Certified, CertifyError> {
        let way = "by the local socket";
        let channel = admin::channel(socket).await.map_err(|error| {
            let problem = error.to_string();
            CertifyError::Unreachable { way, problem }
        })?;
        self.ask(way, channel, String::new()).await
    }

    async fn ask(
        &self,
        way: &'static str,
        channel: Channel,
        join_token: String,
    ) -> Result<Certified, CertifyError> {
        let key = KeyRequest::new().map_err(|error| CertifyError::Key {
            problem: chain(&error),
        })?;
        let request = CertifyRequest {
            csr_der: key.csr_der.clone(),
            spiffe_id: self.id.to_string(),
            join_token,
        };
        let mut client = AuthorityClient::new(channel);
        let call = tokio::time::timeout(CALL_TIMEOUT, client.certify(request));
        let response = match call.await {
            Ok(Ok(response)) => response.into_inner(),
            Ok(Err(status)) => return Err(failed(way, &status)),
            Err(_) => {
                let problem = "it took too long".to_owned();
                return Err(CertifyError::Unreachable { way, problem });
            }
        };
        self.read(key, response)
            .map(|(identity, roots)| Certified {
                identity,
                roots,
                way,
            })
            .map_err(|problem| CertifyError::Unusable { way, problem })
    }

    fn read(
        &self,
        key: KeyRequest,
        response: CertifyResponse,
    ) -> Result<(Identity, Option<TrustBundle>), String> {
        let chain_der = response.chain_der.into_iter().map(CertificateDer::from);
        let identity = key
            .into_identity(chain_der.collect())
            .map_err(|error| chain(&error))?;
        let roots = TrustBundle::from_der(response.roots_der).map_err(|error| chain(&error))?;
        let roots = Some(roots).filter(|roots| !roots.is_empty());
        let current = self.tls.trust();
        check(
            &identity,
            &self.id,
            roots.as_ref().unwrap_or(&current),
            now_s(),
        )?;
        Ok((identity, roots))
    }
}

/// Whether `identity` is `id` and others will accept it at `now_s`; else why not.
pub(super) fn check(
    identity: &Identity,
    id: &SpiffeId,
    roots: &TrustBundle,
    now_s: u64,
) -> Result<(), String> {
    if &identity.id != id {
        return Err(format!("it is for {}, wanted is {id}", identity.id));
    }
    let now = UnixTime::since_unix_epoch(Duration::from_secs(now_s));
    verify(&identity.chain, roots, Usage::Client, now)
        .map(drop)
        .map_err(|error| chain(&error))
}

fn failed(way: &'static str, status: &tonic::Status) -> CertifyError {
    let problem = describe(status);
    match status.code() {
        Code::PermissionDenied
        | Code::Unauthenticated
        | Code::InvalidArgument
        | Code::NotFound
        | Code::FailedPrecondition
        | Code::Unimplemented => CertifyError::Refused { way, problem },
        Code::Ok
        | Code::Cancelled
        | Code::Unknown
        | Code::DeadlineExceeded
        | Code::AlreadyExists
        | Code::ResourceExhausted
        | Code::Aborted
        | Code::OutOfRange
        | Code::Internal
        | Code::Unavailable
        | Code::DataLoss => CertifyError::Unreachable { way, problem },
    }
}
