//! Normalizes the path of a request before routing.
//!
//! Operators type the address into Belvo's dashboard and into configurations: with a slash at the end, with two
//! slashes, in capitals. Belvo drops a webhook that is answered 404 five times, so such spellings of its path are
//! accepted. A slash at the end is also accepted under `/v1`. No other path is changed: a proxy in front of relink
//! may forbid `/metrics`, and another spelling must not bypass it.

use axum::extract::Request;
use axum::http::Uri;

use super::ingest;

/// Replaces the path by the spelling that the routes have.
pub(super) async fn normalize_path(mut request: Request) -> Request {
    if let Some(uri) = normalized(request.uri()) {
        *request.uri_mut() = uri;
    }
    request
}

fn normalized(uri: &Uri) -> Option<Uri> {
    let path = uri.path();
    let segments: Vec<&str> = path.split('/').filter(|segment| !segment.is_empty()).collect();
    let is_webhook = format!("/{}", segments.join("/")).eq_ignore_ascii_case(ingest::PATH);
    let spelt = match () {
        () if is_webhook => ingest::PATH,
        () if path.starts_with("/v1/") => path.trim_end_matches('/'),
        () => return None,
    };
    let with_query = match uri.query() {
        Some(query) => format!("{spelt}?{query}"),
        None => spelt.to_owned(),
    };
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(with_query.parse().ok()?);
    Uri::from_parts(parts).ok().filter(|_| spelt != path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_webhook_and_v1_paths_are_normalized() {
        for (path, expected) in [
            ("/webhooks/belvo", None),
            ("/webhooks/belvo?x=%20", None),
            ("/webhooks/belvo/", Some("/webhooks/belvo")),
            ("/webhooks/belvo//?a=1&b=/", Some("/webhooks/belvo?a=1&b=/")),
            ("//webhooks//belvo", Some("/webhooks/belvo")),
            ("/Webhooks/BELVO", Some("/webhooks/belvo")),
            ("/webhooks/belvo/x", None),
            ("/v1/links/", Some("/v1/links")),
            ("/v1/links/A/?x", Some("/v1/links/A?x")),
            ("/v1/links//history", None),
            ("/V1/links/", None),
            ("/metrics/", None),
            ("//metrics", None),
            ("/", None),
            ("*", None),
        ] {
            let normalized = normalized(&path.parse().unwrap()).map(|uri| uri.to_string());
            assert_eq!(normalized.as_deref(), expected, "{path}");
        }
    }
}
