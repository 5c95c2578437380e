//! Which store to open.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The registry's part of the control plane's configuration, told apart by `kind`.
///
/// ```yaml
/// kind: embedded
/// path: /var/lib/portolan/registry.redb
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    tag = "kind",
    rename_all = "camelCase",
    rename_all_fields = "camelCase",
    deny_unknown_fields
)]
pub enum RegistryConfig {
    /// A file that this process alone opens. Survives crashes; needs no other program.
    Embedded {
        /// The file. Its directory must exist.
        path: PathBuf,
    },
    /// An etcd cluster, so that declarations outlive this machine. One control plane per cluster opens it; others
    /// need another prefix.
    Etcd(EtcdConfig),
    /// Nothing is kept beyond the process's life. For tests and trials.
    Memory {},
}

/// How to reach etcd.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EtcdConfig {
    /// `http://host:2379` or `https://…`; every member that may be asked.
    pub endpoints: Vec<String>,
    /// What all keys begin with, so that several registries can share one etcd.
    #[serde(default = "default_prefix")]
    pub prefix: String,
    /// PEM file of the CA that signed the members' certificates. Needed for `https`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
    /// PEM file of our client certificate, with `key`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<PathBuf>,
    /// PEM file of our client certificate's key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<PathBuf>,
    /// An etcd user, with `passwordFile`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// File that holds the etcd user's password; trailing line breaks are ignored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_file: Option<PathBuf>,
}

fn default_prefix() -> String {
    "/portolan/".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<RegistryConfig, String> {
        serde_json::from_str(text).map_err(|error| error.to_string())
    }

    #[test]
    fn every_kind_parses_and_unknown_fields_are_refused() {
        assert_eq!(
            parse(r#"{"kind":"embedded","path":"/r.redb"}"#).unwrap(),
            RegistryConfig::Embedded {
                path: "/r.redb".into()
            }
        );
        assert_eq!(
            parse(r#"{"kind":"memory"}"#).unwrap(),
            RegistryConfig::Memory {}
        );
        let RegistryConfig::Etcd(etcd) =
            parse(r#"{"kind":"etcd","endpoints":["http://a:1"],"passwordFile":"/p"}"#).unwrap()
        else {
            panic!("not etcd");
        };
        assert_eq!(etcd.prefix, "/portolan/");
        for bad in [
            r#"{"kind":"memory","path":"/x"}"#,
            r#"{"kind":"embedded","path":"/x","sync":false}"#,
            r#"{"kind":"etcd","endpoints":[],"prefixes":"/x"}"#,
            r#"{"kind":"consul"}"#,
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
