//! A new key, and the request to certify it.

use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::identity::{Identity, IdentityError};
use crate::root::AuthorityError;

/// A new private key and the request (PKCS#10) that proves its possession. The key never leaves
/// the process that asks; the request says nothing else.
pub struct KeyRequest {
    /// The private key (ECDSA P-256).
    pub key: PrivateKeyDer<'static>,
    /// The request, DER.
    pub csr_der: Vec<u8>,
}

impl KeyRequest {
    /// Makes a key and its request.
    ///
    /// # Errors
    /// When the system gives no randomness.
    pub fn new() -> Result<Self, AuthorityError> {
        let key =
            KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(AuthorityError::Generate)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let csr = params
            .serialize_request(&key)
            .map_err(AuthorityError::Generate)?;
        Ok(Self {
            csr_der: csr.der().to_vec(),
            key: PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
        })
    }

    /// Joins the key with the certificates that the authority answered (leaf first).
    ///
    /// # Errors
    /// When they certify another key.
    pub fn into_identity(
        self,
        chain: Vec<CertificateDer<'static>>,
    ) -> Result<Identity, IdentityError> {
        Identity::new(chain, self.key)
    }
}
