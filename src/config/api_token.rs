//! `http.named_api_tokens`: API tokens with a name and scopes, such as `support:read+operate:<token>`.

use secrecy::{ExposeSecret, SecretString};
use strum::VariantArray;

use super::reader::Reader;
use crate::contract::Scope;

const KEY: &str = "http.named_api_tokens";

/// The longest name of a token, in bytes. Commands carry it, and the history of a link shows it.
const NAME_BYTES_MAX: usize = 64;

/// An API token with a name and scopes. Two tokens may have the same name, for a rotation.
#[derive(Clone, Debug)]
pub struct ApiToken {
    /// The name, which the history of a link shows.
    pub name: String,
    /// What its holder may do.
    pub scopes: Vec<Scope>,
    /// The token.
    pub secret: SecretString,
}

/// A wrong item is noted, without a part of its token, and left out. `unnamed` are the tokens of `http.api_tokens`.
pub(super) fn read(reader: &mut Reader, unnamed: &[SecretString]) -> Vec<ApiToken> {
    let mut tokens: Vec<ApiToken> = Vec::new();
    for (at, item) in reader.secrets(KEY).iter().enumerate() {
        match parse(item) {
            Ok(token) => {
                // With the same token twice, nobody could say which scopes it has.
                let others = tokens.iter().map(|token| &token.secret).chain(unnamed);
                if others.map(SecretString::expose_secret).any(|other| other == token.secret.expose_secret()) {
                    reader.reject(KEY, format!("item {}: the token is given twice", at + 1));
                }
                tokens.push(token);
            }
            Err(problem) => reader.reject(KEY, format!("item {}: {problem}", at + 1)),
        }
    }
    tokens
}

fn parse(item: &SecretString) -> Result<ApiToken, String> {
    let form = || "must have the form <name>:<scope>+<scope>:<token>, such as support:read+operate:…".to_owned();
    // A token may have colons.
    let mut parts = item.expose_secret().splitn(3, ':').map(str::trim);
    let (Some(name), Some(scopes), Some(secret)) = (parts.next(), parts.next(), parts.next()) else {
        return Err(form());
    };
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.@".contains(&byte);
    if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.bytes().all(is_plain) {
        return Err(format!("the name must have 1 to {NAME_BYTES_MAX} of the characters A-Z a-z 0-9 _ - . @"));
    }
    if secret.is_empty() {
        return Err(form());
    }
    let mut known = Vec::new();
    for scope in scopes.split('+').map(str::trim) {
        // What stands here may be a part of a token whose item has another form, so neither it nor the name is quoted.
        let scope = scope.parse::<Scope>().map_err(|_| {
            let names: Vec<_> = Scope::VARIANTS.iter().map(ToString::to_string).collect();
            format!("a scope is none of {}", names.join(", "))
        })?;
        known.push(scope);
    }
    known.sort_unstable();
    known.dedup();
    Ok(ApiToken { name: name.to_owned(), scopes: known, secret: SecretString::from(secret) })
}
