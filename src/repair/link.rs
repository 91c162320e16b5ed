//! The signed link in `repair_url`, and the signed addresses to which Belvo's widget returns.
//!
//! ```text
//!   token = base64url( version | purpose | key id (4) | episode (4) | expiry, s (8) | link id (1..=64) | HMAC-SHA256 (32) )
//!   of a callback:                                                    … expiry, s (8) | attempt (4) | link id …
//! ```
//!
//! A token names one episode of one link. It opens the page of this episode and nothing else: it is no credential for
//! Belvo or for `/v1`, and it is useless when the episode has ended. The purpose is part of the signed bytes, so a
//! mailed link cannot be turned into a callback. The expiry comes from the time of the step, so planning the same input
//! again gives the same bytes. With two keys the first one signs and both verify, so keys can be rotated.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, Mac};
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};

use crate::link::{EpisodeNumber, LINK_ID_LENGTH_MAX, LinkId, Timestamp};

/// The shortest key, in bytes. A shorter one could be guessed from one mailed link.
pub const KEY_LENGTH_MIN: usize = 32;

/// The version of the format.
const VERSION: u8 = 1;

/// Version, purpose, key id, episode and expiry.
const HEAD_LENGTH: usize = 1 + 1 + 4 + 4 + 8;

/// The length of the signature.
const MAC_LENGTH: usize = 32;

/// The length of the number of an attempt.
const ATTEMPT_LENGTH: usize = 4;

/// The longest token, in characters. A longer one is refused before it is decoded.
const TOKEN_LENGTH_MAX: usize = (HEAD_LENGTH + ATTEMPT_LENGTH + LINK_ID_LENGTH_MAX + MAC_LENGTH) * 4 / 3 + 1;

/// What a token may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To open the page: the link in a notice.
    Page,
    /// To report how the widget ended: the address that relink gives to Belvo.
    Callback,
}

impl Purpose {
    const fn byte(self) -> u8 {
        match self {
            Self::Page => b'p',
            Self::Callback => b'c',
        }
    }

    /// The length of what is before the link id.
    const fn head_length(self) -> usize {
        match self {
            Self::Page => HEAD_LENGTH,
            Self::Callback => HEAD_LENGTH + ATTEMPT_LENGTH,
        }
    }
}

/// The content of a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claims {
    /// The link.
    pub link: LinkId,
    /// The episode of the link.
    pub episode: EpisodeNumber,
    /// From when on the token is refused, in full seconds.
    pub expires_at: Timestamp,
    /// Of a callback: which attempt of the episode it ends, from 1. A page has 0.
    pub attempt: u32,
}

/// Why a token is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadLink {
    /// relink did not sign it: it was changed, cut off, made for another purpose, or signed by a key that is not
    /// configured any more.
    #[error("relink did not sign this link")]
    NotSigned,
}

/// Signs and verifies the links of one installation. Clones share the keys.
#[derive(Clone)]
pub struct RepairLinks(Arc<Signer>);

struct Signer {
    /// Without a slash at the end.
    base_url: String,
    /// The first one signs.
    keys: Vec<Key>,
    life: Duration,
}

struct Key {
    id: [u8; 4],
    mac: Hmac<Sha256>,
}

impl fmt::Debug for RepairLinks {
    /// Without the keys.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RepairLinks").field("base_url", &self.0.base_url).finish_non_exhaustive()
    }
}

impl RepairLinks {
    /// Links below `base_url` that are valid for `life`. The first key signs, all keys verify.
    pub fn new(base_url: &str, keys: &[SecretString], life: Duration) -> Self {
        let keys = keys.iter().map(|key| Key::of(key.expose_secret().as_bytes())).collect();
        let base_url = base_url.trim_end_matches('/').to_owned();
        Self(Arc::new(Signer { base_url, keys, life }))
    }

    /// The public address of relink, without a slash at the end.
    pub fn base_url(&self) -> &str {
        &self.0.base_url
    }

    /// The address of the page for this episode, for a notice of a step at `at`.
    pub fn url(&self, link: &LinkId, episode: EpisodeNumber, at: Timestamp) -> String {
        let expires_at = at.after(self.0.life);
        format!(
            "{}/repair/{}",
            self.0.base_url,
            self.sign(Purpose::Page, &Claims { link: link.clone(), episode, expires_at, attempt: 0 })
        )
    }

