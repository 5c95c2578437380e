//! The closed list of reasons for which a request or connection is refused, and the hops that
//! refuse. The header `x-portolan-error`, the access log, the metric label and `explain` use
//! exactly these words.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The response header that carries a [`Refusal`], as `<reason>; hop=<hop>`.
pub const ERROR_HEADER: &str = "x-portolan-error";

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident = $word:literal, $code:literal;)*) => {
        /// Why something was refused.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum Reason { $($(#[$doc])* $variant,)* }

        impl Reason {
            /// Every reason, in order.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// The word used everywhere.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }

            /// The stable number that travels between gateways.
            #[must_use]
            pub fn code(self) -> u8 {
                match self { $(Self::$variant => $code,)* }
            }

            /// The reason with this number; unknown numbers (from a newer peer) are [`Reason::Internal`].
            #[must_use]
            pub fn from_code(code: u8) -> Self {
                match code { $($code => Self::$variant,)* _ => Self::Internal }
            }
        }
    };
}

reasons! {
    /// No service or route answers to this name.
    NoRoute = "no_route", 1;
    /// The service exists but is not exported to the caller's cluster.
    NotExported = "not_exported", 2;
    /// The caller's identity may not do this.
    Denied = "denied", 3;
    /// No endpoint anywhere can serve.
    NoHealthyUpstream = "no_healthy_upstream", 4;
    /// A bound was reached; nothing was queued.
    Overloaded = "overloaded", 5;
    /// A time limit passed.
    Timeout = "timeout", 6;
    /// No live link to the peer.
    PeerUnreachable = "peer_unreachable", 7;
    /// The upstream did not accept the connection.
    ConnectFailed = "connect_failed", 8;
    /// The upstream ended the connection before it answered.
    Reset = "reset", 9;
    /// TLS failed: the other side is not who it should be, or we are not for it.
    IdentityMismatch = "identity_mismatch", 10;
    /// The request breaks the protocol.
    BadRequest = "bad_request", 11;
    /// The request went through the same hop twice.
    Loop = "loop", 12;
    /// The proxy is shutting down.
    Draining = "draining", 13;
    /// The proxy has no snapshot yet.
    NotReady = "not_ready", 14;
    /// The proxy failed in a way it does not know better.
    Internal = "internal", 15;
    /// The matching route's rule leads nowhere: no such backend, or a filter that nobody knows.
    InvalidBackend = "invalid_backend", 16;
    /// The service takes no more for now: a declared limit is reached.
    RateLimited = "rate_limited", 17;
}

impl Reason {
    /// Reads the word.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL
            .iter()
            .copied()
            .find(|reason| reason.as_str() == word)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Which hop refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Hop {
    /// The caller's sidecar.
    Outbound,
    /// The caller's gateway.
    Egress,
    /// The serving cluster's gateway.
    Ingress,
    /// The serving sidecar.
    Inbound,
}

impl Hop {
    /// The word used everywhere.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Outbound => "outbound",
            Self::Egress => "egress",
            Self::Ingress => "ingress",
            Self::Inbound => "inbound",
        }
    }

    /// Reads the word.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        [Self::Outbound, Self::Egress, Self::Ingress, Self::Inbound]
            .into_iter()
            .find(|hop| hop.as_str() == word)
    }
}

impl fmt::Display for Hop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A refusal: one reason, and the hop that refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{reason} at {hop}: {detail}")]
pub struct Refusal {
    /// Why.
    pub reason: Reason,
    /// Where.
    pub hop: Hop,
    /// One sentence for people; never leaves the cluster.
    pub detail: String,
}

impl Refusal {
    /// A refusal with its sentence.
    #[must_use]
    pub fn new(reason: Reason, hop: Hop, detail: impl Into<String>) -> Self {
        Self {
            reason,
            hop,
            detail: detail.into(),
        }
    }

    /// The value of [`ERROR_HEADER`].
    #[must_use]
    pub fn header_value(&self) -> String {
        format!("{}; hop={}", self.reason, self.hop)
    }

    /// Reads a value of [`ERROR_HEADER`].
    #[must_use]
    pub fn parse_header(value: &str) -> Option<(Reason, Hop)> {
        let (reason, hop) = value.split_once(';')?;
        Some((
            Reason::parse(reason.trim())?,
            Hop::parse(hop.trim().strip_prefix("hop=")?)?,
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_codes_and_header_round_trip() {
        for reason in Reason::ALL {
            assert_eq!(Reason::parse(reason.as_str()), Some(*reason));
            assert_eq!(Reason::from_code(reason.code()), *reason);
            let refusal = Refusal::new(*reason, Hop::Egress, "x");
            assert_eq!(
                Refusal::parse_header(&refusal.header_value()),
                Some((*reason, Hop::Egress))
            );
        }
        assert_eq!(Reason::from_code(200), Reason::Internal);
    }
}
