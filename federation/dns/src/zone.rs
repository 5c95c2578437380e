//! Names in our zones.
use crate::error::DnsError;

/// How our zones are called and how long their answers live.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ZoneSettings {
    /// The cluster set's zone.
    pub clusterset: String,
    /// How long clients may keep an answer, in seconds.
    pub ttl_s: u32,
}

impl ZoneSettings {
    /// See the fields.
    ///
    /// # Errors
    /// When the zone is not a domain name.
    pub fn new(clusterset: &str, ttl_s: u32) -> Result<Self, DnsError> {
        Ok(Self {
            clusterset: clusterset.to_owned(),
            ttl_s,
        })
    }
}
