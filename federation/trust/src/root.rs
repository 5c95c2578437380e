//! The root authority of a cluster set. It is needed when a cluster joins, and offline otherwise.

use std::time::Duration;

use portolan_model::{ClusterSetName, SpiffeId, TrustDomain};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType, SerialNumber,
};
use rustls_pki_types::CertificateDer;

use crate::authority::BACKDATE_S;
use crate::certificate::{self, CertificateError};
use crate::pem;

/// How long a cluster's authority is certified, unless the root ends earlier.
pub const INTERMEDIATE_VALIDITY: Duration = Duration::from_secs(365 * 24 * 3600);

/// The last second X.509 can name, 9999-12-31T23:59:59Z.
const END_OF_TIME_S: u64 = 253_402_300_799;

/// Why an authority cannot be made or read.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// A key or certificate could not be made.
    #[error("the key or certificate could not be made")]
    Generate(#[source] rcgen::Error),
    /// A PEM text does not hold what it should.
    #[error("the authority's {what} is not PEM with one `BEGIN` section of that kind")]
    Pem {
        /// `certificate` or `private key`.
        what: &'static str,
        /// What the reader met.
        #[source]
        source: rustls_pki_types::pem::Error,
    },
    /// The certificate's text holds no certificate.
    #[error("the authority's certificate file holds no certificate")]
    NoCertificate,
    /// The certificate cannot be read.
    #[error("the authority's certificate cannot be used")]
    Certificate(#[from] CertificateError),
    /// The key cannot be used.
    #[error(
        "the authority's private key cannot be used: it must be ECDSA P-256 or P-384 in PKCS#8"
    )]
    Key(#[source] rcgen::Error),
    /// Key and certificate are not a pair.
    #[error("the authority's private key does not match its certificate")]
    Mismatch,
    /// The certificate is not an authority's.
    #[error("the certificate is not a certificate authority's: {0}")]
    NotAuthority(&'static str),
    /// The certificate names no trust domain.
    #[error(
        "the certificate is not a cluster authority's: it must carry one URI name `spiffe://<trust domain>`"
    )]
    TrustDomain(#[source] crate::VerifyError),
    /// The root already ended.
    #[error("the root ended at {not_after_s} (Unix seconds): create a new one and rotate")]
    Ended {
        /// When.
        not_after_s: u64,
    },
}

/// What the root hands to a cluster: its authority's certificate and key.
#[derive(Clone)]
pub struct IntermediatePem {
    /// The certificate.
    pub cert_pem: String,
    /// The private key. It is a secret.
    pub key_pem: String,
}

/// The authority whose certificate every cluster of the set trusts.
pub struct RootAuthority {
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
    not_after_s: u64,
}

impl RootAuthority {
    /// Makes a new root (ECDSA P-256) for the cluster set, valid from now on.
    ///
    /// # Errors
    /// When the system gives no randomness.
    pub fn create(
        set: &ClusterSetName,
        validity: Duration,
        now_s: u64,
    ) -> Result<Self, AuthorityError> {
        let key = generate()?;
        let not_after_s = now_s.saturating_add(validity.as_secs()).min(END_OF_TIME_S);
        let mut params = authority_params(&format!("{set} root"), 1, now_s, not_after_s);
        params.serial_number = Some(serial());
        let certificate = params.self_signed(&key).map_err(AuthorityError::Generate)?;
        Ok(Self {
            certificate: certificate.into(),
            issuer: Issuer::new(params, key),
            not_after_s,
        })
    }

    /// Reads a root that was created earlier.
    ///
    /// # Errors
    /// When a text is not PEM, the two are no pair, or the certificate is not an authority's.
    pub fn from_pem(cert_pem: &str, key_pem: &str) -> Result<Self, AuthorityError> {
        let (certificate, key, facts) = read_pair(cert_pem, key_pem)?;
        Ok(Self {
            issuer: Issuer::from_ca_cert_der(&certificate, key)
                .map_err(AuthorityError::Generate)?,
            certificate,
            not_after_s: facts.not_after_s,
        })
    }

    /// The root's certificate: what a trust bundle holds.
    #[must_use]
    pub fn cert_pem(&self) -> String {
        pem::encode("CERTIFICATE", &self.certificate)
    }

