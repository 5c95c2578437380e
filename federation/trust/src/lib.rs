//! Who is who: certificate authorities, SPIFFE verification, trust bundles and join tokens.
//!
//! Every cluster has its own trust domain and its own [`CertificateAuthority`]. One offline
//! [`RootAuthority`] signs the clusters' authorities, so that every cluster's identities chain to
//! the same root. [`verify`] makes that safe. What must hold, whatever else changes:
//!
//! - **A leaf's trust domain is the trust domain of the authority that really signed it**, taken
//!   from the path that was verified, never from the certificates that were presented. A stolen
//!   cluster authority can therefore not speak for another cluster.
//! - A path is root → cluster authority → leaf, nothing shorter and nothing longer: a root names
//!   no trust domain, and a cluster authority certifies no other authority.
//! - Of a signing request only the key is used, after its signature proved that the asker has the
//!   private half. Names, usages and times are the authority's.
//! - A join token admits to one identity until one moment.
//!
//! This crate opens no sockets and files and reads no clock; time comes in as Unix seconds. It
//! draws randomness for keys and serial numbers. It does not know TLS: `portolan-transport` calls
//! [`verify`] in every handshake.

mod authority;
mod bundle;
mod certificate;
mod identity;
mod pem;
mod request;
mod root;
mod tokens;
mod verify;

pub use authority::{BACKDATE_S, CertificateAuthority, IssueError, LEAF_TTL_MAX};
pub use bundle::{BundleError, ROOTS_MAX, TrustBundle};
pub use certificate::CertificateError;
pub use identity::{CHAIN_MAX, Identity, IdentityError};
pub use request::KeyRequest;
pub use root::{AuthorityError, INTERMEDIATE_VALIDITY, IntermediatePem, RootAuthority};
pub use tokens::{TOKEN_MAX, TokenError, check as check_token, mint as mint_token};
pub use verify::{Usage, Verified, VerifyError, identity_of, verify, verify_parts};

#[cfg(test)]
mod fixtures;
