//! Settings that are valid, and are probably a mistake. relink starts with them; `check-config` and the log show them.

use super::Config;
use super::address::is_here;

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
    let repair_url = config.repair.as_ref().map(|repair| repair.links.base_url());
    if let Some(url) = repair_url.filter(|url| url.starts_with("http://") && !is_here(url)) {
        warnings.push(format!(
            "repair.base_url is {url}: on the way to the user, others can read the signed address and change the page. Use https"
        ));
    }
    warnings
}
