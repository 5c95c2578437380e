//! Whom to trust: the root certificates.

use rustls_pki_types::{CertificateDer, TrustAnchor};

use crate::pem;

/// The most roots a bundle holds.
pub const ROOTS_MAX: usize = 64;

/// The roots that identities must chain to. An empty bundle trusts nobody.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct TrustBundle {
    roots: Vec<CertificateDer<'static>>,
    anchors: Vec<TrustAnchor<'static>>,
}

/// Why certificates are not a bundle.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// The text is not PEM.
    #[error("the trust bundle is not PEM: write one `BEGIN CERTIFICATE` section for each root")]
    Pem(#[source] rustls_pki_types::pem::Error),
    /// There is no certificate in the text.
    #[error("the trust bundle holds no certificate: it would trust nobody")]
    Empty,
    /// A bound was reached.
    #[error("the trust bundle holds {0} certificates, more than {ROOTS_MAX}")]
    TooMany(usize),
    /// One of the certificates cannot be used as a root.
    #[error("certificate {index} of the trust bundle cannot be read as a root")]
    Root {
        /// Which one, counted from 1.
        index: usize,
        /// What is wrong with it.
        #[source]
        source: webpki::Error,
    },
}

impl TrustBundle {
    /// Reads PEM with at least one certificate.
    ///
    /// # Errors
    /// When the text is not PEM, holds no or too many certificates, or one that cannot be read.
    pub fn from_pem(text: &str) -> Result<Self, BundleError> {
        let roots = pem::certificates(text).map_err(BundleError::Pem)?;
        if roots.is_empty() {
            return Err(BundleError::Empty);
        }
        Self::from_der(roots.into_iter().map(|root| root.to_vec()))
    }

    /// Takes root certificates in DER. Equal ones count once; none at all trusts nobody.
    ///
    /// # Errors
    /// When there are too many, or one cannot be read.
    pub fn from_der(roots: impl IntoIterator<Item = Vec<u8>>) -> Result<Self, BundleError> {
        let mut bundle = Self::default();
        for (index, root) in roots.into_iter().enumerate() {
            let root = CertificateDer::from(root);
            if bundle.roots.contains(&root) {
                continue;
            }
            if bundle.roots.len() == ROOTS_MAX {
                return Err(BundleError::TooMany(index + 1));
            }
            let anchor = webpki::anchor_from_trusted_cert(&root)
                .map_err(|source| BundleError::Root {
                    index: index + 1,
                    source,
                })?
                .to_owned();
            bundle.anchors.push(anchor);
            bundle.roots.push(root);
        }
        Ok(bundle)
    }

    /// The roots as PEM.
    #[must_use]
    pub fn to_pem(&self) -> String {
        self.roots
            .iter()
            .map(|root| pem::encode("CERTIFICATE", root))
            .collect()
    }

    /// The root certificates.
    #[must_use]
    pub fn roots(&self) -> &[CertificateDer<'static>] {
        &self.roots
    }

    /// Whether the bundle trusts nobody.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.roots.is_empty()
    }

    pub(crate) fn anchors(&self) -> &[TrustAnchor<'static>] {
        &self.anchors
    }
}

impl std::fmt::Debug for TrustBundle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TrustBundle({} roots)", self.roots.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::root;

    #[test]
    fn pem_round_trips_and_equal_roots_count_once() {
        let (one, two) = (root("set-a"), root("set-b"));
        let text = format!("{}{}{}", one.cert_pem(), two.cert_pem(), one.cert_pem());
        let bundle = TrustBundle::from_pem(&text).unwrap();
        assert_eq!(bundle.roots().len(), 2);
        assert_eq!(TrustBundle::from_pem(&bundle.to_pem()).unwrap(), bundle);
    }

    #[test]
    fn what_is_no_bundle_is_refused() {
        assert!(matches!(TrustBundle::from_pem(""), Err(BundleError::Empty)));
        let junk = pem::encode("CERTIFICATE", b"junk");
        assert!(matches!(
            TrustBundle::from_pem(&junk),
            Err(BundleError::Root { index: 1, .. })
        ));
        assert!(TrustBundle::default().is_empty());
    }
}
