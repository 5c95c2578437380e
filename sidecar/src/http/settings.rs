//! What may be set of HTTP.

use std::time::Duration;

use http::{HeaderName, HeaderValue, Version};
use portolan_policy::path::{EncodedSlashes, PathRules};
use portolan_runtime::ConfigError;
use serde::{Deserialize, Serialize};

use super::guard::Bounds;

/// The largest head that may be allowed, in bytes.
const HEAD_BYTES_LIMIT: usize = 1024 * 1024;
/// The longest request line that may be allowed, in bytes: longer ones cannot be read.
const LINE_BYTES_LIMIT: usize = 65_000;
/// The most headers that may be allowed.
const HEADERS_LIMIT: usize = 4096;

/// Callers' sidecars give up sooner.
const BODY_IDLE: Duration = Duration::from_secs(600);

/// The section `http` of a sidecar's configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub struct HttpConfig {
    /// What becomes of `%2F` and `%5C` in paths of the mesh.
    pub encoded_slashes: EncodedSlashes,
    /// Whether `//` in paths of the mesh becomes `/`.
    pub merge_slashes: bool,
    /// The largest request head, in bytes.
    pub head_bytes_max: usize,
    /// The most headers of a request.
    pub headers_max: usize,
    /// The longest request line, in bytes.
    pub request_line_bytes_max: usize,
    /// The largest request body that the app is sent, in bytes; any without it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body_bytes_max: Option<u64>,
    /// The name that the outbound side gives in `Via`; none without it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub via: Option<String>,
}

impl Default for HttpConfig {
    fn default() -> Self {
        let bounds = Bounds::default();
        Self {
            encoded_slashes: EncodedSlashes::default(),
            merge_slashes: false,
            head_bytes_max: bounds.bytes_max,
            headers_max: bounds.headers_max,
            request_line_bytes_max: bounds.line_bytes_max,
            body_bytes_max: None,
            via: None,
        }
    }
}

impl HttpConfig {
    /// Checks what types cannot say.
    ///
    /// # Errors
    /// Names the field and what would be right.
    pub fn check(&self) -> Result<(), ConfigError> {
        let within = |field: &str, value: usize, limit: usize| {
            if (1..=limit).contains(&value) {
                return Ok(());
            }
            let problem = format!("{value} is out of bounds");
            let remedy = format!("choose a number from 1 to {limit}");
            Err(ConfigError::unusable(field, problem, remedy))
        };
        within("http.headBytesMax", self.head_bytes_max, HEAD_BYTES_LIMIT)?;
        within("http.headersMax", self.headers_max, HEADERS_LIMIT)?;
        let line = self.request_line_bytes_max;
        within("http.requestLineBytesMax", line, LINE_BYTES_LIMIT)?;
        // A pseudonym is a token, as a header's name is (RFC 9110 §7.6.3).
        match &self.via {
            Some(name) if HeaderName::try_from(name.as_str()).is_err() => {
                let remedy = "write a name of letters, digits and hyphens";
                Err(ConfigError::unusable("http.via", "this is no name", remedy))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// The same, as the workers want it.
    #[must_use]
    pub(crate) fn rules(&self) -> HttpRules {
        HttpRules {
            bounds: Bounds {
                bytes_max: self.head_bytes_max,
                line_bytes_max: self.request_line_bytes_max,
                headers_max: self.headers_max,
            },
            path: PathRules {
                encoded_slashes: self.encoded_slashes,
                merge_slashes: self.merge_slashes,
            },
            body_max: self.body_bytes_max,
            body_idle: BODY_IDLE,
            via: self.via.as_deref().and_then(Via::new),
        }
    }
}

/// How HTTP is treated.
#[derive(Debug, Clone)]
pub(crate) struct HttpRules {
    /// How large requests may be.
    pub(crate) bounds: Bounds,
    /// How paths are brought to one form.
    pub(crate) path: PathRules,
    /// The largest body that the app is sent.
    pub(crate) body_max: Option<u64>,
    /// How long nothing may move of a call's bodies on their way to and from the app.
    pub(crate) body_idle: Duration,
    /// What is added to `Via`.
    pub(crate) via: Option<Via>,
}

impl Default for HttpRules {
    fn default() -> Self {
        HttpConfig::default().rules()
    }
}

/// What is added to `Via`, for each version that is spoken.
#[derive(Debug, Clone)]
pub(crate) struct Via {
    http10: HeaderValue,
    http11: HeaderValue,
    http2: HeaderValue,
}

impl Via {
    fn new(name: &str) -> Option<Self> {
        let value = |version| HeaderValue::try_from(format!("{version} {name}")).ok();
        Some(Self {
            http10: value("1.0")?,
            http11: value("1.1")?,
            http2: value("2.0")?,
        })
    }

    /// For a message that was received in this version.
    pub(crate) fn value(&self, received: Version) -> HeaderValue {
        let value = match received {
            Version::HTTP_10 => &self.http10,
            Version::HTTP_2 => &self.http2,
            _ => &self.http11,
        };
        value.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mistakes_are_named() {
        HttpConfig::default().check().unwrap();
        let line = HttpConfig {
            request_line_bytes_max: 70_000,
            ..HttpConfig::default()
        };
        let text = line.check().unwrap_err().to_string();
        assert!(text.contains("http.requestLineBytesMax"), "{text}");
        let via = HttpConfig {
            via: Some("a b".to_owned()),
            ..HttpConfig::default()
        };
        assert!(via.check().unwrap_err().to_string().contains("http.via"));
    }
}
