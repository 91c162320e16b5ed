//! The signature of Standard Webhooks 1.0: HMAC-SHA256 over id, time and body.
//!
//! ```text
//!   webhook-signature: v1,base64( HMAC-SHA256( key, "<webhook-id>.<webhook-timestamp>.<body>" ) ) v1,…
//! ```
//!
//! With several keys there are several signatures, so that a receiver can change its key without a gap. The tests
//! verify the signatures with the official libraries.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, Mac};
use secrecy::{ExposeSecret, SecretBox, SecretString};
use sha2::Sha256;

/// The prefix of a key in the settings.
const PREFIX: &str = "whsec_";

/// The length of a key, in bytes.
const LENGTH: std::ops::RangeInclusive<usize> = 24..=64;

/// The keys that sign.
#[derive(Clone)]
pub struct SigningKeys(Vec<std::sync::Arc<SecretBox<Vec<u8>>>>);

impl std::fmt::Debug for SigningKeys {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "SigningKeys({})", self.0.len())
    }
}

/// The problem of a key, without the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be `whsec_` and the base64 of 24 to 64 random bytes")]
pub struct BadKey;

impl SigningKeys {
    /// Decodes the keys.
    ///
    /// # Errors
    /// [`BadKey`].
    pub fn parse(secrets: &[SecretString]) -> Result<Self, BadKey> {
        let decoded = secrets.iter().map(|secret| {
            let text = secret.expose_secret().strip_prefix(PREFIX).ok_or(BadKey)?;
            let bytes = STANDARD.decode(text).map_err(|_| BadKey)?;
            if LENGTH.contains(&bytes.len()) {
                Ok(std::sync::Arc::new(SecretBox::new(Box::new(bytes))))
            } else {
                Err(BadKey)
            }
        });
        decoded.collect::<Result<_, _>>().map(Self)
    }

    /// The value of `webhook-signature`. `timestamp` is in seconds since 1970. `id` must have no dot.
    pub(super) fn sign(&self, id: &str, timestamp: i64, body: &[u8]) -> String {
        let signature = |key: &std::sync::Arc<SecretBox<Vec<u8>>>| {
            let mut mac = Hmac::<Sha256>::new_from_slice(key.expose_secret()).expect("HMAC takes keys of any length");
            mac.update(format!("{id}.{timestamp}.").as_bytes());
            mac.update(body);
            format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
        };
        self.0.iter().map(signature).collect::<Vec<_>>().join(" ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signature_is_that_of_the_official_libraries() {
        // The example of the tests of the official libraries.
        let keys = SigningKeys::parse(&["whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD".into()]).unwrap();
        let body = br#"{"email":"test@example.com","username":"test_user"}"#;
        let signature = keys.sign("msg_27UH4WbU6Z5A5EzD8u03UvzRbpk", 1_649_367_553, body);
        assert_eq!(signature, "v1,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw=");
    }

    #[test]
    fn a_key_that_others_would_not_accept_is_refused() {
        for key in ["", "whsec_", "whsec_AAAA", "C2FVsBQIhrscChlQIMV+b5sSYspob7oD", "whsec_not base64 at all, I fear"] {
            assert_eq!(SigningKeys::parse(&[key.into()]).err(), Some(BadKey), "{key}");
        }
    }
}
