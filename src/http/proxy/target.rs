//! Which requests are passed on: those for a path of Belvo's API. relink is no proxy for other addresses.

use axum::http::Method;
use axum::http::request::Parts;
use reqwest::Url;

use crate::belvo::is_path_of_api;
use crate::http::problem::{Kind, Problem};

/// The address at Belvo. `base` is the address of Belvo's API without a slash at the end, and `upstream` the same,
/// parsed.
pub(super) fn check(base: &str, upstream: &Url, request: &Parts) -> Result<Url, Problem> {
    let methods =
        [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::OPTIONS];
    if !methods.contains(&request.method) {
        return Err(refused("Belvo's API has no such method."));
    }
    let uri = &request.uri;
    // A client that uses relink as the proxy for all addresses sends the whole address.
    if let Some(authority) = uri.authority()
        && !is_of(upstream, authority.host(), authority.port_u16().or(default_port(uri.scheme_str())))
    {
        return Err(refused(
            "The request is for another host. relink passes calls on to Belvo's API only: set it as the address of \
             Belvo's API, and not as the proxy for all addresses.",
        ));
    }
    let is_of_api = is_path_of_api(uri.path());
    let target = uri.path_and_query().map_or("/", |target| target.as_str());
    let url = Url::parse(&format!("{base}{target}")).ok().filter(|_| is_of_api);
    url.ok_or_else(|| {
        refused(
            "The path is not one of Belvo's API that relink knows, such as /api/links/. For relink's own API use the \
             address of RELINK_LISTEN.",
        )
    })
}

fn is_of(upstream: &Url, host: &str, port: Option<u16>) -> bool {
    upstream.host_str().is_some_and(|known| known.eq_ignore_ascii_case(host))
        && upstream.port_or_known_default() == port
}

fn default_port(scheme: Option<&str>) -> Option<u16> {
    match scheme {
        Some("https") => Some(443),
        Some("http") => Some(80),
        Some(_) | None => None,
    }
}

fn refused(detail: &str) -> Problem {
    Problem::new(Kind::NotBelvos, detail)
}

#[cfg(test)]
mod tests {
    use axum::http::Request;

    use super::*;

    fn checked(method: &str, target: &str) -> Option<String> {
        let base = "https://api.belvo.com/gateway";
        let (parts, ()) = Request::builder().method(method).uri(target).body(()).unwrap().into_parts();
        check(base, &Url::parse(base).unwrap(), &parts).ok().map(|url| url.to_string())
    }

    #[test]
    fn only_calls_of_belvos_api_are_passed_on() {
        let link = "16f68516-bcbc-4cf7-b815-c500d4204e28";
        for target in [
            "/api/",
            "/api/links/",
            "/api/links/?status__in=invalid%2Ctoken_required&page=2",
            &format!("/api/links/{link}/refresh/"),
            "/api/institutions/",
            "/api/br/employments/",
            "/api/token/",
            "/payments/br/charges/",
            "/investments/portfolios/",
        ] {
            let expected = format!("https://api.belvo.com/gateway{target}");
            assert_eq!(checked("GET", target), Some(expected), "{target}");
        }
        assert!(checked("GET", "https://api.belvo.com/api/links/").is_some(), "the whole address of Belvo");
        for (method, target) in [
            ("GET", "/"),
            ("GET", "/v1/links"),
            ("GET", "/metrics"),
            ("GET", "/apis/links/"),
            ("GET", "/api/unknown/"),
            ("GET", "/api//links/"),
            ("GET", "/api/links/../../admin/"),
            ("GET", "/api/links/%2e%2e/%2e%2e/admin/"),
            ("GET", "/api/links/..%2f..%2fadmin"),
            ("GET", "/api/accounts/./"),
            ("GET", "/API/links/"),
            ("GET", "https://api.belvo.com:8443/api/links/"),
            ("GET", "http://evil.example/api/links/"),
            ("GET", "https://api.belvo.com.evil.example/api/links/"),
            ("CONNECT", "api.belvo.com:443"),
            ("OPTIONS", "*"),
            ("TRACE", "/api/links/"),
            ("PROPFIND", "/api/links/"),
        ] {
            assert_eq!(checked(method, target), None, "{method} {target}");
        }
        assert_eq!(checked("GET", &format!("/api/links/{}/", "a".repeat(600))), None);
    }
}
