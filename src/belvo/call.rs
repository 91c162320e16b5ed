//! The call that an API error answers, and the link that it is about. The error itself rarely contains either.
//!
//! The caller reports the path. The path may have a host or the prefix of a gateway, no `api`, additional slashes,
//! capitals, or percent-encoding. Only the paths of Belvo's API are recognised in it.

use strum::IntoStaticStr;

use crate::contract::{ApiError, is_one_of};
use crate::link::LinkId;

use super::error_body::ErrorBody;

/// The kind of a call, as far as the meaning of an error depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub(super) enum Call {
    /// `POST /api/links/`: creates a link. Its errors are about a link that has never worked.
    Creation,
    /// `PATCH /api/links/`: resumes an MFA session with the user's token.
    Resumption,
    /// `PUT` or `PATCH /api/links/{id}/`: the user's own attempt to repair the link.
    Repair,
    /// `POST /api/links/{id}/refresh/`: asks for a historical refresh.
    Refresh,
    /// Any other call, which uses the link without changing it.
    Use,
}

/// The resources by which a path without `api` is recognised as one of Belvo's API.
pub(super) const RESOURCES: &[&str] = &[
    "links",
    "accounts",
    "owners",
    "transactions",
    "balances",
    "bills",
    "incomes",
    "investments",
    "investments-transactions",
    "receivables",
    "recurring-expenses",
    "risk-insights",
    "statements",
    "invoices",
    "tax-returns",
    "tax-status",
    "tax-compliance-status",
    "tax-retentions",
    "financial-statements",
    "employment-records",
    "employments",
    "consents",
    "token",
];

impl Call {
    /// The name of the kind, for dedup keys.
    pub(super) fn as_str(self) -> &'static str {
        self.into()
    }

    /// The kind of the call that an error answers.
    pub(super) fn of(error: &ApiError) -> Self {
        Self::of_parts(&error.method, &error.path)
    }

    /// The kind of the call with this method and path.
    pub(super) fn of_parts(method: &str, path: &str) -> Self {
        let method = method.trim().to_ascii_uppercase();
        let place = Place::of(path);
        match (method.as_str(), place.behind_links()) {
            ("POST", Some([])) => Self::Creation,
            ("PATCH", Some([])) => Self::Resumption,
            ("PUT" | "PATCH", Some([_id])) => Self::Repair,
            ("POST", Some([_id, refresh])) if refresh.eq_ignore_ascii_case("refresh") => Self::Refresh,
            _other => Self::Use,
        }
    }

    /// Whether the call is the user's attempt to repair the link, so that an error describes the attempt.
    pub(super) const fn is_repair(self) -> bool {
        match self {
            Self::Resumption | Self::Repair => true,
            Self::Creation | Self::Refresh | Self::Use => false,
        }
    }
}

/// Whether the meaning of an error for this path depends on the method, so that a report has to contain it.
pub(super) fn needs_method(path: &str) -> bool {
    matches!(Place::of(path).behind_links(), Some([] | [_]))
}

/// Whether the path is one of Belvo's API. A 404 for any other path says nothing about a link.
pub(super) fn is_of_belvo(path: &str) -> bool {
    let place = Place::of(path);
    place.api.is_some()
        || place.segments.iter().any(|segment| RESOURCES.contains(&segment.to_ascii_lowercase().as_str()))
}

/// The link that an API error is about, for its subject. The link is taken from the field `link_id` of the report, else
/// from the body of a 428, else from the path or the query of the request.
pub(super) fn find_link(error: &ApiError) -> Option<LinkId> {
    links_named(error, &ErrorBody::parse(&error.body)).next()
}

/// All links that the report, with the errors `body`, names, the most reliable first.
pub(super) fn links_named(error: &ApiError, body: &ErrorBody) -> impl Iterator<Item = LinkId> {
    let said = error.link_id.as_deref().and_then(|id| id.parse().ok());
    let in_body = body.items.iter().find_map(|item| item.link.clone());
    let place = Place::of(&error.path);
    let in_path = place.behind_links().and_then(|behind| behind.first()?.parse().ok());
    let is_link = |name: &str| is_one_of(name, &["link", "linkid"]);
    let in_query = place.query.iter().find(|(name, _)| is_link(name)).and_then(|(_, id)| id.parse().ok());
    [said, in_body, in_path, in_query].into_iter().flatten()
}

/// The parts of a path or of a whole URL.
struct Place {
    segments: Vec<String>,
    /// The index of the last segment `api`.
    api: Option<usize>,
    query: Vec<(String, String)>,
}

impl Place {
    fn of(path: &str) -> Self {
        let path = path.trim();
        // Some callers log a URL with encoded slashes.
        let decoded = if path.contains('/') { path.to_owned() } else { percent_decoded(path) };
        let path = match decoded.split_once("://") {
            Some((_scheme, rest)) => rest.find(['/', '?']).map_or("", |start| &rest[start..]),
            None => &decoded,
        };
        let path = path.split('#').next().unwrap_or_default();
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        let segments: Vec<String> =
            path.split('/').map(percent_decoded).filter(|segment| !segment.trim().is_empty()).collect();
        let api = segments.iter().rposition(|segment| segment.eq_ignore_ascii_case("api"));
        let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        let query =
            pairs.map(|(name, value)| (percent_decoded(name), percent_decoded(&value.replace('+', " ")))).collect();
        Self { segments, api, query }
    }

