//! The cluster's certificate authority as it lies on disk, checked before anything is served, and
//! the control plane's own certificate.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use portolan_model::{ClusterIdentity, SpiffeId, TrustDomain};
use portolan_runtime::Shutdown;
use portolan_transport::mtls::{TlsContext, TlsError};
use portolan_trust::{
    AuthorityError, BundleError, CertificateAuthority, Identity, IdentityError, IssueError,
    KeyRequest, TrustBundle, Usage, VerifyError, verify,
};
use rustls_pki_types::UnixTime;

use crate::config::CaConfig;

/// How long certificates live.
pub(crate) const LEAF_TTL: Duration = Duration::from_secs(24 * 3600);
/// How long until a failed renewal of the own certificate is tried again.
const RENEWAL_RETRY: Duration = Duration::from_secs(60);

/// What is wrong with the certificate authority.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// A file cannot be read.
    #[error("cannot read {what} {}; check ca.{field} in the configuration and the file's permissions", path.display())]
    Read {
        /// What the file should hold.
        what: &'static str,
        /// The configuration's field.
        field: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Certificate or key are unusable, or do not belong together.
    #[error("the certificate authority in {} and {} cannot be used", certificate.display(), key.display())]
    Authority {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// What is wrong.
        source: AuthorityError,
    },
    /// The roots are unusable.
    #[error("the roots in {} cannot be used", path.display())]
    Roots {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: BundleError,
    },
    /// The authority is another cluster's.
    #[error(
        "the certificate in {} is for trust domain `{found}`, but this cluster's is `{configured}`; use this cluster's certificate, or set trustDomain", path.display()
    )]
    TrustDomain {
        /// The certificate's file.
        path: PathBuf,
        /// Whose it is.
        found: TrustDomain,
        /// Whose it should be.
        configured: TrustDomain,
    },
    /// The authority expired.
    #[error("the certificate in {} expired {}; have the root sign a new one", path.display(), humantime::format_rfc3339_seconds(*.since))]
    Expired {
        /// The certificate's file.
        path: PathBuf,
        /// When.
        since: SystemTime,
    },
    /// What it issues would not be trusted.
    #[error("certificates issued by {} would not be trusted under the roots in {}; both must come from the same root", certificate.display(), roots.display())]
    NotUnderRoots {
        /// The certificate's file.
        certificate: PathBuf,
        /// The roots' file.
        roots: PathBuf,
        /// What a verifier says.
        source: VerifyError,
    },
    /// A key cannot be made.
    #[error("cannot make a key for the control plane")]
    Key(#[source] AuthorityError),
    /// The own certificate cannot be issued.
    #[error("cannot issue the control plane's own certificate")]
    Issue(#[from] IssueError),
    /// The own certificate is not what was asked for.
    #[error("the control plane's own certificate cannot be used")]
    Own(#[from] IdentityError),
    /// TLS cannot use the own certificate.
    #[error("TLS cannot use the control plane's own certificate")]
    Present(#[source] TlsError),
}

/// The authority with the roots that its certificates lead to.
pub(crate) struct Ca {
    pub(crate) authority: CertificateAuthority,
    pub(crate) roots: TrustBundle,
    own: SpiffeId,
}

impl Ca {
    /// Reads and checks the authority's files, and issues the control plane's first certificate.
    pub(crate) fn load(
        config: &CaConfig,
        cluster: &ClusterIdentity,
    ) -> Result<(Arc<Self>, Identity), CaError> {
        let certificate = read("the CA's certificate", "certificate", &config.certificate)?;
        let key = read("the CA's key", "key", &config.key)?;
        warn_of_open_key(&config.key);
        let roots = read("the roots", "roots", &config.roots)?;
        let authority = CertificateAuthority::from_pem(&certificate, &key).map_err(|source| {
            CaError::Authority {
                certificate: config.certificate.clone(),
                key: config.key.clone(),
                source,
            }
        })?;
        if authority.trust_domain() != &cluster.trust_domain {
            return Err(CaError::TrustDomain {
                path: config.certificate.clone(),
                found: authority.trust_domain().clone(),
                configured: cluster.trust_domain.clone(),
            });
        }
        if authority.not_after_s() <= now_s() {
            return Err(CaError::Expired {
                path: config.certificate.clone(),
                since: SystemTime::UNIX_EPOCH + Duration::from_secs(authority.not_after_s()),
            });
        }
        let roots = TrustBundle::from_pem(&roots).map_err(|source| CaError::Roots {
            path: config.roots.clone(),
            source,
        })?;
        let ca = Self {
            authority,
            roots,
            own: SpiffeId::control(&cluster.trust_domain, &cluster.name),
        };
        let identity = ca.issue_own()?;
        verify(&identity.chain, &ca.roots, Usage::Server, UnixTime::now()).map_err(|source| {
            CaError::NotUnderRoots {
                certificate: config.certificate.clone(),
                roots: config.roots.clone(),
                source,
            }
        })?;
        Ok((Arc::new(ca), identity))
    }

    fn issue_own(&self) -> Result<Identity, CaError> {
        let request = KeyRequest::new().map_err(CaError::Key)?;
        let chain = self
            .authority
            .issue(&request.csr_der, &self.own, LEAF_TTL, now_s())?;
        Ok(request.into_identity(chain)?)
    }

    /// Renews the control plane's own certificate around half of its life, until shutdown.
    pub(crate) async fn renew_own(self: Arc<Self>, tls: TlsContext, shutdown: Shutdown) {
        let mut not_after_s = tls.identity().map_or(0, |identity| identity.not_after_s);
        loop {
            let left = Duration::from_secs(not_after_s.saturating_sub(now_s()));
            let wait = left.mul_f64(rand::random_range(0.45..0.55));
            tokio::select! {
                () = shutdown.triggered() => return,
                () = tokio::time::sleep(wait.max(RENEWAL_RETRY)) => {}
            }
            match self.renew(&tls) {
                Ok(ends) => {
                    not_after_s = ends;
                    tracing::info!(not_after_s, "renewed the control plane's own certificate");
                }
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::error!(error, "cannot renew the control plane's own certificate");
                }
            }
        }
    }

    fn renew(&self, tls: &TlsContext) -> Result<u64, CaError> {
        let identity = self.issue_own()?;
        let not_after_s = identity.not_after_s;
        tls.swap_identity(identity).map_err(CaError::Present)?;
        Ok(not_after_s)
    }
}

/// Now, in Unix seconds.
pub(crate) fn now_s() -> u64 {
    UnixTime::now().as_secs()
}

fn read(what: &'static str, field: &'static str, path: &Path) -> Result<String, CaError> {
    std::fs::read_to_string(path).map_err(|source| CaError::Read {
        what,
        field,
        path: path.to_owned(),
        source,
    })
}

fn warn_of_open_key(path: &Path) {
    let mode = std::fs::metadata(path).map_or(0, |metadata| metadata.mode());
    if mode & 0o077 != 0 {
        tracing::warn!(
            "others than its owner may read the CA's key {} (mode {:o}); run `chmod 600` on it",
            path.display(),
            mode & 0o777
        );
    }
}
