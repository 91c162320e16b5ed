//! Settings that are valid, and are probably a mistake. relink starts with them; `check-config` and the log show them.

use secrecy::{ExposeSecret as _, SecretString};

use super::Config;
use super::address::is_here;

/// A token or secret with fewer characters is a word that somebody chose, and can be guessed.
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
    // Belvo sends the whole value of `Authorization`, and only the part after the scheme is a secret.
    let is_short_value = |value: &SecretString| {
        let value = value.expose_secret();
        value.split_once(' ').map_or(value, |(_scheme, secret)| secret).chars().count() < TOKEN_LENGTH_MIN
    };
    for (setting, secrets) in [
        ("http.webhook_secrets (RELINK_WEBHOOK_SECRETS)", &config.http.webhook_secrets),
        ("http.status_webhook_secrets (RELINK_STATUS_WEBHOOK_SECRETS)", &config.http.status_webhook_secrets),
    ] {
        if secrets.iter().any(is_short_value) {
            warnings.push(format!("a value of {setting} has {long_one}"));
        }
    }
    let repair_url = config.repair.as_ref().map(|repair| repair.links.base_url());
    if let Some(url) = repair_url.filter(|url| url.starts_with("http://") && !is_here(url)) {
        warnings.push(format!(
            "repair.base_url is {url}: on the way to the user, others can read the signed address and change the page. Use https"
        ));
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::super::Sources;
    use super::*;

    #[test]
    fn a_short_secret_of_a_webhook_is_warned_about_and_not_shown() {
        let warnings = |name: &str, value: &str| {
            let environment = vec![(name.into(), value.into())];
            Config::load(&Sources { environment, ..Sources::default() }).unwrap().warnings
        };
        for name in ["RELINK_WEBHOOK_SECRETS", "RELINK_STATUS_WEBHOOK_SECRETS"] {
            assert_eq!(warnings(name, "Bearer a-secret-of-sixteen"), Vec::<String>::new());
            let short = warnings(name, "Bearer a-secret-of-sixteen,Bearer hunter2");
            assert!(short.len() == 1 && short[0].contains(name) && !short[0].contains("hunter"), "{short:?}");
        }
    }
}
