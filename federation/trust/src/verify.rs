//! Verification of X509-SVIDs, and the rule that scopes trust to trust domains.

use portolan_model::{NameError, SpiffeId, TrustDomain};
use rustls_pki_types::{CertificateDer, UnixTime};
use webpki::{ALL_VERIFICATION_ALGS, EndEntityCert, KeyUsage};

use crate::bundle::TrustBundle;
use crate::certificate::{self, CertificateError, Facts};
use crate::identity::CHAIN_MAX;

/// What the certificate is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Usage {
    /// Its holder is the TLS client.
    Client,
    /// Its holder is the TLS server.
    Server,
}

/// An identity that was verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// Who.
    pub id: SpiffeId,
    /// When the leaf ends to be valid, Unix seconds.
    pub not_after_s: u64,
}

/// Why a chain is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// No certificate was presented.
    #[error("no certificate was presented")]
    NoCertificate,
    /// More certificates than a chain may have.
    #[error("{0} certificates were presented, more than {CHAIN_MAX}")]
    TooMany(usize),
    /// A certificate cannot be read.
    #[error("a certificate of the chain cannot be used")]
    Certificate(#[from] CertificateError),
    /// The leaf, or a certificate above it, ended.
    #[error("a certificate of the chain expired: it was not renewed, or the clocks differ")]
    Expired,
    /// The leaf, or a certificate above it, begins later.
    #[error("a certificate of the chain is not valid yet: the clocks differ")]
    NotYetValid,
    /// No root of the trust bundle signed the chain.
    #[error("the chain does not lead to a root of the trust bundle")]
    UnknownIssuer,
    /// Path validation failed for another reason.
    #[error("the chain's path is not valid")]
    Path(#[source] webpki::Error),
    /// The leaf is a certificate authority.
    #[error("a certificate authority's certificate was presented as an identity")]
    Authority,
    /// The leaf's key may sign certificates or revocation lists.
    #[error("the leaf's key usage lets it sign certificates or revocation lists")]
    MaySign,
    /// The certificate has none or several URI names.
    #[error("the {whose} certificate has {count} URI names where exactly one SPIFFE ID must be")]
    Uris {
        /// `leaf` or `issuing`.
        whose: &'static str,
        /// How many.
        count: usize,
    },
    /// The URI name is not a SPIFFE ID.
    #[error("the {whose} certificate's URI name is not a SPIFFE ID")]
    Id {
        /// `leaf` or `issuing`.
        whose: &'static str,
        /// Which rule it breaks.
        #[source]
        source: NameError,
    },
    /// The leaf's SPIFFE ID has no path.
    #[error("the leaf names the trust domain `{0}` and nobody in it")]
    NoPath(TrustDomain),
    /// A root signed the leaf.
    #[error(
        "a root signed the leaf of trust domain `{0}` directly; only a cluster's authority may"
    )]
    SignedByRoot(TrustDomain),
    /// An authority below a cluster's authority signed the leaf.
    #[error("an authority below a cluster's authority signed the leaf; only the latter may")]
    TooDeep,
    /// The issuing certificate names no trust domain, or may not sign certificates.
    #[error("the issuing certificate is not a cluster's authority: {0}")]
    Issuer(&'static str),
    /// THE rule.
    #[error("the authority of trust domain `{issuer}` signed an identity of trust domain `{leaf}`")]
    ForeignTrustDomain {
        /// The leaf's trust domain.
        leaf: TrustDomain,
        /// The trust domain of the authority that signed it.
        issuer: TrustDomain,
    },
}

