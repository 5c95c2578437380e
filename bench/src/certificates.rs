//! Certificates for the peers: one root, one leaf for both ends, the key kind that Portolan uses.

use std::path::{Path, PathBuf};

use anyhow::Result;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

/// The name that the leaf carries, and that tunnels are asked for by.
pub(crate) const SERVER_NAME: &str = "origin.bench.internal";

/// Where the files are.
pub(crate) struct Certificates {
    pub(crate) root: PathBuf,
    pub(crate) leaf: PathBuf,
    pub(crate) key: PathBuf,
    /// Leaf and key in one file, as HAProxy wants them.
    pub(crate) both: PathBuf,
}

/// Makes them in `folder`.
pub(crate) fn create(folder: &Path) -> Result<Certificates> {
    let root_key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "bench");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let root = params.self_signed(&root_key)?;
    let issuer = Issuer::new(params, root_key);

    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(vec![SERVER_NAME.to_owned()])?;
    params
        .distinguished_name
        .push(DnType::CommonName, SERVER_NAME);
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    let leaf = params.signed_by(&key, &issuer)?;

    let write = |name: &str, text: String| -> Result<PathBuf> {
        let path = folder.join(name);
        std::fs::write(&path, text)?;
        Ok(path)
    };
    Ok(Certificates {
        root: write("root.pem", root.pem())?,
        leaf: write("leaf.pem", leaf.pem())?,
        key: write("leaf.key", key.serialize_pem())?,
        both: write("both.pem", leaf.pem() + &key.serialize_pem())?,
    })
}
