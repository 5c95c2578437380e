//! Handshakes within a time limit, and what they found out.

use std::sync::Arc;
use std::time::Duration;

use portolan_model::SpiffeId;
use rustls::{ClientConfig, CommonState, ServerConfig};
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::error::TlsError;

/// A TLS stream that we dialled.
pub type ClientTls<S = TcpStream> = tokio_rustls::client::TlsStream<S>;
/// A TLS stream that we accepted.
pub type ServerTls<S = TcpStream> = tokio_rustls::server::TlsStream<S>;

/// A connection that we dialled. The server may still refuse our certificate: that is the error
/// of the first read.
#[derive(Debug)]
pub struct Connected<S = TcpStream> {
    /// The connection.
    pub stream: ClientTls<S>,
    /// Who answered.
    pub peer: SpiffeId,
    /// The protocol that both speak.
    pub alpn: Option<Vec<u8>>,
}

/// A connection that we accepted.
#[derive(Debug)]
pub struct Accepted<S = TcpStream> {
    /// The connection.
    pub stream: ServerTls<S>,
    /// Who dialled, if it said so.
    pub peer: Option<SpiffeId>,
    /// The certificates with which it said so, leaf first: to judge a live connection again when the
    /// trust bundle changed.
    pub chain: Vec<CertificateDer<'static>>,
    /// The server name it asked for.
    pub sni: Option<String>,
    /// The protocol that both speak.
    pub alpn: Option<Vec<u8>>,
}

/// Dials TLS over `io`, asking for the name `sni`.
///
/// # Errors
/// See [`TlsError`]; the handshake as a whole takes at most `limit`.
pub async fn connect<S>(
    config: &Arc<ClientConfig>,
    sni: &str,
    io: S,
    limit: Duration,
) -> Result<Connected<S>, TlsError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let name = ServerName::try_from(sni.to_owned()).map_err(|_| TlsError::Name(sni.to_owned()))?;
    let handshake = TlsConnector::from(config.clone()).connect(name, io);
    let stream = within(limit, handshake).await?;
    let state = stream.get_ref().1;
    let peer = peer(state)?.ok_or(TlsError::Closed)?;
    let alpn = state.alpn_protocol().map(<[u8]>::to_vec);
    Ok(Connected { stream, peer, alpn })
}

/// Answers TLS on `io`.
///
/// # Errors
/// See [`TlsError`]; the handshake as a whole takes at most `limit`.
pub async fn accept<S>(
    config: &Arc<ServerConfig>,
    io: S,
    limit: Duration,
) -> Result<Accepted<S>, TlsError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let stream = within(limit, TlsAcceptor::from(config.clone()).accept(io)).await?;
    let state = stream.get_ref().1;
    Ok(Accepted {
        peer: peer(state)?,
        chain: state.peer_certificates().unwrap_or_default().to_vec(),
        sni: state.server_name().map(str::to_owned),
        alpn: state.alpn_protocol().map(<[u8]>::to_vec),
        stream,
    })
}

async fn within<T>(
    limit: Duration,
    handshake: impl Future<Output = std::io::Result<T>>,
) -> Result<T, TlsError> {
    timeout(limit, handshake)
        .await
        .map_err(|_| TlsError::Timeout(limit))?
        .map_err(TlsError::from_io)
}

/// The identity that the verifier accepted in this handshake.
fn peer(state: &CommonState) -> Result<Option<SpiffeId>, TlsError> {
    let leaf = state.peer_certificates().and_then(|chain| chain.first());
    leaf.map(portolan_trust::identity_of)
        .transpose()
        .map_err(|error| TlsError::Peer(Box::new(error)))
}
