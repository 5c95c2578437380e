//! Whom a handshake expects at the other end.

use std::fmt;
use std::sync::Arc;

use portolan_model::{IdentityKind, SpiffeId, TrustDomain};

/// Whom to accept among those whose certificate is valid.
#[derive(Clone)]
pub enum Expect {
    /// Exactly this identity.
    Exact(SpiffeId),
    /// One of these identities.
    AnyOf(Vec<SpiffeId>),
    /// Anybody in this trust domain.
    TrustDomain(TrustDomain),
    /// A gateway of this trust domain.
    Gateway(TrustDomain),
    /// Whoever the function accepts, asked in each handshake.
    Where(Arc<dyn Fn(&SpiffeId) -> bool + Send + Sync>),
    /// Anybody whose certificate is valid; the caller judges afterwards.
    Anybody,
}

impl Expect {
    /// Whether `id` is expected.
    #[must_use]
    pub fn accepts(&self, id: &SpiffeId) -> bool {
        match self {
            Self::Exact(expected) => id == expected,
            Self::AnyOf(expected) => expected.contains(id),
            Self::TrustDomain(domain) => id.trust_domain() == domain,
            Self::Gateway(domain) => {
                id.trust_domain() == domain && matches!(id.kind(), IdentityKind::Gateway { .. })
            }
            Self::Where(accepts) => accepts(id),
            Self::Anybody => true,
        }
    }
}

impl fmt::Display for Expect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(id) => write!(f, "`{id}`"),
            Self::AnyOf(ids) => {
                f.write_str("one of")?;
                ids.iter().try_for_each(|id| write!(f, " `{id}`"))
            }
            Self::TrustDomain(domain) => write!(f, "somebody of trust domain `{domain}`"),
            Self::Gateway(domain) => write!(f, "a gateway of trust domain `{domain}`"),
            Self::Where(_) => f.write_str("an allowed identity"),
            Self::Anybody => f.write_str("anybody"),
        }
    }
}

impl fmt::Debug for Expect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