    /// The segments after `links`. `links` must follow the last `api`; without `api` it may stand anywhere.
    fn behind_links(&self) -> Option<&[String]> {
        let rest = &self.segments[self.api.map_or(0, |api| api + 1)..];
        let links = rest.iter().position(|segment| segment.eq_ignore_ascii_case("links"))?;
        Some(&rest[links + 1..])
    }
}

/// Decodes the percent-encoding in a part of a URL (RFC 3986, 2.1). An invalid percent sign stays.
fn percent_decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    if !bytes.contains(&b'%') {
        return text.to_owned();
    }
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let digit = |offset: usize| bytes.get(at + offset).and_then(|&byte| char::from(byte).to_digit(16));
        match (bytes[at], digit(1), digit(2)) {
            (b'%', Some(high), Some(low)) => {
                decoded.push((high * 16 + low) as u8);
                at += 3;
            }
            (byte, ..) => {
                decoded.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const LINK: &str = "16f68516-bcbc-4cf7-b815-c500d4204e28";
    const OTHER: &str = "30cb4806-6e00-48a4-91c9-ca55968576c8";

    fn error(method: &str, path: &str, link_id: Option<&str>, body: Value) -> ApiError {
        let link_id = link_id.map(str::to_owned);
        ApiError {
            schema_version: None,
            http_status: 400,
            method: method.into(),
            path: path.into(),
            link_id,
            request_id: None,
            body,
        }
    }

    #[test]
    fn the_kind_of_a_call() {
        for (method, path, call) in [
            ("POST", "/api/links/", Call::Creation),
            ("post", "https://api.belvo.com/api/links", Call::Creation),
            ("PATCH", "/api/links/", Call::Resumption),
            ("PUT", "/api/links/16f68516/", Call::Repair),
            ("PATCH", "api/links/16f68516?x=/y", Call::Repair),
            ("POST", "/api/links/16f68516/refresh/", Call::Refresh),
            ("GET", "/api/links/", Call::Use),
            ("POST", "/api/transactions/", Call::Use),
            ("", "", Call::Use),
            ("POST", "https://", Call::Use),
            // Forms that gateways, logs and callers write.
            ("POST", "/links/", Call::Creation),
            ("POST", "/belvo-proxy/api/links/", Call::Creation),
            ("POST", "/v1/belvo/api//links//", Call::Creation),
            ("PUT", "https://gateway.example.com/v1/links-service/api/LINKS/16f68516/?x=1#y", Call::Repair),
            ("PUT", "links/16f68516", Call::Repair),
            ("POST", "%2Fapi%2Flinks%2F16f68516%2Frefresh%2F", Call::Refresh),
            ("POST", "/API/Links/16f68516/Refresh", Call::Refresh),
            ("POST", "/links/api/accounts/", Call::Use),
            ("POST", "/api/mylinks/", Call::Use),
            ("POST", "/api/links/16f68516/refresh/again/", Call::Use),
        ] {
            assert_eq!(Call::of(&error(method, path, None, Value::Null)), call, "{method} {path}");
        }
    }

    #[test]
    fn the_link_of_a_call() {
        let path = format!("/api/links/{LINK}/refresh/");
        let query = format!("https://api.belvo.com/api/accounts/?page=1&link={LINK}#x");
        let gateway = format!("https://gateway.example.com/belvo-proxy/API//links/{}/", LINK.to_uppercase());
        let bare = format!("/links/{}", LINK.replace('-', ""));
        let encoded = format!("/api/accounts/?LINK_ID=%7b{LINK}%7D");
        let body = json!([{"code": "token_required", "link": OTHER}]);
        for (path, said, body, found) in [
            (path.as_str(), None, Value::Null, Some(LINK)),
            (path.as_str(), Some(OTHER), Value::Null, Some(OTHER)),
            (path.as_str(), Some("*"), Value::Null, Some(LINK)),
            (query.as_str(), None, Value::Null, Some(LINK)),
            (query.as_str(), None, body, Some(OTHER)),
            (gateway.as_str(), None, Value::Null, Some(LINK)),
            (bare.as_str(), None, Value::Null, Some(LINK)),
            (encoded.as_str(), None, Value::Null, Some(LINK)),
            ("/api/links/", None, json!("<html>"), None),
            ("/api/links/{id}/", None, Value::Null, None),
            ("/api/links/:id/", None, Value::Null, None),
            ("/api/accounts/?link=*", None, json!([1, null]), None),
            ("/api/accounts/?link", None, Value::Null, None),
        ] {
            let found_link = find_link(&error("GET", path, said, body));
            assert_eq!(found_link.as_ref().map(LinkId::as_str), found, "{path} {said:?}");
        }
    }

    #[test]
    fn paths_of_belvos_api() {
        for path in
            ["/api/links/x/", "/api/whatever/", "/belvo/Accounts/", "https://x.example.com/tax-returns?y", "%2Fapi%2Fx"]
        {
            assert!(is_of_belvo(path), "{path}");
        }
        for path in ["", "/", "/v1/users/7", "https://api.belvo.com/", "/accounts-service/", "/%"] {
            assert!(!is_of_belvo(path), "{path}");
        }
        assert_eq!(percent_decoded("%zz%4%41%"), "%zz%4A%");
    }
}