    /// A token for these claims.
    pub fn sign(&self, purpose: Purpose, claims: &Claims) -> String {
        let Some(key) = self.0.keys.first() else { return String::new() };
        let mut bytes = vec![VERSION, purpose.byte()];
        bytes.extend(key.id);
        bytes.extend(claims.episode.0.to_be_bytes());
        bytes.extend(claims.expires_at.as_millis().div_euclid(1_000).to_be_bytes());
        if purpose == Purpose::Callback {
            bytes.extend(claims.attempt.to_be_bytes());
        }
        bytes.extend(claims.link.as_str().as_bytes());
        let mac = key.mac.clone().chain_update(&bytes).finalize().into_bytes();
        bytes.extend(mac);
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// The claims of a token that relink has signed for this purpose. The caller compares the expiry with its clock.
    ///
    /// # Errors
    /// [`BadLink`].
    pub fn verify(&self, purpose: Purpose, token: &str) -> Result<Claims, BadLink> {
        if token.len() > TOKEN_LENGTH_MAX {
            return Err(BadLink::NotSigned);
        }
        let bytes = URL_SAFE_NO_PAD.decode(token).map_err(|_| BadLink::NotSigned)?;
        let head_length = purpose.head_length();
        let at = bytes.len().checked_sub(MAC_LENGTH).filter(|at| *at > head_length).ok_or(BadLink::NotSigned)?;
        let (signed, mac) = bytes.split_at(at);
        let (head, link) = signed.split_at(head_length);
        if head[..2] != [VERSION, purpose.byte()] {
            return Err(BadLink::NotSigned);
        }
        let key = self.0.keys.iter().find(|key| key.id == head[2..6]).ok_or(BadLink::NotSigned)?;
        // The comparison takes the same time for every wrong signature.
        key.mac.clone().chain_update(signed).verify_slice(mac).map_err(|_| BadLink::NotSigned)?;
        let number =
            |range: std::ops::Range<usize>| head[range].iter().fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte));
        let link = std::str::from_utf8(link).ok().and_then(|link| link.parse().ok()).ok_or(BadLink::NotSigned)?;
        let short = |range| u32::try_from(number(range)).map_err(|_| BadLink::NotSigned);
        let episode = short(6..10)?;
        let seconds = number(10..18).cast_signed();
        let attempt = short(HEAD_LENGTH..head_length)?;
        Ok(Claims {
            link,
            episode: EpisodeNumber(episode),
            expires_at: Timestamp::from_millis(seconds.saturating_mul(1_000)),
            attempt,
        })
    }
}

impl Key {
    fn of(secret: &[u8]) -> Self {
        let digest = Sha256::new().chain_update(b"relink repair key id").chain_update(secret).finalize();
        let mac = Hmac::new_from_slice(secret).expect("HMAC takes keys of any length");
        Self { id: [digest[0], digest[1], digest[2], digest[3]], mac }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = "an-old-key-of-at-least-thirty-two-bytes";
    const NEW: &str = "a-new-key-of-at-least-thirty-two-bytes!";

    fn links(keys: &[&str]) -> RepairLinks {
        let keys: Vec<_> = keys.iter().map(|key| SecretString::from(*key)).collect();
        RepairLinks::new("https://relink.example.com/", &keys, Duration::from_secs(3_600))
    }

    fn claims() -> Claims {
        let link = "16f68516-bcbc-4cf7-b815-c500d4204e28".parse().unwrap();
        Claims { link, episode: EpisodeNumber(3), expires_at: Timestamp::from_millis(1_790_003_600_000), attempt: 0 }
    }

    fn token_of(url: &str) -> &str {
        url.strip_prefix("https://relink.example.com/repair/").unwrap()
    }

    #[test]
    fn a_link_names_its_episode_and_the_end_of_its_life() {
        let Claims { link, episode, .. } = claims();
        let at = Timestamp::from_millis(1_790_000_000_123);
        let url = links(&[NEW]).url(&link, episode, at);
        assert_eq!(url, links(&[NEW]).url(&link, episode, at), "the same step gives the same bytes");
        assert_eq!(links(&[NEW]).verify(Purpose::Page, token_of(&url)), Ok(claims()));
    }

    #[test]
    fn a_rotation_keeps_the_links_of_the_old_key() {
        let token = links(&[OLD]).sign(Purpose::Page, &claims());
        assert_eq!(links(&[NEW, OLD]).verify(Purpose::Page, &token), Ok(claims()));
        assert_eq!(links(&[NEW]).verify(Purpose::Page, &token), Err(BadLink::NotSigned));
        let signed_now = links(&[NEW, OLD]).sign(Purpose::Page, &claims());
        assert_eq!(links(&[NEW]).verify(Purpose::Page, &signed_now), Ok(claims()));
    }

    #[test]
    fn a_mailed_link_is_no_callback() {
        let links = links(&[NEW]);
        let token = links.sign(Purpose::Page, &claims());
        assert_eq!(links.verify(Purpose::Callback, &token), Err(BadLink::NotSigned));
    }

    #[test]
    fn every_changed_or_cut_token_is_refused() {
        let links = links(&[NEW]);
        let token = links.sign(Purpose::Page, &claims());
        let bytes = URL_SAFE_NO_PAD.decode(&token).unwrap();
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut changed = bytes.clone();
                changed[at] ^= 1 << bit;
                let changed = URL_SAFE_NO_PAD.encode(changed);
                assert_eq!(links.verify(Purpose::Page, &changed), Err(BadLink::NotSigned), "byte {at}, bit {bit}");
            }
            let cut = URL_SAFE_NO_PAD.encode(&bytes[..at]);
            assert_eq!(links.verify(Purpose::Page, &cut), Err(BadLink::NotSigned), "{at} bytes");
        }
        for foreign in ["", "x", "💥", "../../etc/passwd", &"A".repeat(10_000), &format!("{token}=")] {
            assert_eq!(links.verify(Purpose::Page, foreign), Err(BadLink::NotSigned));
        }
    }

    #[test]
    fn the_longest_link_id_fits() {
        let links = links(&[NEW]);
        let page = Claims { link: "x".repeat(LINK_ID_LENGTH_MAX).parse().unwrap(), ..claims() };
        let callback = Claims { attempt: u32::MAX, ..page.clone() };
        for (purpose, claims) in [(Purpose::Page, page), (Purpose::Callback, callback)] {
            assert_eq!(links.verify(purpose, &links.sign(purpose, &claims)), Ok(claims));
        }
    }
}
