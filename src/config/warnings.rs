//! Settings that are valid, and are probably a mistake. relink starts with them; `check-config` and the log show them.

use secrecy::{ExposeSecret as _, SecretString};

use super::Config;
use super::address::is_here;

/// A token with fewer characters is a word that somebody chose, and can be guessed.
const TOKEN_LENGTH_MIN: usize = 16;

/// The warnings about this configuration, each a sentence with the setting to change.
pub(super) fn of(config: &Config) -> Vec<String> {
    let mut warnings = Vec::new();
    let belvo_is_here = config.belvo.keys.as_ref().is_some_and(|keys| is_here(&keys.url));
    for (key, url) in [("belvo.widget_url", &config.belvo.widget_url), ("belvo.portal_url", &config.belvo.portal_url)] {
        if belvo_is_here && !is_here(url) {
            warnings.push(format!(
                "belvo.url is an address of this machine, but {key} is {url}: a user who repairs a link would open Belvo's page with a token \
                 of another system. Set {key} to the page of the sandbox"
            ));
        }
    }
    let is_short = |token: &SecretString| token.expose_secret().chars().count() < TOKEN_LENGTH_MIN;
    let long_one = format!(
        "fewer than {TOKEN_LENGTH_MIN} characters, so it can be guessed; `openssl rand -hex 32` makes a long one"
    );
    if config.http.api_tokens.iter().any(is_short) {
        warnings.push(format!("a token of http.api_tokens (RELINK_API_TOKENS) has {long_one}"));
    }
    for token in config.http.named_api_tokens.iter().filter(|token| is_short(&token.secret)) {
        let name = &token.name;
        warnings.push(format!("the token `{name}` of http.named_api_tokens (RELINK_NAMED_API_TOKENS) has {long_one}"));
    }
    let repair_url = config.repair.as_ref().map(|repair| repair.links.base_url());
    if let Some(url) = repair_url.filter(|url| url.starts_with("http://") && !is_here(url)) {
        warnings.push(format!(
            "repair.base_url is {url}: on the way to the user, others can read the signed address and change the page. Use https"
        ));
    }
    warnings
}
