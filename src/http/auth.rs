//! Who may come in. Values are compared as SHA-256 digests in constant time, with every configured one in turn, so
//! that neither their number, their length nor their beginning can be measured from outside.

use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

use super::problem::{Kind, Problem};
use crate::metric;

/// The values that open a door, as digests: the values themselves are not kept.
#[derive(Clone)]
pub(super) struct Keys(Vec<[u8; 32]>);

impl Keys {
    pub(super) fn of(secrets: &[SecretString]) -> Self {
        Self(secrets.iter().map(|secret| digest(secret.expose_secret().as_bytes())).collect())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the value is one of them.
    fn open(&self, presented: &[u8]) -> bool {
        let presented = digest(presented);
        self.0.iter().fold(Choice::from(0), |found, key| found | key.ct_eq(&presented)).into()
    }
}

fn digest(value: &[u8]) -> [u8; 32] {
    Sha256::digest(value).into()
}

/// Checks the whole `Authorization` value of a webhook.
pub(super) fn check_webhook(keys: &Keys, open: bool, headers: &HeaderMap) -> Result<(), Problem> {
    if keys.is_empty() && open {
        return Ok(());
    }
    match headers.get(AUTHORIZATION) {
        Some(value) if keys.open(value.as_bytes()) => Ok(()),
        Some(_) => Err(refuse(
            "webhooks",
            "The Authorization header is not one of those configured as RELINK_WEBHOOK_SECRETS. It is compared \
             whole, scheme \
             included, with what was typed into Belvo's dashboard.",
        )),
        None => Err(refuse(
            "webhooks",
            "There is no Authorization header. Type the value configured as RELINK_WEBHOOK_SECRETS into Belvo's \
             dashboard, \
             field Authorization.",
        )),
    }
}

/// Whether a request carries one of the configured `Authorization` values of webhooks, wherever it is addressed to.
pub(super) fn is_webhook(keys: &Keys, headers: &HeaderMap) -> bool {
    headers.get(AUTHORIZATION).is_some_and(|value| keys.open(value.as_bytes()))
}

/// Checks the bearer token of `/v1`.
pub(super) fn check_api(tokens: &Keys, headers: &HeaderMap) -> Result<(), Problem> {
    if tokens.is_empty() {
        return Err(refuse(
            "v1",
            "No API token is configured, so nobody may use /v1: set RELINK_API_TOKENS (http.api_tokens) and \
             restart relink.",
        ));
    }
    let Some(value) = headers.get(AUTHORIZATION) else {
        return Err(refuse("v1", "There is no Authorization header; send `Authorization: Bearer <token>`."));
    };
    let token = match value.as_bytes().split_at_checked(7) {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case(b"bearer ") => token.trim_ascii(),
        Some(_) | None => {
            return Err(refuse(
                "v1",
                "The Authorization header is not a bearer token; send `Authorization: Bearer <token>`.",
            ));
        }
    };
    if tokens.open(token) {
        Ok(())
    } else {
        Err(refuse("v1", "The bearer token is not one of those configured as RELINK_API_TOKENS."))
    }
}

fn refuse(door: &'static str, detail: &str) -> Problem {
    metrics::counter!(metric::UNAUTHORIZED.name, "endpoint" => door).increment(1);
    Problem::new(Kind::Unauthorized, detail)
}
