//! SPIFFE identities (SPIFFE-ID.md), and the shapes that Portolan gives them.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::names::{ClusterName, NameError, Namespace, ServiceAccount, TrustDomain};

/// The longest SPIFFE ID, in bytes (SPIFFE-ID.md §2.3).
pub const SPIFFE_ID_MAX: usize = 2048;

/// A valid SPIFFE ID: `spiffe://<trust domain>[/<path>]`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SpiffeId {
    trust_domain: TrustDomain,
    /// Empty, or beginning with `/`.
    path: Arc<str>,
}

/// Who an identity of ours stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IdentityKind {
    /// `spiffe://td/ns/<namespace>/sa/<service account>`
    Workload {
        namespace: Namespace,
        service_account: ServiceAccount,
    },
    /// `spiffe://td/portolan/control/<cluster>`
    Control { cluster: ClusterName },
    /// `spiffe://td/portolan/gateway/<name>`
    Gateway { name: String },
    /// `spiffe://td`: a certificate authority, never a leaf.
    Authority,
    /// A valid SPIFFE ID of another shape.
    Other,
}

impl SpiffeId {
    /// Parses a SPIFFE ID. Scheme and trust domain are compared without regard to case and kept
    /// in lower case; the path is case-sensitive.
    ///
    /// # Errors
    /// Says which rule of SPIFFE-ID.md §2 the text breaks.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let fail = |rule| Err(NameError::new("SPIFFE ID", text, rule));
        if text.len() > SPIFFE_ID_MAX {
            return fail("it must not be longer than 2048 bytes");
        }
        let Some((scheme, rest)) = text.split_once("://") else {
            return fail("it must begin with `spiffe://`");
        };
        if !scheme.eq_ignore_ascii_case("spiffe") {
            return fail("it must begin with `spiffe://`");
        }
        let (domain, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
        let trust_domain = TrustDomain::parse(&domain.to_ascii_lowercase())?;
        let segment_ok = |segment: &str| {
            !matches!(segment, "" | "." | "..")
                && segment
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
        };
        if !path.is_empty() && !path[1..].split('/').all(segment_ok) {
            return fail(
                "path segments hold only A-Z a-z 0-9 . - _ and are none of empty, `.` and `..`",
            );
        }
        Ok(Self {
            trust_domain,
            path: path.into(),
        })
    }

    /// The identity of workloads that run as `service_account` in `namespace`.
    #[must_use]
    pub fn workload(domain: &TrustDomain, namespace: &Namespace, account: &ServiceAccount) -> Self {
        Self {
            trust_domain: domain.clone(),
            path: format!("/ns/{namespace}/sa/{account}").into(),
        }
    }

    /// The identity of a cluster's control plane.
    #[must_use]
    pub fn control(domain: &TrustDomain, cluster: &ClusterName) -> Self {
        Self {
            trust_domain: domain.clone(),
            path: format!("/portolan/control/{cluster}").into(),
        }
    }

    /// The identity of a gateway; `name` is a workload-like name within the cluster.
    ///
    /// # Errors
    /// When the name holds characters that SPIFFE paths may not.
    pub fn gateway(domain: &TrustDomain, name: &str) -> Result<Self, NameError> {
        Self::parse(&format!("spiffe://{domain}/portolan/gateway/{name}"))
    }

    /// The identity that a cluster's CA certificate carries: the trust domain alone.
    #[must_use]
    pub fn authority(domain: &TrustDomain) -> Self {
        Self {
            trust_domain: domain.clone(),
            path: "".into(),
        }
    }

    /// The trust domain.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The path: empty, or beginning with `/`.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Which of our shapes the identity has.
    #[must_use]
    pub fn kind(&self) -> IdentityKind {
        let mut segments = self.path.split('/').skip(1);
        let parts = (
            segments.next(),
            segments.next(),
            segments.next(),
            segments.next(),
            segments.next(),
        );
        match parts {
            (None, ..) => IdentityKind::Authority,
            (Some("ns"), Some(namespace), Some("sa"), Some(account), None) => {
                match (Namespace::parse(namespace), ServiceAccount::parse(account)) {
                    (Ok(namespace), Ok(service_account)) => IdentityKind::Workload {
                        namespace,
                        service_account,
                    },
                    _ => IdentityKind::Other,
                }
            }
            (Some("portolan"), Some("control"), Some(cluster), None, None) => {
                ClusterName::parse(cluster).map_or(IdentityKind::Other, |cluster| {
                    IdentityKind::Control { cluster }
                })
            }
            (Some("portolan"), Some("gateway"), Some(name), None, None) => IdentityKind::Gateway {
                name: name.to_owned(),
            },
            _ => IdentityKind::Other,
        }
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "spiffe://{}{}", self.trust_domain, self.path)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl std::str::FromStr for SpiffeId {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        Self::parse(text)
    }
}

impl TryFrom<String> for SpiffeId {
    type Error = NameError;
    fn try_from(text: String) -> Result<Self, NameError> {
        Self::parse(&text)
    }
}

impl From<SpiffeId> for String {
    fn from(id: SpiffeId) -> Self {
        id.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_specification_s_rules_hold() {
        for good in [
            "spiffe://td",
            "SPIFFE://TD.Example/ns/a/sa/b",
            "spiffe://a_b/x.y-z_/A",
        ] {
            assert!(SpiffeId::parse(good).is_ok(), "{good}");
        }
        let bad = [
            "",
            "spiffe:/td",
            "https://td/x",
            "spiffe://",
            "spiffe://td/",
            "spiffe://td/a//b",
            "spiffe://td/a/",
            "spiffe://td/./b",
            "spiffe://td/../b",
            "spiffe://td:80/x",
            "spiffe://user@td/x",
            "spiffe://td/x?q",
            "spiffe://td/x#f",
            "spiffe://td/%41",
        ];
        for bad in bad {
            assert!(SpiffeId::parse(bad).is_err(), "{bad}");
        }
        assert!(SpiffeId::parse(&format!("spiffe://td/{}", "a".repeat(2048))).is_err());
    }

    #[test]
    fn shapes_are_told_apart() {
        let kind = |text: &str| SpiffeId::parse(text).unwrap().kind();
        assert!(matches!(
            kind("spiffe://td/ns/shop/sa/frontend"),
            IdentityKind::Workload { .. }
        ));
        assert!(matches!(
            kind("spiffe://td/portolan/control/us-east"),
            IdentityKind::Control { .. }
        ));
        assert!(matches!(
            kind("spiffe://td/portolan/gateway/gw-0"),
            IdentityKind::Gateway { .. }
        ));
        assert_eq!(kind("spiffe://td"), IdentityKind::Authority);
        assert_eq!(
            kind("spiffe://td/ns/shop/sa/frontend/x"),
            IdentityKind::Other
        );
        assert_eq!(kind("spiffe://td/ns/Shop/sa/frontend"), IdentityKind::Other);
    }

    proptest! {
        #[test]
        fn display_round_trips(text in "spiffe://[a-z.]{1,10}(/[A-Za-z0-9._-]{1,5}){0,4}") {
            if let Ok(id) = SpiffeId::parse(&text) {
                prop_assert_eq!(SpiffeId::parse(&id.to_string()).unwrap(), id);
            }
        }
    }
}
