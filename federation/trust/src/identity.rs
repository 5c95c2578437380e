//! An identity: a key with the certificates that say whose it is.

use std::fmt;

use portolan_model::SpiffeId;
use rcgen::{KeyPair, PublicKeyData};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::certificate::{self, CertificateError};
use crate::pem;
use crate::verify::{self, VerifyError};

/// The most certificates a chain holds: the leaf, its authority, and room for a rotation.
pub const CHAIN_MAX: usize = 4;

/// A key and the certificates that say whose it is. The two belong together by construction.
pub struct Identity {
    /// Who.
    pub id: SpiffeId,
    /// The certificates, leaf first, without the root.
    pub chain: Vec<CertificateDer<'static>>,
    /// The leaf's private key.
    pub key: PrivateKeyDer<'static>,
    /// When the leaf begins to be valid, Unix seconds.
    pub not_before_s: u64,
    /// When the leaf ends to be valid, Unix seconds.
    pub not_after_s: u64,
}

/// Why a key and certificates are no identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The text is not PEM, or lacks the key or the certificates.
    #[error("the identity is not PEM with one private key and its certificates, leaf first")]
    Pem(#[source] rustls_pki_types::pem::Error),
    /// There are no certificates, or too many.
    #[error("the identity has {0} certificates; it needs 1 to {CHAIN_MAX}, leaf first")]
    Length(usize),
    /// The leaf cannot be read.
    #[error("the identity's leaf cannot be used")]
    Leaf(#[from] CertificateError),
    /// The leaf names no identity.
    #[error("the identity's leaf names no workload")]
    Name(#[from] VerifyError),
    /// The key cannot be used.
    #[error("the private key cannot be used: it must be ECDSA P-256 or P-384, Ed25519 or RSA")]
    Key(#[source] rcgen::Error),
    /// Key and certificate are not a pair.
    #[error("the private key does not match the certificate: they were issued at different times")]
    Mismatch,
}

impl Identity {
    /// Joins a key with its certificates (leaf first).
    ///
    /// Only checks that they belong together; [`verify`](crate::verify()) says if others trust them.
    ///
    /// # Errors
    /// When the key is not the leaf's, or the leaf has no single SPIFFE ID.
    pub fn new(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<Self, IdentityError> {
        if chain.len() > CHAIN_MAX {
            return Err(IdentityError::Length(chain.len()));
        }
        let leaf = chain.first().ok_or(IdentityError::Length(0))?;
        let facts = certificate::read(leaf)?;
        let pair = KeyPair::try_from(&key).map_err(IdentityError::Key)?;
        if pair.der_bytes() != facts.public_key {
            return Err(IdentityError::Mismatch);
        }
        Ok(Self {
            id: verify::identity_of(leaf)?,
            key,
            not_before_s: facts.not_before_s,
            not_after_s: facts.not_after_s,
            chain,
        })
    }

    /// Reads PEM with one private key and its certificates, leaf first.
    ///
    /// # Errors
    /// When the text is not PEM, lacks a part, or the parts do not belong together.
    pub fn from_pem(text: &str) -> Result<Self, IdentityError> {
        let key = pem::private_key(text).map_err(IdentityError::Pem)?;
        let chain = pem::certificates(text).map_err(IdentityError::Pem)?;
        Self::new(chain, key)
    }

    /// The identity as PEM, key first. It is a secret: write it where only its owner reads.
    #[must_use]
    pub fn to_pem(&self) -> String {
        let label = match &self.key {
            PrivateKeyDer::Pkcs1(_) => "RSA PRIVATE KEY",
            PrivateKeyDer::Sec1(_) => "EC PRIVATE KEY",
            PrivateKeyDer::Pkcs8(_) | _ => "PRIVATE KEY",
        };
        let mut text = pem::encode(label, self.key.secret_der());
        for certificate in &self.chain {
            text.push_str(&pem::encode("CERTIFICATE", certificate));
        }
        text
    }

    /// Whether the leaf is valid at this moment (Unix seconds).
    #[must_use]
    pub fn is_valid_at(&self, now_s: u64) -> bool {
        (self.not_before_s..=self.not_after_s).contains(&now_s)
    }
}

impl Clone for Identity {
    fn clone(&self) -> Self {
        Self {
            id: self.id.clone(),
            chain: self.chain.clone(),
            key: self.key.clone_key(),
            not_before_s: self.not_before_s,
            not_after_s: self.not_after_s,
        }
    }
}

/// Without the key.
impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("id", &self.id)
            .field("not_before_s", &self.not_before_s)
            .field("not_after_s", &self.not_after_s)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{NOW_S, World};

    #[test]
    fn pem_round_trips() {
        let identity = World::new().identity("a", "spiffe://a.set/ns/shop/sa/web");
        let read = Identity::from_pem(&identity.to_pem()).unwrap();
        assert_eq!(read.id.to_string(), "spiffe://a.set/ns/shop/sa/web");
        assert_eq!(read.chain, identity.chain);
        assert_eq!(read.key, identity.key);
        assert!(read.is_valid_at(NOW_S) && !read.is_valid_at(NOW_S + 1_000_000));
    }

    #[test]
    fn a_foreign_key_is_told_apart() {
        let world = World::new();
        let one = world.identity("a", "spiffe://a.set/ns/shop/sa/web");
        let two = world.identity("a", "spiffe://a.set/ns/shop/sa/web");
        let error = Identity::new(one.chain, two.key).unwrap_err();
        assert!(matches!(error, IdentityError::Mismatch));
        assert!(error.to_string().contains("does not match"));
    }

    #[test]
    fn debug_hides_the_key() {
        let identity = World::new().identity("a", "spiffe://a.set/ns/shop/sa/web");
        assert!(!format!("{identity:?}").contains("key"));
    }

    #[test]
    fn incomplete_text_is_refused() {
        let identity = World::new().identity("a", "spiffe://a.set/ns/shop/sa/web");
        let text = identity.to_pem();
        let (key, certificates) = text.split_at(text.find("-----BEGIN CERT").unwrap());
        assert!(matches!(
            Identity::from_pem(key),
            Err(IdentityError::Length(0))
        ));
        assert!(matches!(
            Identity::from_pem(certificates),
            Err(IdentityError::Pem(_))
        ));
    }
}
