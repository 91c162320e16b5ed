//! The repair of a link with an open-finance consent: not the widget's update mode, but a renewal in Belvo's portal.
//!
//! The caller gives the `widget` object that Belvo wants, with the user's name and document in it; relink adds what it
//! has kept of the consent and hands back the address to send the user to. Nothing of the object is kept, published or
//! logged. Source: guide "My Belvo Portal".

use reqwest::Url;
use secrecy::ExposeSecret;
use serde_json::{Map, Value};

use super::Door;
use super::problem::{Kind, Problem};
use crate::belvo::WidgetToken;
use crate::link::{Link, LinkId};

impl Door {
    /// What is known of the link, if it has a consent.
    pub(super) async fn consent_link(&self, id: &LinkId) -> Result<Option<Link>, Problem> {
        let asked = id.clone();
        let stored =
            self.ask_store(move |store| store.get(&asked)?.map(|stored| Ok(stored.parse()?.link()?)).transpose());
        Ok(stored.await?.filter(|link| link.profile.consent.is_some()))
    }
}

/// The `widget` object of the request, which a renewal cannot do without.
pub(super) fn read_widget(widget: Option<Map<String, Value>>) -> Result<Map<String, Value>, Problem> {
    let has_consent = |widget: &Map<String, Value>| widget.get("consent").is_some_and(Value::is_object);
    widget.filter(has_consent).ok_or_else(|| {
        Problem::new(
            Kind::WrongShape,
            "This link has a consent, which is renewed in Belvo's portal. Give `widget`, as Belvo's guide \"My Belvo \
             Portal\" has it: `branding`, `callback_urls`, and `consent` with the name and the document of the user.",
        )
        .at("/widget")
    })
}

/// The address to send the user to: every parameter but the token was once in a webhook.
pub(super) fn address(portal: &str, link: &Link, token: &WidgetToken) -> Result<Url, Problem> {
    let mut url = Url::parse(portal).map_err(Problem::internal)?;
    let consent = link.profile.consent.as_deref().cloned().unwrap_or_default();
    let known = [
        ("consent_id", consent.id),
        ("institution", link.profile.institution.clone()),
        ("institution_display_name", consent.institution_display_name),
        ("institution_icon_logo", consent.institution_icon_logo),
    ];
    url.query_pairs_mut()
        .append_pair("access_token", token.access.expose_secret())
        .append_pair("link_id", link.id.as_str())
        .extend_pairs(known.iter().filter_map(|(name, value)| Some((name, value.as_ref()?))))
        .append_pair("action", "renew");
    Ok(url)
}
