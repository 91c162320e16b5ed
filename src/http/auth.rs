//! Checks credentials. A presented value is compared as a SHA-256 digest, in constant time, with every configured
//! value, so that their number, lengths and prefixes cannot be measured from outside.

use std::sync::Arc;

use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use sha2::{Digest, Sha256};
use strum::VariantArray;
use subtle::{Choice, ConstantTimeEq};

use super::problem::{Kind, Problem};
use crate::config::HttpConfig;
use crate::contract::Scope;
use crate::metric;

/// Accepted values, stored as digests only.
#[derive(Clone)]
pub(super) struct Keys(Vec<[u8; 32]>);

impl Keys {
    pub(super) fn of(secrets: &[SecretString]) -> Self {
        Self(secrets.iter().map(|secret| digest(secret.expose_secret().as_bytes())).collect())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the presented value is one of the accepted ones.
    fn accept(&self, presented: &[u8]) -> bool {
        let presented = digest(presented);
        self.0.iter().fold(Choice::from(0), |found, key| found | key.ct_eq(&presented)).into()
    }
}

fn digest(value: &[u8]) -> [u8; 32] {
    Sha256::digest(value).into()
}

/// Checks the `Authorization` value of a webhook, scheme included.
pub(super) fn check_webhook(keys: &Keys, open: bool, headers: &HeaderMap) -> Result<(), Problem> {
    if keys.is_empty() && open {
        return Ok(());
    }
    match headers.get(AUTHORIZATION) {
        Some(value) if keys.accept(value.as_bytes()) => Ok(()),
        Some(_) => Err(refuse(
            "webhooks",
            "The Authorization header is not one of the values of RELINK_WEBHOOK_SECRETS. The whole header is \
             compared, scheme included. It is the value that was typed into Belvo's dashboard.",
        )),
        None => Err(refuse(
            "webhooks",
            "There is no Authorization header. Type a value of RELINK_WEBHOOK_SECRETS into the field Authorization \
             of Belvo's dashboard.",
        )),
    }
}

/// Checks the secret of a webhook of the status page: the whole `Authorization` value, or the parameter `secret` of the address.
/// Statuspage sends no header of its own, so the secret is usually a part of the address.
pub(super) fn check_status_webhook(keys: &Keys, headers: &HeaderMap, secret: Option<&str>) -> Result<(), Problem> {
    if keys.is_empty() {
        return Err(refuse(
            "status",
            "No secret is configured, so this endpoint is off: set RELINK_STATUS_WEBHOOK_SECRETS \
             (http.status_webhook_secrets) and restart relink.",
        ));
    }
    let header = headers.get(AUTHORIZATION).is_some_and(|value| keys.accept(value.as_bytes()));
    if header || secret.is_some_and(|secret| keys.accept(secret.as_bytes())) {
        Ok(())
    } else {
        Err(refuse(
            "status",
            "Neither the parameter `secret` of the address nor the Authorization header is one of the values of \
             RELINK_STATUS_WEBHOOK_SECRETS.",
        ))
    }
}

/// Whether the request has one of the configured `Authorization` values of webhooks, at any path.
pub(super) fn is_webhook(keys: &Keys, headers: &HeaderMap) -> bool {
    headers.get(AUTHORIZATION).is_some_and(|value| keys.accept(value.as_bytes()))
}

/// The API tokens, with what each may do.
pub(super) struct Tokens(Vec<Token>);

struct Token {
    digest: [u8; 32],
    name: Option<Arc<str>>,
    scopes: Vec<Scope>,
}

/// The holder of an API token. [`check_api`] makes it an extension of the request.
#[derive(Clone, Debug, Default)]
pub(super) struct Caller {
    name: Option<Arc<str>>,
    scopes: Vec<Scope>,
}

impl Tokens {
    pub(super) fn of(http: &HttpConfig) -> Self {
        let digest = |secret: &SecretString| digest(secret.expose_secret().as_bytes());
        let unnamed = http.api_tokens.iter().map(|secret| Token {
            digest: digest(secret),
            name: None,
            scopes: Scope::VARIANTS.to_vec(),
        });
        let named = http.named_api_tokens.iter().map(|token| Token {
            digest: digest(&token.secret),
            name: Some(token.name.as_str().into()),
            scopes: token.scopes.clone(),
        });
        Self(unnamed.chain(named).collect())
    }

    /// The holder of the presented token. All tokens are compared, in constant time.
    fn holder(&self, presented: &[u8]) -> Option<Caller> {
        let presented = digest(presented);
        let found = self
            .0
            .iter()
            .fold(None, |found, token| if bool::from(token.digest.ct_eq(&presented)) { Some(token) } else { found });
        found.map(|token| Caller { name: token.name.clone(), scopes: token.scopes.clone() })
    }
}

impl Caller {
    /// Removes the repair links from the body of a message, unless the holder may make tokens for a user's bank connection itself: whoever
    /// has a repair link gets such a token from its page.
    pub(super) fn hide_repair_links(&self, body: &mut Value) {
        const REPAIR_URL: &str = "repair_url";
        if self.scopes.contains(&Scope::Repair) {
            return;
        }
        let Value::Object(fields) = body else { return };
        fields.remove(REPAIR_URL);
        for others in fields.values_mut().filter_map(Value::as_array_mut) {
            others.iter_mut().filter_map(Value::as_object_mut).for_each(|other| drop(other.remove(REPAIR_URL)));
        }
    }

    /// The name of the token; `None` if it has none.
    pub(super) fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }
}

/// Checks the bearer token of `/v1`.
pub(super) fn check_api(tokens: &Tokens, headers: &HeaderMap) -> Result<Caller, Problem> {
    if tokens.0.is_empty() {
        return Err(refuse(
            "v1",
            "No API token is configured, so /v1 is disabled: set RELINK_API_TOKENS (http.api_tokens) or \
             RELINK_NAMED_API_TOKENS (http.named_api_tokens) and restart relink.",
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
    tokens.holder(token).ok_or_else(|| {
        refuse("v1", "The bearer token is none of the values of RELINK_API_TOKENS and RELINK_NAMED_API_TOKENS.")
    })
}

/// Checks the scope of the holder of a token.
pub(super) fn check_scope(caller: &Caller, scope: Scope) -> Result<(), Problem> {
    if caller.scopes.contains(&scope) {
        return Ok(());
    }
    metrics::counter!(metric::UNAUTHORIZED.name, "endpoint" => "v1").increment(1);
    let own: Vec<_> = caller.scopes.iter().map(|scope| format!("`{scope}`")).collect();
    let detail = format!(
        "The token has the scopes {}, and this request needs `{scope}`. The scopes are set in RELINK_NAMED_API_TOKENS \
         (http.named_api_tokens).",
        own.join(", "),
    );
    Err(Problem::new(Kind::Forbidden, detail).with("scope", scope.to_string()))
}

fn refuse(endpoint: &'static str, detail: &str) -> Problem {
    metrics::counter!(metric::UNAUTHORIZED.name, "endpoint" => endpoint).increment(1);
    Problem::new(Kind::Unauthorized, detail)
}
