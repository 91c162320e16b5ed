//! Which call an API error answers, and which link it is about: the error itself rarely says.

use serde_json::Value;

use crate::contract::ApiError;
use crate::link::LinkId;

use super::body::ErrorBody;

/// What was asked of Belvo, as far as it changes what an error means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Call {
    /// `POST /api/links/`: a link is registered. Errors are about a link that does not work yet.
    Creation,
    /// `PATCH /api/links/`: an MFA session is resumed with the user's token.
    Resumption,
    /// `PUT` or `PATCH /api/links/{id}/`: the user's own attempt to repair the link.
    Repair,
    /// `POST /api/links/{id}/refresh/`: a historical refresh is asked for.
    Refresh,
    /// Anything else uses the link as it is.
    Use,
}

impl Call {
    /// Reads method and path.
    pub(super) fn of(error: &ApiError) -> Self {
        let method = error.method.trim().to_ascii_uppercase();
        let (segments, _query) = split(&error.path);
        match (method.as_str(), segments.as_slice()) {
            ("POST", ["api", "links"]) => Self::Creation,
            ("PATCH", ["api", "links"]) => Self::Resumption,
            ("PUT" | "PATCH", ["api", "links", _id]) => Self::Repair,
            ("POST", ["api", "links", _id, "refresh"]) => Self::Refresh,
            (_method, _segments) => Self::Use,
        }
    }

    /// A word for it.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Creation => "creation",
            Self::Resumption => "resumption",
            Self::Repair => "repair",
            Self::Refresh => "refresh",
            Self::Use => "use",
        }
    }

    /// Whether the user is repairing the link with this call, so that an error is news of the attempt.
    pub(super) const fn is_repair(self) -> bool {
        match self {
            Self::Resumption | Self::Repair => true,
            Self::Creation | Self::Refresh | Self::Use => false,
        }
    }
}

/// The link an API error is about: as the publisher says, else as a 428 body says, else as the path or its query says.
pub fn find_link(error: &ApiError) -> Option<LinkId> {
    links_named(error).next()
}

/// Every link that an API error names, the most trusted first.
pub(super) fn links_named(error: &ApiError) -> impl Iterator<Item = LinkId> {
    let said = error.link_id.as_deref().and_then(|id| id.trim().parse().ok());
    let in_body = ErrorBody::parse(&error.body).items.into_iter().find_map(|item| item.link);
    let (segments, query) = split(&error.path);
    let in_path = match segments.as_slice() {
        ["api", "links", id, ..] => id.parse().ok(),
        _other => None,
    };
    let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    let in_query = pairs.find(|(key, _)| *key == "link").and_then(|(_, id)| id.parse().ok());
    [said, in_body, in_path, in_query].into_iter().flatten()
}

/// The segments of a path, or of a whole URL, and the query.
fn split(path: &str) -> (Vec<&str>, &str) {
    let path = path.trim();
    let path = match path.split_once("://") {
        Some((_scheme, rest)) => rest.find(['/', '?']).map_or("", |start| &rest[start..]),
        None => path,
    };
    let path = path.split('#').next().unwrap_or_default();
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    (path.split('/').filter(|segment| !segment.is_empty()).collect(), query)
}

/// An error's body without what a 428 holds beside its meaning: the MFA session, which is as good as a credential until it expires, and the
/// data to make its token with. relink resumes no session, so neither needs to lie in a stream.
pub fn without_session(mut body: Value) -> Value {
    let clean = |item: &mut Value| {
        let Some(fields) = item.as_object_mut() else { return };
        if let Some(session) = fields.get_mut("session") {
            *session = "removed".into();
        }
        fields.remove("token_generation_data");
    };
    match &mut body {
        Value::Array(items) => items.iter_mut().for_each(clean),
        other => clean(other),
    }
    body
}

#[cfg(test)]
mod tests {
    use serde_json::json;

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
    fn what_was_asked() {
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
        ] {
            assert_eq!(Call::of(&error(method, path, None, Value::Null)), call, "{method} {path}");
        }
    }

    #[test]
    fn which_link() {
        let path = format!("/api/links/{LINK}/refresh/");
        let query = format!("https://api.belvo.com/api/accounts/?page=1&link={LINK}#x");
        let body = json!([{"code": "token_required", "link": OTHER}]);
        for (path, said, body, found) in [
            (path.as_str(), None, Value::Null, Some(LINK)),
            (path.as_str(), Some(OTHER), Value::Null, Some(OTHER)),
            (path.as_str(), Some("*"), Value::Null, Some(LINK)),
            (query.as_str(), None, Value::Null, Some(LINK)),
            (query.as_str(), None, body, Some(OTHER)),
            ("/api/links/", None, json!("<html>"), None),
            ("/api/accounts/?link=*", None, json!([1, null]), None),
        ] {
            let found_link = find_link(&error("GET", path, said, body));
            assert_eq!(found_link.as_ref().map(LinkId::as_str), found, "{path} {said:?}");
        }
    }
}
