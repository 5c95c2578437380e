//! Refusals as TLS alerts: how a gateway that holds no keys tells a caller's TLS why it refuses.

use portolan_model::Reason;

/// An alert that a gateway sends instead of a ServerHello.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Alert {
    /// `unrecognized_name`: not imported, not exported, unknown.
    UnrecognizedName,
    /// `internal_error`: nobody healthy can be reached.
    InternalError,
    /// `access_denied`: the caller may not.
    AccessDenied,
    /// `decode_error`: the ClientHello cannot be read.
    DecodeError,
}

impl Alert {
    const ALL: [Self; 4] = [
        Self::UnrecognizedName,
        Self::InternalError,
        Self::AccessDenied,
        Self::DecodeError,
    ];

    /// The number in RFC 8446 §6.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::UnrecognizedName => 112,
            Self::InternalError => 80,
            Self::AccessDenied => 49,
            Self::DecodeError => 50,
        }
    }

    /// The alert with this number, if it is one that we send.
    #[must_use]
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|alert| alert.code() == code)
    }

    /// The alert that tells this reason best.
    #[must_use]
    pub fn for_reason(reason: Reason) -> Self {
        match reason {
            Reason::NoRoute | Reason::NotExported => Self::UnrecognizedName,
            Reason::Denied => Self::AccessDenied,
            Reason::BadRequest => Self::DecodeError,
            Reason::NoHealthyUpstream
            | Reason::Overloaded
            | Reason::RateLimited
            | Reason::Timeout
            | Reason::PeerUnreachable
            | Reason::ConnectFailed
            | Reason::Reset
            | Reason::IdentityMismatch
            | Reason::Loop
            | Reason::Draining
            | Reason::NotReady
            | Reason::Internal
            | Reason::InvalidBackend => Self::InternalError,
        }
    }

    /// What a caller learns from it.
    #[must_use]
    pub fn reason(self) -> Reason {
        match self {
            Self::UnrecognizedName => Reason::NotExported,
            Self::InternalError => Reason::NoHealthyUpstream,
            Self::AccessDenied => Reason::Denied,
            Self::DecodeError => Reason::BadRequest,
        }
    }

    /// The whole TLS record: a fatal alert, unencrypted.
    #[must_use]
    pub fn record(self) -> [u8; 7] {
        const ALERT: u8 = 21;
        const FATAL: u8 = 2;
        [ALERT, 3, 3, 0, 2, FATAL, self.code()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_round_trip_and_reasons_survive() {
        for alert in Alert::ALL {
            assert_eq!(Alert::from_code(alert.code()), Some(alert));
            assert_eq!(Alert::for_reason(alert.reason()), alert);
        }
        assert_eq!(Alert::from_code(0), None);
        assert_eq!(Alert::UnrecognizedName.record(), [21, 3, 3, 0, 2, 2, 112]);
    }
}
