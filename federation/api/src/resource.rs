//! The resources that proxies subscribe to: encoding, decoding, names, versions.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message as _;
use sha2::{Digest as _, Sha256};

use portolan_model::snapshot::{Inbound, Mesh, Service, Trust};

use crate::convert::Invalid;
use crate::{discovery, resources};

/// The type URL of [`Mesh`].
pub const MESH: &str = "type.googleapis.com/portolan.discovery.v1.Mesh";
/// The type URL of [`Trust`].
pub const TRUST: &str = "type.googleapis.com/portolan.discovery.v1.Trust";
/// The type URL of [`Service`].
pub const SERVICE: &str = "type.googleapis.com/portolan.discovery.v1.Service";
/// The type URL of [`Inbound`].
pub const INBOUND: &str = "type.googleapis.com/portolan.discovery.v1.Inbound";
/// Every type URL.
pub const TYPE_URLS: &[&str] = &[MESH, TRUST, SERVICE, INBOUND];

/// The name of the one [`Mesh`].
pub const MESH_NAME: &str = "mesh";
/// The name of the one [`Trust`].
pub const TRUST_NAME: &str = "trust";

/// One resource, shared with the snapshot that it belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ResourceBody {
    /// This cluster, its gateways and peers.
    Mesh(Arc<Mesh>),
    /// Whom to trust.
    Trust(Arc<Trust>),
    /// One service.
    Service(Arc<Service>),
    /// What one workload accepts.
    Inbound(Arc<Inbound>),
}

/// A resource as it travels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoded {
    /// Its type.
    pub type_url: &'static str,
    /// Its name within the type.
    pub name: String,
    /// A hash of its content: equal content has an equal version, also after a restart.
    pub version: String,
    /// The protobuf message.
    pub value: Bytes,
}

impl ResourceBody {
    /// Its type URL.
    #[must_use]
    pub fn type_url(&self) -> &'static str {
        match self {
            Self::Mesh(_) => MESH,
            Self::Trust(_) => TRUST,
            Self::Service(_) => SERVICE,
            Self::Inbound(_) => INBOUND,
        }
    }

    /// Its name: `mesh`, `trust`, `<namespace>/<service>` or `<namespace>/<workload>`.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::Mesh(_) => MESH_NAME.to_owned(),
            Self::Trust(_) => TRUST_NAME.to_owned(),
            Self::Service(service) => service.key.to_string(),
            Self::Inbound(inbound) => inbound.workload.to_string(),
        }
    }

    /// Writes it as protobuf.
    #[must_use]
    pub fn encode(&self) -> Encoded {
        let value = match self {
            Self::Mesh(mesh) => resources::Mesh::from(&**mesh).encode_to_vec(),
            Self::Trust(trust) => resources::Trust::from(&**trust).encode_to_vec(),
            Self::Service(service) => resources::Service::from(&**service).encode_to_vec(),
            Self::Inbound(inbound) => resources::Inbound::from(&**inbound).encode_to_vec(),
        };
        Encoded {
            type_url: self.type_url(),
            name: self.name(),
            version: version(&value),
            value: value.into(),
        }
    }

    /// Reads a resource and checks that it is the one that its name says.
    ///
    /// # Errors
    /// When the type is unknown, the bytes are no message of it, a field is invalid, or the name is another's.
    pub fn decode(type_url: &str, name: &str, value: &[u8]) -> Result<Self, DecodeError> {
        let fail = |cause| DecodeError {
            type_url: type_url.to_owned(),
            name: name.to_owned(),
            cause,
        };
        let body = decode_body(type_url, value).map_err(fail)?;
        let own_name = body.name();
        if own_name != name {
            return Err(fail(DecodeCause::OtherName(own_name)));
        }
        Ok(body)
    }
}

impl Encoded {
    /// The resource as discovery carries it.
    #[must_use]
    pub fn to_discovery(&self) -> discovery::Resource {
        discovery::Resource {
            version: self.version.clone(),
            resource: Some(prost_types::Any {
                type_url: self.type_url.to_owned(),
                value: self.value.to_vec(),
            }),
            name: self.name.clone(),
        }
    }
}

/// The version of a resource with this content.
#[must_use]
pub fn version(value: &[u8]) -> String {
    let digest = Sha256::digest(value);
    let hex = |byte: &u8| format!("{byte:02x}");
    digest.iter().take(VERSION_BYTES).map(hex).collect()
}

/// How much of the hash a version keeps: versions are compared per resource, by parties that trust each other.
const VERSION_BYTES: usize = 8;

/// Why a resource could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("resource `{name}` of type `{type_url}`: {cause}")]
pub struct DecodeError {
    /// The type it came as.
    pub type_url: String,
    /// The name it came under.
    pub name: String,
    /// What is wrong.
    pub cause: DecodeCause,
}

/// What is wrong with a resource.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeCause {
    /// Nobody knows this type.
    #[error("the type is unknown")]
    UnknownType,
    /// The bytes are not of this type.
    #[error("the bytes are no such message ({0})")]
    Malformed(prost::DecodeError),
    /// One field is wrong.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// The content belongs under another name.
    #[error("its content is that of `{0}`")]
    OtherName(String),
}

fn decode_body(type_url: &str, value: &[u8]) -> Result<ResourceBody, DecodeCause> {
    let malformed = DecodeCause::Malformed;
    match type_url {
        MESH => {
            let message = resources::Mesh::decode(value).map_err(malformed)?;
            Ok(ResourceBody::Mesh(Arc::new(message.try_into()?)))
        }
        TRUST => {
            let message = resources::Trust::decode(value).map_err(malformed)?;
            Ok(ResourceBody::Trust(Arc::new(message.try_into()?)))
        }
        SERVICE => {
            let message = resources::Service::decode(value).map_err(malformed)?;
            Ok(ResourceBody::Service(Arc::new(message.try_into()?)))
        }
        INBOUND => {
            let message = resources::Inbound::decode(value).map_err(malformed)?;
            Ok(ResourceBody::Inbound(Arc::new(message.try_into()?)))
        }
        _ => Err(DecodeCause::UnknownType),
    }
}
