//! What a handshake fails with, told apart by what a caller can do about it.

use std::error::Error as StdError;
use std::io;
use std::time::Duration;

use portolan_model::Reason;
use rustls::{AlertDescription, CertificateError, Error as RustlsError};

use crate::wire::alert::Alert;

/// Why TLS failed.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The handshake took too long.
    #[error("the TLS handshake did not end within {0:?}")]
    Timeout(Duration),
    /// A gateway on the way, or the peer, refused with an alert that tells the reason.
    #[error("the connection was refused: {0}")]
    Refused(Reason),
    /// The peer is not who it should be.
    #[error("the peer's identity is refused")]
    Peer(#[source] Box<dyn StdError + Send + Sync>),
    /// The peer does not accept who we are.
    #[error("the peer does not accept this proxy's certificate (it sent {0})")]
    NotAccepted(String),
    /// The peer ended the connection during the handshake.
    #[error("the peer ended the connection during the TLS handshake")]
    Closed,
    /// The connection broke.
    #[error("the connection broke during the TLS handshake")]
    Io(#[source] io::Error),
    /// The name cannot stand in SNI.
    #[error("`{0}` cannot be sent as a server name")]
    Name(String),
    /// The key cannot be used for TLS.
    #[error("the identity's key cannot be used for TLS")]
    Key(#[source] RustlsError),
    /// One side breaks the protocol, or they have nothing in common.
    #[error("TLS failed")]
    Protocol(#[source] RustlsError),
}

impl TlsError {
    /// The closed list's word for it.
    #[must_use]
    pub fn reason(&self) -> Reason {
        match self {
            Self::Timeout(_) => Reason::Timeout,
            Self::Refused(reason) => *reason,
            Self::Peer(_) | Self::NotAccepted(_) => Reason::IdentityMismatch,
            Self::Closed | Self::Io(_) => Reason::ConnectFailed,
            Self::Name(_) => Reason::BadRequest,
            Self::Key(_) | Self::Protocol(_) => Reason::Internal,
        }
    }

    /// Tells what an error of a TLS stream means. Also for errors after the handshake: with TLS 1.3 a
    /// client learns only from its first read that the server refused its certificate.
    #[must_use]
    pub fn from_io(error: io::Error) -> Self {
        let tls = error
            .get_ref()
            .and_then(|inner| inner.downcast_ref::<RustlsError>());
        match tls {
            Some(tls) => Self::from_rustls(tls.clone()),
            None if error.kind() == io::ErrorKind::UnexpectedEof => Self::Closed,
            None => Self::Io(error),
        }
    }

    pub(super) fn from_rustls(error: RustlsError) -> Self {
        if let RustlsError::AlertReceived(alert) = &error {
            return Self::from_alert(*alert).unwrap_or(Self::Protocol(error));
        }
        if let RustlsError::InvalidCertificate(CertificateError::Other(other)) = error {
            return Self::Peer(Box::new(Cause(other.0)));
        }
        let about_peer = matches!(
            error,
            RustlsError::InvalidCertificate(_) | RustlsError::NoCertificatesPresented
        );
        if about_peer {
            return Self::Peer(Box::new(error));
        }
        Self::Protocol(error)
    }

    fn from_alert(alert: AlertDescription) -> Option<Self> {
        if let Some(alert) = Alert::from_code(u8::from(alert)) {
            return Some(Self::Refused(alert.reason()));
        }
        let about_certificate = [
            AlertDescription::BadCertificate,
            AlertDescription::UnsupportedCertificate,
            AlertDescription::CertificateRevoked,
            AlertDescription::CertificateExpired,
            AlertDescription::CertificateUnknown,
            AlertDescription::UnknownCA,
            AlertDescription::CertificateRequired,
        ];
        about_certificate
            .contains(&alert)
            .then(|| Self::NotAccepted(format!("{alert:?}")))
    }
}

/// A verifier's own error, unwrapped from the TLS library's.
#[derive(Debug)]
struct Cause(std::sync::Arc<dyn StdError + Send + Sync>);

impl std::fmt::Display for Cause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl StdError for Cause {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source()
    }
}
