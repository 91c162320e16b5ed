//! The repair of a link with an open-finance consent: the user renews the consent in Belvo's portal; update mode does
//! not apply.
//!
//! The caller sends the `widget` object that Belvo requires, with the user's name and document number. relink adds
//! the stored fields of the consent and returns the address of the portal. The object is not stored, published or
//! logged. Source: guide "My Belvo Portal".

use reqwest::Url;
use secrecy::ExposeSecret;
use serde_json::{Map, Value};

use super::Server;
use super::problem::{Kind, Problem};
use crate::belvo::WidgetToken;
use crate::link::{Link, LinkId};

impl Server {
    /// The link as relink knows it.
    pub(super) async fn link(&self, id: &LinkId) -> Result<Option<Link>, Problem> {
        let asked = id.clone();
        self.read_store(move |store| store.get(&asked)?.map(|stored| stored.link()).transpose()).await
    }

    /// The link, if it has a consent.
    pub(super) async fn consent_link(&self, id: &LinkId) -> Result<Option<Link>, Problem> {
        Ok(self.link(id).await?.filter(|link| link.profile.consent.is_some()))
    }
}

/// The `widget` object of the request; it is required for a renewal.
pub(super) fn read_widget(widget: Option<Map<String, Value>>) -> Result<Map<String, Value>, Problem> {
    let has_consent = |widget: &Map<String, Value>| widget.get("consent").is_some_and(Value::is_object);
    widget.filter(has_consent).ok_or_else(|| {
        Problem::new(
            Kind::WrongShape,
            "This link has a consent, which the user renews in Belvo's portal. Send `widget`, as in Belvo's guide \"My Belvo \
             Portal\": `branding`, `callback_urls`, and `consent` with the name and the document of the user.",
        )
        .at("/widget")
    })
}

/// The address of the portal for the user. Every parameter but the token came from a webhook.
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