/// Verifies the chain (leaf first) of a peer against the bundle.
///
/// # Errors
/// Says which rule of RFC 5280, of X509-SVID or of ours (see the crate) the chain breaks.
pub fn verify(
    chain: &[CertificateDer<'_>],
    bundle: &TrustBundle,
    usage: Usage,
    now: UnixTime,
) -> Result<Verified, VerifyError> {
    let (leaf, intermediates) = chain.split_first().ok_or(VerifyError::NoCertificate)?;
    verify_parts(leaf, intermediates, bundle, usage, now)
}

/// [`verify`] for a chain whose leaf is apart from the rest.
///
/// # Errors
/// As [`verify`].
pub fn verify_parts(
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    bundle: &TrustBundle,
    usage: Usage,
    now: UnixTime,
) -> Result<Verified, VerifyError> {
    if intermediates.len() >= CHAIN_MAX {
        return Err(VerifyError::TooMany(intermediates.len() + 1));
    }
    let end_entity = EndEntityCert::try_from(leaf).map_err(path_error)?;
    let key_usage = match usage {
        Usage::Client => KeyUsage::client_auth(),
        Usage::Server => KeyUsage::server_auth(),
    };
    let path = end_entity
        .verify_for_usage(
            ALL_VERIFICATION_ALGS,
            bundle.anchors(),
            intermediates,
            now,
            key_usage,
            None,
            None,
        )
        .map_err(path_error)?;

    let facts = certificate::read(leaf)?;
    let id = leaf_id(&facts)?;
    let mut issuers = path.intermediate_certificates();
    let Some(issuer) = issuers.next() else {
        return Err(VerifyError::SignedByRoot(id.trust_domain().clone()));
    };
    if issuers.next().is_some() {
        return Err(VerifyError::TooDeep);
    }
    let issuer = authority_domain(&certificate::read(&issuer.der())?)?;
    if &issuer != id.trust_domain() {
        return Err(VerifyError::ForeignTrustDomain {
            leaf: id.trust_domain().clone(),
            issuer,
        });
    }
    Ok(Verified {
        id,
        not_after_s: facts.not_after_s,
    })
}

/// The SPIFFE ID in a leaf certificate, **without verifying it**: for a peer's certificate that
/// [`verify`] accepted in the handshake, and for one's own.
///
/// # Errors
/// When the certificate cannot be read or is not an X509-SVID leaf.
pub fn identity_of(leaf: &CertificateDer<'_>) -> Result<SpiffeId, VerifyError> {
    leaf_id(&certificate::read(leaf)?)
}

/// The rules for leaves (X509-SVID §5.2).
fn leaf_id(facts: &Facts) -> Result<SpiffeId, VerifyError> {
    if facts.is_ca {
        return Err(VerifyError::Authority);
    }
    if facts.key_cert_sign || facts.crl_sign {
        return Err(VerifyError::MaySign);
    }
    let id = single_id(facts, "leaf")?;
    if id.path().is_empty() {
        return Err(VerifyError::NoPath(id.trust_domain().clone()));
    }
    Ok(id)
}

/// The trust domain that an authority's certificate speaks for (X509-SVID §4).
pub(crate) fn authority_domain(facts: &Facts) -> Result<TrustDomain, VerifyError> {
    if !facts.is_ca {
        return Err(VerifyError::Issuer("its basic constraints lack cA"));
    }
    if !facts.key_cert_sign {
        return Err(VerifyError::Issuer("its key usage lacks keyCertSign"));
    }
    let id = single_id(facts, "issuing")?;
    if !id.path().is_empty() {
        return Err(VerifyError::Issuer("its SPIFFE ID has a path"));
    }
    Ok(id.trust_domain().clone())
}

fn single_id(facts: &Facts, whose: &'static str) -> Result<SpiffeId, VerifyError> {
    let [uri] = facts.uris.as_slice() else {
        return Err(VerifyError::Uris {
            whose,
            count: facts.uris.len(),
        });
    };
    SpiffeId::parse(uri).map_err(|source| VerifyError::Id { whose, source })
}

fn path_error(error: webpki::Error) -> VerifyError {
    if matches!(error, webpki::Error::CertExpired { .. }) {
        VerifyError::Expired
    } else if matches!(error, webpki::Error::CertNotValidYet { .. }) {
        VerifyError::NotYetValid
    } else if matches!(error, webpki::Error::UnknownIssuer) {
        VerifyError::UnknownIssuer
    } else if matches!(error, webpki::Error::CaUsedAsEndEntity) {
        VerifyError::Authority
    } else {
        VerifyError::Path(error)
    }
}

#[cfg(test)]
mod tests;
