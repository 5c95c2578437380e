//! What a certificate says, read strictly. Nothing here is verified.

use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// The bytes are not an X.509 certificate that can be read without doubt.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the certificate cannot be read: {0}")]
pub struct CertificateError(pub(crate) &'static str);

/// What this crate asks of a certificate.
pub(crate) struct Facts {
    /// Every URI among the subject alternative names.
    pub(crate) uris: Vec<String>,
    pub(crate) is_ca: bool,
    pub(crate) key_cert_sign: bool,
    pub(crate) crl_sign: bool,
    /// The subject's public key, without its algorithm.
    pub(crate) public_key: Vec<u8>,
    pub(crate) not_before_s: u64,
    pub(crate) not_after_s: u64,
}

pub(crate) fn read(der: &[u8]) -> Result<Facts, CertificateError> {
    let (rest, certificate) =
        X509Certificate::from_der(der).map_err(|_| CertificateError("it is not X.509 in DER"))?;
    if !rest.is_empty() {
        return Err(CertificateError("bytes follow after its end"));
    }
    let names = certificate
        .subject_alternative_name()
        .map_err(|_| CertificateError("its subject alternative names are malformed or twice"))?;
    let uris = names
        .into_iter()
        .flat_map(|names| &names.value.general_names)
        .filter_map(|name| match name {
            GeneralName::URI(uri) => Some((*uri).to_owned()),
            GeneralName::OtherName(..)
            | GeneralName::RFC822Name(_)
            | GeneralName::DNSName(_)
            | GeneralName::X400Address(_)
            | GeneralName::DirectoryName(_)
            | GeneralName::EDIPartyName(_)
            | GeneralName::IPAddress(_)
            | GeneralName::RegisteredID(_)
            | GeneralName::Invalid(..) => None,
        })
        .collect();
    let usage = certificate
        .key_usage()
        .map_err(|_| CertificateError("its key usage is malformed or twice"))?;
    let constraints = certificate
        .basic_constraints()
        .map_err(|_| CertificateError("its basic constraints are malformed or twice"))?;
    let validity = certificate.validity();
    Ok(Facts {
        uris,
        is_ca: constraints.is_some_and(|constraints| constraints.value.ca),
        key_cert_sign: usage
            .as_ref()
            .is_some_and(|usage| usage.value.key_cert_sign()),
        crl_sign: usage.as_ref().is_some_and(|usage| usage.value.crl_sign()),
        public_key: certificate.public_key().subject_public_key.data.to_vec(),
        not_before_s: u64::try_from(validity.not_before.timestamp()).unwrap_or(0),
        not_after_s: u64::try_from(validity.not_after.timestamp()).unwrap_or(0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = read(&bytes);
        }
    }
}
