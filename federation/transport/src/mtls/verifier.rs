//! The hooks of the TLS library: judge the peer now, present the identity of now.

use std::fmt;
use std::sync::Arc;

use arc_swap::{ArcSwap, ArcSwapOption};
use portolan_model::SpiffeId;
use portolan_trust::{Identity, TrustBundle, Usage, VerifyError, verify_parts};
use rustls::client::ResolvesClientCert;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError,
    PeerIncompatible, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::expect::Expect;

/// What handshakes look up.
pub(super) struct Current {
    pub(super) identity: ArcSwapOption<Presented>,
    pub(super) trust: ArcSwap<TrustBundle>,
    pub(super) algorithms: WebPkiSupportedAlgorithms,
}

/// An identity, ready to sign handshakes.
pub(super) struct Presented {
    pub(super) identity: Arc<Identity>,
    pub(super) certified: Arc<CertifiedKey>,
}

/// The peer is valid, but somebody else.
#[derive(Debug, thiserror::Error)]
#[error("the peer is `{found}`, and {expected} was expected")]
struct Unexpected {
    found: SpiffeId,
    expected: Expect,
}

/// Judges peers, in both directions.
pub(super) struct Verifier {
    pub(super) current: Arc<Current>,
    pub(super) expect: Expect,
    /// Whether a client must present a certificate.
    pub(super) mandatory: bool,
}

impl Verifier {
    fn judge(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        usage: Usage,
        now: UnixTime,
    ) -> Result<(), Error> {
        let trust = self.current.trust.load();
        let verified = verify_parts(leaf, intermediates, &trust, usage, now).map_err(refusal)?;
        if self.expect.accepts(&verified.id) {
            return Ok(());
        }
        Err(other(Unexpected {
            found: verified.id,
            expected: self.expect.clone(),
        }))
    }

    fn signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.current.algorithms)
    }
}

/// So that the peer hears the alert that fits; our own log gets the error itself where the TLS
/// library has no word for it.
fn refusal(error: VerifyError) -> Error {
    match error {
        VerifyError::Expired => CertificateError::Expired.into(),
        VerifyError::NotYetValid => CertificateError::NotValidYet.into(),
        VerifyError::UnknownIssuer => CertificateError::UnknownIssuer.into(),
        VerifyError::NoCertificate => Error::NoCertificatesPresented,
        VerifyError::TooMany(_)
        | VerifyError::Certificate(_)
        | VerifyError::Path(_)
        | VerifyError::Authority
        | VerifyError::MaySign
        | VerifyError::Uris { .. }
        | VerifyError::Id { .. }
        | VerifyError::NoPath(_)
        | VerifyError::SignedByRoot(_)
        | VerifyError::TooDeep
        | VerifyError::Issuer(_)
        | VerifyError::ForeignTrustDomain { .. } => other(error),
    }
}

fn other(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    CertificateError::Other(OtherError(Arc::new(Said(error)))).into()
}

/// The TLS library shows such errors only to programmers (`Debug`), and QUIC hands on no more than
/// that text: so it says what people should read.
#[derive(thiserror::Error)]
#[error(transparent)]
struct Said<E: std::error::Error>(E);

impl<E: std::error::Error> fmt::Debug for Said<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut source = self.0.source();
        while let Some(cause) = source {
            write!(f, ": {cause}")?;
            source = cause.source();
        }
        Ok(())
    }
}

fn no_tls12() -> Error {
    Error::PeerIncompatible(PeerIncompatible::Tls13RequiredForQuic)
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        // The server name routes; who answers is judged by identity.
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.judge(end_entity, intermediates, Usage::Server, now)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.current.algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for Verifier {
    fn client_auth_mandatory(&self) -> bool {
        self.mandatory
    }

    // Roots change while configurations live, so none are hinted at.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.judge(end_entity, intermediates, Usage::Client, now)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.current.algorithms.supported_schemes()
    }
}

/// Presents the identity of now.
pub(super) struct Presenter {
    pub(super) current: Arc<Current>,
    /// `false`: present nothing.
    pub(super) offer: bool,
}

impl Presenter {
    fn certified(&self) -> Option<Arc<CertifiedKey>> {
        if !self.offer {
            return None;
        }
        let presented = self.current.identity.load();
        presented
            .as_ref()
            .map(|presented| presented.certified.clone())
    }
}

impl ResolvesClientCert for Presenter {
    fn resolve(
        &self,
        _root_hint_subjects: &[&[u8]],
        _schemes: &[SignatureScheme],
    ) -> Option<Arc<CertifiedKey>> {
        self.certified()
    }

    fn has_certs(&self) -> bool {
        self.offer
    }
}

impl ResolvesServerCert for Presenter {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.certified()
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Verifier({})", self.expect)
    }
}

impl fmt::Debug for Presenter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Presenter")
    }
}
