//! One spelling of each path, before it is routed.
//!
//! People type addresses into Belvo's dashboard and into configurations: with a slash at the end, with two at the seam, in
//! capitals. A webhook that is answered 404 five times is lost, so its path is read as it was meant. A slash at the end does
//! no harm under `/v1` either. Nothing else is changed: a proxy in front may forbid `/metrics`, and must not be led around.

use axum::extract::Request;
use axum::http::Uri;

use super::ingest;

/// Gives the request the spelling of its path that the routes have.
pub(super) async fn one_spelling(mut request: Request) -> Request {
    if let Some(uri) = respelt(request.uri()) {
        *request.uri_mut() = uri;
    }
    request
}

fn respelt(uri: &Uri) -> Option<Uri> {
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
    fn which_paths_are_the_same() {
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
            let respelt = respelt(&path.parse().unwrap()).map(|uri| uri.to_string());
            assert_eq!(respelt.as_deref(), expected, "{path}");
        }
    }
}
