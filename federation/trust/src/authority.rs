//! A cluster's certificate authority: it certifies keys for identities of its trust domain.

use std::time::Duration;

use portolan_model::{SpiffeId, TrustDomain};
use rcgen::{
    CertificateParams, CertificateSigningRequestParams, DistinguishedName, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData,
};
use rustls_pki_types::{CertificateDer, CertificateSigningRequestDer};

use crate::root::{self, AuthorityError};
use crate::verify;

/// Certificates begin this many seconds before they are issued, for verifiers whose clock is late.
pub const BACKDATE_S: u64 = 60;

/// The longest life of a leaf, whatever is asked for.
pub const LEAF_TTL_MAX: Duration = Duration::from_secs(30 * 24 * 3600);

/// The largest signing request that is read, in bytes.
const CSR_MAX: usize = 16 * 1024;

/// An uncompressed point of P-256 and of P-384, in bytes.
const P256_POINT: usize = 65;
const P384_POINT: usize = 97;

/// Why a certificate is not issued.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// The request cannot be read, or its signature does not prove possession of the key.
    #[error("the signing request is malformed, or not signed by the key it asks for")]
    Request(#[source] rcgen::Error),
    /// The request is too large.
    #[error("the signing request has {0} bytes, more than {CSR_MAX}")]
    TooLarge(usize),
    /// The key is of a kind that is not certified.
    #[error("the signing request's key is not ECDSA P-256 or P-384")]
    Key,
    /// The identity belongs to another trust domain.
    #[error("`{id}` is not in trust domain `{domain}`, the only one this authority certifies")]
    ForeignTrustDomain {
        /// What was asked for.
        id: SpiffeId,
        /// What the authority certifies.
        domain: TrustDomain,
    },
    /// The identity is the trust domain itself.
    #[error("`{0}` names a trust domain and nobody in it: only leaves are certified")]
    NotLeaf(SpiffeId),
    /// The authority ended.
    #[error(
        "the cluster's authority ended at {not_after_s} (Unix seconds): have the root sign a new one"
    )]
    Ended {
        /// When.
        not_after_s: u64,
    },
    /// The certificate could not be made.
    #[error("the certificate could not be made")]
    Sign(#[source] rcgen::Error),
    /// The identity cannot stand in a certificate.
    #[error("`{id}` cannot stand in a certificate")]
    Name {
        /// What was asked for.
        id: SpiffeId,
        /// Why.
        #[source]
        source: AuthorityError,
    },
}

/// A cluster's authority.
pub struct CertificateAuthority {
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
    domain: TrustDomain,
    not_after_s: u64,
}

impl CertificateAuthority {
    /// Reads the certificate and key that [`RootAuthority::sign_intermediate`](crate::RootAuthority::sign_intermediate) made.
    ///
    /// # Errors
    /// When a text is not PEM, the two are no pair, or the certificate is not a cluster authority's.
    pub fn from_pem(cert_pem: &str, key_pem: &str) -> Result<Self, AuthorityError> {
        let (certificate, key, facts) = root::read_pair(cert_pem, key_pem)?;
        Ok(Self {
            domain: verify::authority_domain(&facts).map_err(AuthorityError::TrustDomain)?,
            issuer: Issuer::from_ca_cert_der(&certificate, key)
                .map_err(AuthorityError::Generate)?,
            certificate,
            not_after_s: facts.not_after_s,
        })
    }

    /// The trust domain it certifies.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.domain
    }

    /// When it ends, Unix seconds. No leaf outlives it.
    #[must_use]
    pub fn not_after_s(&self) -> u64 {
        self.not_after_s
    }

    /// Certifies the request's key for `id`, and answers leaf and authority, in this order.
    ///
    /// Everything else that the request asks for is ignored. The leaf begins [`BACKDATE_S`] before
    /// `now_s` and ends `ttl` after it, at most [`LEAF_TTL_MAX`], and no later than the authority.
    ///
    /// # Errors
    /// When the request is malformed or not signed by its key, or `id` is not a leaf of the
    /// authority's trust domain, or the authority ended.
    pub fn issue(
        &self,
        csr_der: &[u8],
        id: &SpiffeId,
        ttl: Duration,
        now_s: u64,
    ) -> Result<Vec<CertificateDer<'static>>, IssueError> {
        if id.trust_domain() != &self.domain {
            return Err(IssueError::ForeignTrustDomain {
                id: id.clone(),
                domain: self.domain.clone(),
            });
        }
        if id.path().is_empty() {
            return Err(IssueError::NotLeaf(id.clone()));
        }
        if now_s >= self.not_after_s {
            return Err(IssueError::Ended {
                not_after_s: self.not_after_s,
            });
        }
        let mut request = read_request(csr_der)?;
        let end = now_s.saturating_add(ttl.min(LEAF_TTL_MAX).as_secs());
        request.params = leaf_params(id, now_s, end.min(self.not_after_s))?;
        let leaf = request.signed_by(&self.issuer).map_err(IssueError::Sign)?;
        Ok(vec![leaf.into(), self.certificate.clone()])
    }
}

/// Reads the request, verifies its signature and the kind of its key.
fn read_request(csr_der: &[u8]) -> Result<CertificateSigningRequestParams, IssueError> {
    if csr_der.len() > CSR_MAX {
        return Err(IssueError::TooLarge(csr_der.len()));
    }
    let request =
        CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(csr_der))
            .map_err(IssueError::Request)?;
    let key = &request.public_key;
    let known = [
        (&rcgen::PKCS_ECDSA_P256_SHA256, P256_POINT),
        (&rcgen::PKCS_ECDSA_P384_SHA384, P384_POINT),
    ];
    // The request's signature algorithm stands for the key's, so their sizes must agree.
    if !known
        .iter()
        .any(|(algorithm, size)| key.algorithm() == *algorithm && key.der_bytes().len() == *size)
    {
        return Err(IssueError::Key);
    }
    Ok(request)
}

