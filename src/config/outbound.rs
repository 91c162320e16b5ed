//! The settings of messages over HTTP: `[notices]`, `RELINK_NOTICES_*`, and `[forward]`, `RELINK_FORWARD_*`.

use std::net::IpAddr;
use std::time::Duration;

use reqwest::Url;
use reqwest::header::HeaderValue;
use secrecy::{ExposeSecret, SecretString};
use strum::VariantArray;

use super::reader::Reader;
use super::{HttpConfig, is_http};
use crate::contract::NoticeName;
use crate::nats::stream::OutboundConsumer;
use crate::outbound::{SigningKeys, TargetKind, TargetSettings};

/// The word in `notices.types` for the messages about institutions.
const INCIDENT: &str = "incident";

/// The longest time for which a message is repeated. The streams keep inputs for 30 days.
const RETRY_MAX: Duration = Duration::from_secs(30 * 86_400);

/// The settings of messages over HTTP.
#[derive(Clone, Debug, Default)]
pub struct OutboundConfig {
    /// `RELINK_NOTICES_*`: notices as signed webhooks; `None` if it is switched off.
    pub notices: Option<TargetSettings>,
    /// `RELINK_FORWARD_*`: Belvo's webhooks, passed on; `None` if it is switched off.
    pub forward: Option<TargetSettings>,
}

impl OutboundConfig {
    /// The consumers of these targets.
    pub(super) fn consumers(&self) -> Vec<OutboundConsumer> {
        self.notices.iter().chain(&self.forward).map(|target| target.kind.consumer()).collect()
    }
}

/// A target is switched off without an address, or if a problem was noted.
pub(super) fn read(reader: &mut Reader, http: &HttpConfig) -> OutboundConfig {
    OutboundConfig { notices: read_notices(reader), forward: read_forward(reader, http) }
}

fn read_notices(reader: &mut Reader) -> Option<TargetSettings> {
    let url = read_url(reader, "notices.url");
    let secrets = reader.secrets("notices.secrets");
    let retry_for = reader.span_within("notices.retry_for", Duration::ZERO..=RETRY_MAX);
    let types = reader.texts("notices.types");
    let is_known =
        |wanted: &String| wanted == INCIDENT || NoticeName::VARIANTS.iter().any(|name| name.as_str() == wanted);
    if let Some(unknown) = types.iter().find(|wanted| !is_known(wanted)) {
        let names: Vec<_> = NoticeName::VARIANTS.iter().map(|name| name.as_str()).chain([INCIDENT]).collect();
        let problem = format!("has `{}`, which is none of {}", unknown.escape_debug(), names.join(", "));
        reader.reject("notices.types", problem);
    }
    if !reader.is_set("notices.url") {
        for key in ["notices.secrets", "notices.types"] {
            if reader.is_set(key) {
                reader.reject(key, "also needs notices.url (RELINK_NOTICES_URL)");
            }
        }
        return None;
    }
    if secrets.is_empty() {
        reader.reject("notices.url", "also needs notices.secrets (RELINK_NOTICES_SECRETS), which sign the requests");
        return None;
    }
    let keys = SigningKeys::parse(&secrets).map_err(|bad| reader.reject("notices.secrets", bad)).ok()?;
    Some(TargetSettings { url: url?, retry_for, kind: TargetKind::Notices { keys, types } })
}

fn read_forward(reader: &mut Reader, http: &HttpConfig) -> Option<TargetSettings> {
    let url = read_url(reader, "forward.url");
    let own = reader.secret("forward.authorization");
    let retry_for = reader.span_within("forward.retry_for", Duration::ZERO..=RETRY_MAX);
    if own.is_some() && !reader.is_set("forward.url") {
        reader.reject("forward.authorization", "also needs forward.url (RELINK_FORWARD_URL)");
    }
    let url = url?;
    if is_here(&url, http) {
        reader.reject("forward.url", "is the address of this relink, which would forward each webhook to itself");
    }
    let authorization: Option<SecretString> = own.or_else(|| http.webhook_secrets.first().cloned());
    if authorization.as_ref().is_some_and(|secret| HeaderValue::from_str(secret.expose_secret()).is_err()) {
        reader.reject("forward.url", "needs an Authorization value that HTTP can send; set forward.authorization");
    }
    Some(TargetSettings { url, retry_for, kind: TargetKind::Webhooks { authorization } })
}

fn read_url(reader: &mut Reader, key: &'static str) -> Option<Url> {
    let url = reader.text(key)?;
    let parsed = Url::parse(&url).ok().filter(|parsed| is_http(&url) && parsed.fragment().is_none());
    if parsed.is_none() {
        reader.reject(key, "must be an address without user and fragment, such as https://app.example.com/relink");
    }
    parsed
}

fn is_here(url: &Url, http: &HttpConfig) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    let is_this_machine =
        host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback() || ip == http.listen.ip());
    is_this_machine && url.port_or_known_default() == Some(http.listen.port())
}
