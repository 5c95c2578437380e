//! Names, parsed once. A value of one of these types is valid by construction.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Why a text is not a name of the wanted kind. Display names the kind, the text and the rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a valid {kind}: {rule}")]
pub struct NameError {
    /// What the text should have been, for example `cluster name`.
    pub kind: &'static str,
    /// The text as it was found (cut at 300 bytes).
    pub text: String,
    /// The rule that it breaks, as a sentence fragment that also says what would be right.
    pub rule: &'static str,
}

impl NameError {
    pub(crate) fn new(kind: &'static str, text: &str, rule: &'static str) -> Self {
        let end = text.floor_char_boundary(300);
        Self {
            kind,
            text: text[..end].to_owned(),
            rule,
        }
    }
}

const LABEL_RULE: &str = "use 1 to 63 lower-case letters, digits and `-`, beginning and ending with a letter or digit (RFC 1123)";
const SUBDOMAIN_RULE: &str =
    "use at most 253 characters: RFC 1123 labels (lower-case letters, digits, `-`) joined by `.`";

fn is_label(text: &str) -> bool {
    let bytes = text.as_bytes();
    let alnum = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    matches!((bytes.first(), bytes.last()), (Some(first), Some(last)) if alnum(first) && alnum(last))
        && bytes.len() <= 63
        && bytes.iter().all(|b| alnum(b) || *b == b'-')
}

fn is_subdomain(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_label)
}

fn is_trust_domain(text: &str) -> bool {
    (1..=255).contains(&text.len())
        && text.bytes().all(|b| {
            b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_')
        })
}

fn is_port_name(text: &str) -> bool {
    is_label(text)
        && text.len() <= 15
        && text.bytes().any(|b| b.is_ascii_lowercase())
        && !text.contains("--")
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $check:expr, $rule:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// Parses the name.
            ///
            /// # Errors
            /// Says which rule the text breaks.
            pub fn parse(text: &str) -> Result<Self, NameError> {
                if $check(text) { Ok(Self(text.into())) } else { Err(NameError::new($kind, text, $rule)) }
            }

            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }

        impl std::str::FromStr for $name {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::parse(text)
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                Self::parse(&text)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0.as_ref().to_owned()
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

name!(
    /// A cluster's name: one RFC 1123 label, because it is a label of DNS and SNI names.
    ClusterName, "cluster name", is_label, LABEL_RULE
);
name!(
    /// The name of a cluster set, used in default trust domains.
    ClusterSetName, "cluster set name", is_subdomain, SUBDOMAIN_RULE
);
name!(
    /// A namespace; sameness holds: equal names mean the same namespace in every cluster of the set.
    Namespace, "namespace", is_label, LABEL_RULE
);
name!(
    /// A service's name within its namespace.
    ServiceName, "service name", is_label, LABEL_RULE
);
name!(
    /// A workload's name within its namespace.
    WorkloadName, "workload name", is_subdomain, SUBDOMAIN_RULE
);
name!(
    /// A service account, the last part of a workload's SPIFFE ID.
    ServiceAccount, "service account", is_subdomain, SUBDOMAIN_RULE
);
name!(
    /// A region: where clusters are near each other.
    Region, "region", is_label, LABEL_RULE
);
name!(
    /// A failure zone within a region.
    Zone, "zone", is_label, LABEL_RULE
);
name!(
    /// The name of a service port (IANA service name syntax: at most 15 characters, one letter at least).
    PortName, "port name", is_port_name,
    "use at most 15 lower-case letters, digits and single `-`, with at least one letter"
);
name!(
    /// A host name inside an endpoint of a headless service: one RFC 1123 label.
    HostName, "host name", is_label, LABEL_RULE
);
name!(
    /// A SPIFFE trust domain (SPIFFE-ID §2.1): at most 255 of `a-z0-9.-_`.
    TrustDomain, "trust domain", is_trust_domain, "use 1 to 255 of the characters a-z 0-9 . - _"
);

macro_rules! key {
    ($(#[$doc:meta])* $key:ident, $name:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $key {
            /// The namespace.
            pub namespace: Namespace,
            /// The name within the namespace.
            pub name: $name,
        }

        impl $key {
            /// Joins the two parts.
            #[must_use]
            pub fn new(namespace: Namespace, name: $name) -> Self {
                Self { namespace, name }
            }

            /// Parses `namespace/name`.
            ///
            /// # Errors
            /// Says what is missing or malformed.
            pub fn parse(text: &str) -> Result<Self, NameError> {
                let (namespace, name) = text
                    .split_once('/')
                    .ok_or_else(|| NameError::new($kind, text, "write it as `namespace/name`"))?;
                Ok(Self { namespace: Namespace::parse(namespace)?, name: $name::parse(name)? })
            }
        }

        impl fmt::Display for $key {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}/{}", self.namespace, self.name)
            }
        }

        impl fmt::Debug for $key {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "\"{self}\"")
            }
        }

        impl std::str::FromStr for $key {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::parse(text)
            }
        }

        impl TryFrom<String> for $key {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                Self::parse(&text)
            }
        }

        impl From<$key> for String {
            fn from(key: $key) -> Self {
                key.to_string()
            }
        }
    };
}

key!(
    /// A service's namespace and name. Displays as `namespace/name`.
    ServiceKey, ServiceName, "service"
);
key!(
    /// A workload's namespace and name. Displays as `namespace/name`.
    WorkloadKey, WorkloadName, "workload"
);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn labels_follow_rfc_1123() {
        for good in ["a", "a-b", "0", "us-east", &"x".repeat(63)] {
            assert!(ClusterName::parse(good).is_ok(), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a.b", "a_b", "ä", &"x".repeat(64)] {
            assert!(ClusterName::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn port_names_need_a_letter() {
        assert!(PortName::parse("http").is_ok());
        for bad in ["80", "a--b", "seventeen-letters"] {
            assert!(PortName::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn errors_name_kind_text_and_rule() {
        let error = Namespace::parse("Shop").unwrap_err().to_string();
        assert!(
            error.contains("namespace") && error.contains("Shop") && error.contains("lower-case")
        );
    }

    proptest! {
        #[test]
        fn parsing_never_panics_and_display_round_trips(text in "\\PC{0,80}") {
            if let Ok(key) = ServiceKey::parse(&text) {
                prop_assert_eq!(ServiceKey::parse(&key.to_string()).unwrap(), key);
            }
            let _ = TrustDomain::parse(&text);
        }
    }
}
