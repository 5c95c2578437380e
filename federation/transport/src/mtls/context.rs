//! Who we are and whom we trust, and the TLS configurations that obey it.

use std::fmt;
use std::sync::Arc;

use arc_swap::{ArcSwap, ArcSwapOption};
use portolan_trust::{Identity, TrustBundle};
use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::NoServerSessionStorage;
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, ConfigBuilder, ServerConfig, WantsVerifier};

use super::error::TlsError;
use super::expect::Expect;
use super::verifier::{Current, Presented, Presenter, Verifier};

/// Whether a server asks its clients who they are.
#[derive(Debug, Clone)]
pub enum ClientAuth {
    /// A client must present a valid certificate.
    Required,
    /// A client may present none; if it presents one, it must be valid.
    Optional,
    /// A client must present a valid certificate of somebody expected.
    Only(Expect),
}

/// The identity and trust bundle of this process. Clones are the same context.
#[derive(Clone)]
pub struct TlsContext {
    current: Arc<Current>,
    client: ConfigBuilder<ClientConfig, WantsVerifier>,
    server: ConfigBuilder<ServerConfig, WantsVerifier>,
}

impl TlsContext {
    /// A context. Without an identity it serves nobody, and presents nothing as a client.
    ///
    /// # Errors
    /// When the identity's key cannot be used for TLS.
    pub fn new(identity: Option<Identity>, trust: TrustBundle) -> Result<Self, TlsError> {
        let provider = Arc::new(provider());
        let only_tls13 = &[&rustls::version::TLS13];
        let identity = identity.map(present).transpose()?;
        Ok(Self {
            current: Arc::new(Current {
                identity: ArcSwapOption::new(identity.map(Arc::new)),
                trust: ArcSwap::from_pointee(trust),
                algorithms: provider.signature_verification_algorithms,
            }),
            client: ClientConfig::builder_with_provider(provider.clone())
                .with_protocol_versions(only_tls13)
                .map_err(TlsError::Protocol)?,
            server: ServerConfig::builder_with_provider(provider)
                .with_protocol_versions(only_tls13)
                .map_err(TlsError::Protocol)?,
        })
    }

    /// Presents another identity from the next handshake on. Connections that live are not touched.
    ///
    /// # Errors
    /// When the identity's key cannot be used for TLS; the former identity stays.
    pub fn swap_identity(&self, identity: Identity) -> Result<(), TlsError> {
        let presented = present(identity)?;
        self.current.identity.store(Some(Arc::new(presented)));
        Ok(())
    }

    /// Trusts other roots from the next handshake on. Connections that live are not touched.
    pub fn swap_trust(&self, trust: TrustBundle) {
        self.current.trust.store(Arc::new(trust));
    }

    /// Who we are.
    #[must_use]
    pub fn identity(&self) -> Option<Arc<Identity>> {
        let presented = self.current.identity.load();
        presented
            .as_ref()
            .map(|presented| presented.identity.clone())
    }

    /// Whom we trust.
    #[must_use]
    pub fn trust(&self) -> Arc<TrustBundle> {
        self.current.trust.load_full()
    }

    /// A configuration for dialling whoever is expected. `with_identity`: present ours if asked.
    /// Build it once per target and keep it.
    #[must_use]
    pub fn client_config(
        &self,
        expect: Expect,
        alpn: &[&[u8]],
        with_identity: bool,
    ) -> Arc<ClientConfig> {
        let mut config = self
            .client
            .clone()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(self.verifier(expect, true)))
            .with_client_cert_resolver(Arc::new(self.presenter(with_identity)));
        config.alpn_protocols = owned(alpn);
        config.resumption = Resumption::disabled();
        Arc::new(config)
    }

    /// A configuration for serving. Build it once and keep it.
    #[must_use]
    pub fn server_config(&self, alpn: &[&[u8]], client: ClientAuth) -> Arc<ServerConfig> {
        let (expect, mandatory) = match client {
            ClientAuth::Required => (Expect::Anybody, true),
            ClientAuth::Optional => (Expect::Anybody, false),
            ClientAuth::Only(expect) => (expect, true),
        };
        let mut config = self
            .server
            .clone()
            .with_client_cert_verifier(Arc::new(self.verifier(expect, mandatory)))
            .with_cert_resolver(Arc::new(self.presenter(true)));
        config.alpn_protocols = owned(alpn);
        // A resumed session is not judged again: neither tickets nor a session store.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Arc::new(config)
    }

    fn verifier(&self, expect: Expect, mandatory: bool) -> Verifier {
        Verifier {
            current: self.current.clone(),
            expect,
            mandatory,
        }
    }

    fn presenter(&self, offer: bool) -> Presenter {
        Presenter {
            current: self.current.clone(),
            offer,
        }
    }
}

/// The provider, its post-quantum hybrid first. AES-128 goes before AES-256, which protects no
/// better against anybody here and costs more on every byte.
pub(super) fn provider() -> CryptoProvider {
    let mut provider = aws_lc_rs::default_provider();
    let fast = rustls::CipherSuite::TLS13_AES_128_GCM_SHA256;
    provider
        .cipher_suites
        .sort_by_key(|suite| suite.suite() != fast);
    provider
}

fn present(identity: Identity) -> Result<Presented, TlsError> {
    let key = aws_lc_rs::sign::any_supported_type(&identity.key).map_err(TlsError::Key)?;
    Ok(Presented {
        certified: Arc::new(CertifiedKey::new(identity.chain.clone(), key)),
        identity: Arc::new(identity),
    })
}

fn owned(alpn: &[&[u8]]) -> Vec<Vec<u8>> {
    alpn.iter().map(|protocol| protocol.to_vec()).collect()
}

impl fmt::Debug for TlsContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsContext")
            .field("identity", &self.identity())
            .field("trust", &self.trust())
            .finish()
    }
}
