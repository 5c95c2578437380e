//! Join tokens: the secret with which a proxy asks for its first certificate.
//!
//! A token is `pjt1.<payload>.<code>`, both base64url. The payload is the end of its validity (Unix
//! seconds, 8 bytes, big endian) followed by the one SPIFFE ID it admits to; the code is
//! HMAC-SHA256 over the prefix and payload, with the cluster's token secret.

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use portolan_model::SpiffeId;

/// The longest token that is read, in bytes: room for the longest SPIFFE ID.
pub const TOKEN_MAX: usize = 3 * 1024;

const PREFIX: &str = "pjt1";

/// Why a join token does not admit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// The text is not a token.
    #[error(
        "the join token is malformed: copy the whole line that `portolan token create` printed"
    )]
    Malformed,
    /// The code is wrong.
    #[error("the join token was not made by this cluster, or was changed")]
    Forged,
    /// The token admits to another identity.
    #[error("the join token is for `{token}`, not for `{asked}`")]
    WrongIdentity {
        /// What it admits to.
        token: String,
        /// What was asked for.
        asked: SpiffeId,
    },
    /// The token ended.
    #[error("the join token expired {ago_s} seconds ago: make a new one")]
    Expired {
        /// How long ago.
        ago_s: u64,
    },
}

/// Makes a token that admits to `id` until `expires_s` (Unix seconds).
#[must_use]
pub fn mint(secret: &[u8; 32], id: &SpiffeId, expires_s: u64) -> String {
    let mut payload = expires_s.to_be_bytes().to_vec();
    payload.extend_from_slice(id.to_string().as_bytes());
    let signed = format!("{PREFIX}.{}", URL_SAFE_NO_PAD.encode(payload));
    let code = hmac::sign(&key(secret), signed.as_bytes());
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(code))
}

/// Checks that the token admits to `id` at `now_s` (Unix seconds).
///
/// # Errors
/// Says why it does not. Nothing of a token is believed before its code was checked, in constant time.
pub fn check(secret: &[u8; 32], token: &str, id: &SpiffeId, now_s: u64) -> Result<(), TokenError> {
    let token = token.trim();
    if token.len() > TOKEN_MAX {
        return Err(TokenError::Malformed);
    }
    let (signed, code) = token.rsplit_once('.').ok_or(TokenError::Malformed)?;
    let (prefix, payload) = signed.split_once('.').ok_or(TokenError::Malformed)?;
    if prefix != PREFIX {
        return Err(TokenError::Malformed);
    }
    let decode = |text| {
        URL_SAFE_NO_PAD
            .decode(text)
            .map_err(|_| TokenError::Malformed)
    };
    let (payload, code): (Vec<u8>, Vec<u8>) = (decode(payload)?, decode(code)?);
    let (expires, admitted) = payload
        .split_first_chunk::<8>()
        .ok_or(TokenError::Malformed)?;
    hmac::verify(&key(secret), signed.as_bytes(), &code).map_err(|_| TokenError::Forged)?;

    if admitted != id.to_string().as_bytes() {
        return Err(TokenError::WrongIdentity {
            token: String::from_utf8_lossy(admitted).into_owned(),
            asked: id.clone(),
        });
    }
    let expires_s = u64::from_be_bytes(*expires);
    if now_s >= expires_s {
        return Err(TokenError::Expired {
            ago_s: now_s - expires_s,
        });
    }
    Ok(())
}

fn key(secret: &[u8; 32]) -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA256, secret)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECRET: [u8; 32] = [7; 32];

    fn id(text: &str) -> SpiffeId {
        SpiffeId::parse(text).unwrap()
    }

    #[test]
    fn a_token_admits_to_one_identity_until_it_expires() {
        let web = id("spiffe://a.set/ns/shop/sa/web");
        let token = mint(&SECRET, &web, 1000);
        assert_eq!(check(&SECRET, &token, &web, 999), Ok(()));
        assert_eq!(check(&SECRET, &format!(" {token}\n"), &web, 0), Ok(()));
        assert_eq!(
            check(&SECRET, &token, &web, 1003),
            Err(TokenError::Expired { ago_s: 3 })
        );
        let other = check(&SECRET, &token, &id("spiffe://a.set/ns/shop/sa/db"), 999).unwrap_err();
        assert!(matches!(other, TokenError::WrongIdentity { .. }));
        assert!(other.to_string().contains("sa/web") && other.to_string().contains("sa/db"));
        assert_eq!(check(&[8; 32], &token, &web, 999), Err(TokenError::Forged));
        assert!(
            mint(
                &SECRET,
                &id(&format!("spiffe://td/{}", "a".repeat(2036))),
                1
            )
            .len()
                <= TOKEN_MAX
        );
    }

    proptest! {
        #[test]
        fn no_changed_token_admits(at in 0usize..200, with in "[A-Za-z0-9_.-]") {
            let web = id("spiffe://a.set/ns/shop/sa/web");
            let token = mint(&SECRET, &web, 1000);
            let at = at % token.len();
            let mut changed = token.clone();
            changed.replace_range(at..=at, &with);
            prop_assume!(changed != token);
            prop_assert!(check(&SECRET, &changed, &web, 999).is_err());
        }

        #[test]
        fn arbitrary_text_never_panics(text in "\\PC{0,200}") {
            prop_assert!(check(&SECRET, &text, &id("spiffe://td/x"), 0).is_err());
        }
    }
}
