//! The settings of the repair page: `[repair]`, `RELINK_REPAIR_*`.

use std::time::Duration;

use secrecy::ExposeSecret;

use super::reader::Reader;
use super::{HOUR, is_http};
use crate::repair::{KEY_LENGTH_MIN, RepairLinks};

/// The most keys: one that signs, and the previous one during a rotation.
const KEYS_MAX: usize = 2;

/// The settings of the repair page.
#[derive(Clone, Debug)]
pub struct RepairConfig {
    /// `RELINK_REPAIR_BASE_URL`, `RELINK_REPAIR_KEYS`, `RELINK_REPAIR_EXPIRES`: signs and verifies the links.
    pub links: RepairLinks,
}

/// Returns `None` if the page is switched off, or if a problem was noted.
pub(super) fn read(reader: &mut Reader, has_belvo_keys: bool) -> Option<RepairConfig> {
    let keys = reader.secrets("repair.keys");
    let expires = reader.span_within("repair.expires", HOUR..=Duration::from_secs(90 * 86_400));
    let base_url = reader.text("repair.base_url");
    let is_base = |url: &String| is_http(url) && !url.contains(['?', '#']);
    if base_url.as_ref().is_some_and(|url| !is_base(url)) {
        let problem = "must be an address without user, query and fragment, such as https://relink.example.com";
        reader.reject("repair.base_url", problem);
    }
    match (&base_url, keys.len()) {
        (None, 0) => return None,
        (None, _) => {
            reader.reject("repair.keys", "also needs repair.base_url (RELINK_REPAIR_BASE_URL)");
            return None;
        }
        (Some(_), 0) => reader.reject("repair.base_url", "also needs repair.keys (RELINK_REPAIR_KEYS)"),
        (Some(_), 1..=KEYS_MAX) => {}
        (Some(_), _) => reader.reject("repair.keys", "must be one or two keys"),
    }
    if keys.iter().any(|key| key.expose_secret().len() < KEY_LENGTH_MIN) {
        reader.reject("repair.keys", format!("must have at least {KEY_LENGTH_MIN} characters each; use random ones"));
    }
    if !has_belvo_keys {
        reader.reject("repair.base_url", "also needs belvo.url, belvo.secret_id and belvo.secret_password");
    }
    Some(RepairConfig { links: RepairLinks::new(&base_url?, &keys, expires) })
}
