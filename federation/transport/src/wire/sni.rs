//! The names that travel in SNI: which service (or control plane) of which cluster is meant.

use std::fmt;
use std::str::FromStr;

use portolan_model::{ClusterName, NameError, Namespace, ServiceKey, ServiceName};

/// The zone of all names in SNI. It is never served by DNS.
pub const ZONE: &str = "portolan.internal";

/// The longest name, in bytes (RFC 1035).
pub const NAME_MAX: usize = 253;

/// Who is meant.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum SniName {
    /// `p<port>.<service>.<namespace>.<cluster>.portolan.internal`
    Service {
        /// The service's port, not zero.
        port: u16,
        /// The service.
        service: ServiceKey,
        /// The cluster that serves it.
        cluster: ClusterName,
    },
    /// `control.<cluster>.portolan.internal`: the cluster's control plane.
    Control {
        /// Whose.
        cluster: ClusterName,
    },
}

/// Why a text is no such name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SniError {
    /// It has another form.
    #[error(
        "the name is neither `p<port>.<service>.<namespace>.<cluster>.{ZONE}` nor `control.<cluster>.{ZONE}`"
    )]
    Form,
    /// The first label is no port.
    #[error("the name must begin with `p` and a port from 1 to 65535")]
    Port,
    /// A label is no name of its kind.
    #[error("a label of the name is malformed")]
    Label(#[from] NameError),
}

impl SniName {
    /// The cluster that is meant.
    #[must_use]
    pub fn cluster(&self) -> &ClusterName {
        match self {
            Self::Service { cluster, .. } | Self::Control { cluster } => cluster,
        }
    }

    /// Parses the name without regard to case.
    ///
    /// # Errors
    /// Says what is malformed.
    pub fn parse(text: &str) -> Result<Self, SniError> {
        if text.len() > NAME_MAX {
            return Err(SniError::Form);
        }
        let text = text.to_ascii_lowercase();
        let labels = text
            .strip_suffix(ZONE)
            .and_then(|rest| rest.strip_suffix('.'))
            .ok_or(SniError::Form)?;
        let labels: Vec<&str> = labels.split('.').collect();
        match labels.as_slice() {
            ["control", cluster] => Ok(Self::Control {
                cluster: ClusterName::parse(cluster)?,
            }),
            [port, service, namespace, cluster] => Ok(Self::Service {
                port: parse_port(port).ok_or(SniError::Port)?,
                service: ServiceKey::new(
                    Namespace::parse(namespace)?,
                    ServiceName::parse(service)?,
                ),
                cluster: ClusterName::parse(cluster)?,
            }),
            _ => Err(SniError::Form),
        }
    }
}

/// `p` and a number without leading zeros, so that every name has one spelling.
fn parse_port(label: &str) -> Option<u16> {
    let digits = label.strip_prefix('p')?;
    if digits.starts_with('0') || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok()
}

impl fmt::Display for SniName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service {
                port,
                service,
                cluster,
            } => write!(
                f,
                "p{port}.{}.{}.{cluster}.{ZONE}",
                service.name, service.namespace
            ),
            Self::Control { cluster } => write!(f, "control.{cluster}.{ZONE}"),
        }
    }
}

impl FromStr for SniName {
    type Err = SniError;
    fn from_str(text: &str) -> Result<Self, SniError> {
        Self::parse(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn both_forms_are_read() {
        let name = SniName::parse("P8080.web.shop.us-east.Portolan.Internal").unwrap();
        assert_eq!(
            name,
            SniName::Service {
                port: 8080,
                service: ServiceKey::parse("shop/web").unwrap(),
                cluster: ClusterName::parse("us-east").unwrap(),
            }
        );
        assert_eq!(name.to_string(), "p8080.web.shop.us-east.portolan.internal");
        let control = SniName::parse("control.us-east.portolan.internal").unwrap();
        assert!(matches!(&control, SniName::Control { .. }));
        assert_eq!(control.cluster().as_str(), "us-east");
    }

    #[test]
    fn other_names_are_refused() {
        for form in [
            "",
            "portolan.internal",
            "x.portolan.internal.",
            "p80.web.shop.portolan.internal",
            "p80.web.shop.east.example",
        ] {
            assert_eq!(SniName::parse(form), Err(SniError::Form), "{form}");
        }
        for port in ["0", "65536", "080", "+80", "", "x"] {
            let name = format!("p{port}.web.shop.east.portolan.internal");
            assert_eq!(SniName::parse(&name), Err(SniError::Port), "{name}");
        }
        let label = SniName::parse("p80.we_b.shop.east.portolan.internal");
        assert!(matches!(label, Err(SniError::Label(_))));
    }

    proptest! {
        #[test]
        fn names_round_trip(port in 1u16.., labels in "[a-z]([a-z0-9-]{0,61}[a-z0-9])?\\.[a-z]{1,63}\\.[a-z0-9]{1,63}") {
            let text = format!("p{port}.{labels}.portolan.internal");
            prop_assert_eq!(SniName::parse(&text).unwrap().to_string(), text);
        }

        #[test]
        fn arbitrary_text_never_panics(text in "\\PC{0,60}(\\.portolan\\.internal)?") {
            let _ = SniName::parse(&text);
        }
    }
}