/// A leaf as X509-SVID wants it. Its subject is empty, which makes the URI name critical.
fn leaf_params(
    id: &SpiffeId,
    now_s: u64,
    not_after_s: u64,
) -> Result<CertificateParams, IssueError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.serial_number = Some(root::serial());
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    params.use_authority_key_identifier_extension = true;
    params.subject_alt_names = vec![root::uri_name(id).map_err(|source| IssueError::Name {
        id: id.clone(),
        source,
    })?];
    root::set_validity(&mut params, now_s, not_after_s);
    Ok(params)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{DAY_S, NOW_S, World};
    use crate::{Identity, KeyRequest};
    use x509_parser::prelude::{FromDer, X509Certificate};

    const ID: &str = "spiffe://a.set/ns/shop/sa/web";

    fn issue(
        world: &World,
        id: &str,
        ttl_s: u64,
    ) -> Result<Vec<CertificateDer<'static>>, IssueError> {
        let request = KeyRequest::new().unwrap();
        let id = SpiffeId::parse(id).unwrap();
        let ttl = Duration::from_secs(ttl_s);
        world
            .authority("a")
            .issue(&request.csr_der, &id, ttl, NOW_S)
    }

    #[test]
    fn a_leaf_is_an_x509_svid() {
        let chain = issue(&World::new(), ID, DAY_S).unwrap();
        assert_eq!(chain.len(), 2);
        let (_, leaf) = X509Certificate::from_der(&chain[0]).unwrap();
        assert!(!leaf.is_ca());
        assert_eq!(leaf.subject().iter().count(), 0);
        let names = leaf.subject_alternative_name().unwrap().unwrap();
        assert!(names.critical && names.value.general_names.len() == 1);
        let usage = leaf.key_usage().unwrap().unwrap();
        assert!(usage.critical && usage.value.digital_signature() && !usage.value.key_cert_sign());
        let extended = leaf.extended_key_usage().unwrap().unwrap();
        assert!(extended.value.server_auth && extended.value.client_auth);
        let validity = leaf.validity();
        assert_eq!(validity.not_before.timestamp() as u64, NOW_S - BACKDATE_S);
        assert_eq!(validity.not_after.timestamp() as u64, NOW_S + DAY_S);
    }

    #[test]
    fn a_leaf_s_life_is_bounded() {
        let world = World::new();
        let end = |ttl_s, now_s| {
            let request = KeyRequest::new().unwrap();
            let id = SpiffeId::parse(ID).unwrap();
            let ttl = Duration::from_secs(ttl_s);
            let chain = world
                .authority("a")
                .issue(&request.csr_der, &id, ttl, now_s)
                .unwrap();
            request.into_identity(chain).unwrap().not_after_s
        };
        assert_eq!(end(u64::MAX, NOW_S), NOW_S + LEAF_TTL_MAX.as_secs());
        let authority_end = world.authority("a").not_after_s();
        assert_eq!(end(DAY_S, authority_end - 10), authority_end);
    }

    #[test]
    fn only_leaves_of_the_own_trust_domain_are_issued() {
        let world = World::new();
        assert!(matches!(
            issue(&world, "spiffe://b.set/ns/shop/sa/web", DAY_S),
            Err(IssueError::ForeignTrustDomain { .. })
        ));
        assert!(matches!(
            issue(&world, "spiffe://a.set", DAY_S),
            Err(IssueError::NotLeaf(_))
        ));
    }

    #[test]
    fn a_request_must_be_signed_by_its_key() {
        let world = World::new();
        let mut request = KeyRequest::new().unwrap().csr_der;
        let last = request.len() - 1;
        request[last] ^= 1;
        let id = SpiffeId::parse(ID).unwrap();
        let issue = |csr: &[u8]| world.authority("a").issue(csr, &id, LEAF_TTL_MAX, NOW_S);
        assert!(matches!(issue(&request), Err(IssueError::Request(_))));
        assert!(matches!(issue(b"junk"), Err(IssueError::Request(_))));
        assert!(matches!(
            issue(&[0; CSR_MAX + 1]),
            Err(IssueError::TooLarge(_))
        ));
    }

    #[test]
    fn what_else_a_request_asks_for_is_ignored() {
        let world = World::new();
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
        let mut params = CertificateParams::new(["evil.example".to_owned()]).unwrap();
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let csr = params.serialize_request(&key).unwrap();
        let id = SpiffeId::parse(ID).unwrap();
        let chain = world
            .authority("a")
            .issue(csr.der(), &id, LEAF_TTL_MAX, NOW_S)
            .unwrap();
        let facts = crate::certificate::read(&chain[0]).unwrap();
        assert!(!facts.is_ca && !facts.key_cert_sign);
        assert_eq!(facts.uris, [ID]);
        let key = rustls_pki_types::PrivatePkcs8KeyDer::from(key.serialize_der());
        assert_eq!(Identity::new(chain, key.into()).unwrap().id, id);
    }

    #[test]
    fn other_certificates_are_no_cluster_authority() {
        let world = World::new();
        let root = CertificateAuthority::from_pem(&world.root.cert_pem(), &world.root.key_pem());
        assert!(matches!(root, Err(AuthorityError::TrustDomain(_))));
        let leaf = world.identity("a", ID).to_pem();
        let leaf = CertificateAuthority::from_pem(&leaf, &leaf);
        assert!(matches!(leaf, Err(AuthorityError::NotAuthority(_))));
    }
}