    /// The root's certificate, DER.
    #[must_use]
    pub fn cert_der(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// The root's private key. Whoever has it is every cluster at once: keep it offline.
    #[must_use]
    pub fn key_pem(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// When the root ends, Unix seconds.
    #[must_use]
    pub fn not_after_s(&self) -> u64 {
        self.not_after_s
    }

    /// Makes the authority of one cluster: it can issue leaves of its trust domain and nothing else.
    ///
    /// # Errors
    /// When the root ended, or the system gives no randomness.
    pub fn sign_intermediate(
        &self,
        domain: &TrustDomain,
        now_s: u64,
    ) -> Result<IntermediatePem, AuthorityError> {
        if now_s >= self.not_after_s {
            return Err(AuthorityError::Ended {
                not_after_s: self.not_after_s,
            });
        }
        let end = now_s.saturating_add(INTERMEDIATE_VALIDITY.as_secs());
        let key = generate()?;
        let mut params = authority_params(
            &format!("{domain} authority"),
            0,
            now_s,
            end.min(self.not_after_s),
        );
        params.serial_number = Some(serial());
        params.use_authority_key_identifier_extension = true;
        params.subject_alt_names = vec![uri_name(&SpiffeId::authority(domain))?];
        let certificate = params
            .signed_by(&key, &self.issuer)
            .map_err(AuthorityError::Generate)?;
        Ok(IntermediatePem {
            cert_pem: pem::encode("CERTIFICATE", certificate.der()),
            key_pem: key.serialize_pem(),
        })
    }
}

/// Reads an authority's certificate (the first of the text) and key, and checks that they are one.
pub(crate) fn read_pair(
    cert_pem: &str,
    key_pem: &str,
) -> Result<(CertificateDer<'static>, KeyPair, certificate::Facts), AuthorityError> {
    let certificate = pem::certificates(cert_pem)
        .map_err(|source| AuthorityError::Pem {
            what: "certificate",
            source,
        })?
        .into_iter()
        .next()
        .ok_or(AuthorityError::NoCertificate)?;
    let key = pem::private_key(key_pem).map_err(|source| AuthorityError::Pem {
        what: "private key",
        source,
    })?;
    let key = KeyPair::try_from(&key).map_err(AuthorityError::Key)?;
    let facts = certificate::read(&certificate)?;
    if key.der_bytes() != facts.public_key {
        return Err(AuthorityError::Mismatch);
    }
    if !facts.is_ca {
        return Err(AuthorityError::NotAuthority(
            "its basic constraints lack cA; use the certificate that `portolan ca issue` made",
        ));
    }
    if !facts.key_cert_sign {
        return Err(AuthorityError::NotAuthority(
            "its key usage lacks keyCertSign",
        ));
    }
    Ok((certificate, key, facts))
}

pub(crate) fn uri_name(id: &SpiffeId) -> Result<SanType, AuthorityError> {
    let uri = id.to_string().try_into();
    Ok(SanType::URI(uri.map_err(AuthorityError::Generate)?))
}

/// A random positive serial number of 16 bytes (RFC 5280 §4.1.2.2).
pub(crate) fn serial() -> SerialNumber {
    let mut bytes: [u8; 16] = rand::random();
    bytes[0] = bytes[0] & 0x7f | 0x40;
    SerialNumber::from_slice(&bytes)
}

/// Sets the time of validity, from a little before `now_s` on.
pub(crate) fn set_validity(params: &mut CertificateParams, now_s: u64, not_after_s: u64) {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let at = |seconds: u64| epoch + Duration::from_secs(seconds.min(END_OF_TIME_S));
    params.not_before = at(now_s.saturating_sub(BACKDATE_S));
    params.not_after = at(not_after_s);
}

fn generate() -> Result<KeyPair, AuthorityError> {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(AuthorityError::Generate)
}

fn authority_params(name: &str, path_len: u8, now_s: u64, not_after_s: u64) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::OrganizationName, "Portolan");
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(path_len));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    set_validity(&mut params, now_s, not_after_s);
    params
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::CertificateAuthority;
    use crate::fixtures::{DAY_S, NOW_S, domain, root};

    #[test]
    fn a_root_read_back_signs_the_same() {
        let root = root("set");
        let read = RootAuthority::from_pem(&root.cert_pem(), &root.key_pem()).unwrap();
        assert_eq!(read.cert_der(), root.cert_der());
        assert_eq!(read.not_after_s(), root.not_after_s());
        let pair = read.sign_intermediate(&domain("a.set"), NOW_S).unwrap();
        let authority = CertificateAuthority::from_pem(&pair.cert_pem, &pair.key_pem).unwrap();
        assert_eq!(authority.trust_domain(), &domain("a.set"));
    }

    #[test]
    fn an_intermediate_does_not_outlive_the_root() {
        let root = root("set");
        let late = root.not_after_s() - DAY_S;
        let pair = root.sign_intermediate(&domain("a.set"), late).unwrap();
        let authority = CertificateAuthority::from_pem(&pair.cert_pem, &pair.key_pem).unwrap();
        assert_eq!(authority.not_after_s(), root.not_after_s());
        assert!(matches!(
            root.sign_intermediate(&domain("a.set"), root.not_after_s()),
            Err(AuthorityError::Ended { .. })
        ));
    }

    #[test]
    fn mistakes_are_named() {
        let (one, two) = (root("set"), root("set"));
        let mixed = RootAuthority::from_pem(&one.cert_pem(), &two.key_pem());
        assert!(matches!(mixed, Err(AuthorityError::Mismatch)));
        let swapped = RootAuthority::from_pem(&one.key_pem(), &one.cert_pem());
        assert!(matches!(swapped, Err(AuthorityError::NoCertificate)));
        let no_key = RootAuthority::from_pem(&one.cert_pem(), "nothing");
        assert!(matches!(
            no_key,
            Err(AuthorityError::Pem {
                what: "private key",
                ..
            })
        ));
    }
}
