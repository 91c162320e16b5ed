//! The header fields that end at relink, because they are about one connection and not about the call (RFC 9110,
//! section 7.6.1). All others pass on as they are, credentials too.

use axum::http::header::{
    ACCEPT_ENCODING, CONNECTION, CONTENT_ENCODING, EXPECT, HOST, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRAILER,
    TRANSFER_ENCODING, UPGRADE,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue};

/// The fields that are always about one connection. `Proxy-*` is for the next proxy only, which is relink.
static OF_CONNECTION: [HeaderName; 9] = [
    CONNECTION,
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];

/// The codings that relink can read.
const READABLE: &[&str] = &["gzip", "x-gzip", "deflate", "identity"];

/// The fields of a request for Belvo.
pub(super) fn of_request(headers: &HeaderMap) -> HeaderMap {
    let mut headers = end_to_end(headers);
    // The client of the call sets the host of Belvo.
    headers.remove(HOST);
    // relink itself has sent the application `100 Continue`.
    headers.remove(EXPECT);
    if let Some(codings) = readable_codings(&headers) {
        headers.insert(ACCEPT_ENCODING, codings);
    }
    headers
}

/// The fields of an answer for the application.
pub(super) fn of_answer(headers: &HeaderMap) -> HeaderMap {
    end_to_end(headers)
}

/// The `Content-Encoding` of an answer, to read a copy of it.
pub(super) fn coding(headers: &HeaderMap) -> HeaderMap {
    headers.get_all(CONTENT_ENCODING).iter().map(|value| (CONTENT_ENCODING, value.clone())).collect()
}

fn end_to_end(headers: &HeaderMap) -> HeaderMap {
    let mut kept = headers.clone();
    for named in headers.get_all(CONNECTION) {
        for name in named.as_bytes().split(|byte| *byte == b',') {
            if let Ok(name) = HeaderName::from_bytes(name.trim_ascii()) {
                kept.remove(name);
            }
        }
    }
    for name in &OF_CONNECTION {
        kept.remove(name);
    }
    kept
}

/// `Accept-Encoding` without the codings that relink cannot read, such as br: an error in one of them would pass
/// unnoticed. `None` if all can be read.
fn readable_codings(headers: &HeaderMap) -> Option<HeaderValue> {
    let values: Vec<&HeaderValue> = headers.get_all(ACCEPT_ENCODING).iter().collect();
    let text = values.iter().map(|value| value.to_str()).collect::<Result<Vec<_>, _>>().ok()?.join(",");
    let entries: Vec<&str> = text.split(',').map(str::trim).filter(|entry| !entry.is_empty()).collect();
    let is_readable = |entry: &&str| {
        let name = entry.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        READABLE.contains(&name.as_str())
    };
    let readable: Vec<&str> = entries.iter().copied().filter(is_readable).collect();
    if readable.len() == entries.len() {
        return None;
    }
    let codings = if readable.is_empty() { "identity".to_owned() } else { readable.join(", ") };
    HeaderValue::from_str(&codings).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        lines.iter().map(|&(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn fields_about_one_connection_end_at_relink() {
        let request = headers(&[
            ("authorization", "Basic eA=="),
            ("content-length", "3"),
            ("connection", "keep-alive, X-Mine"),
            ("connection", "x-other , "),
            ("expect", "100-continue"),
            ("host", "relink:8481"),
            ("keep-alive", "timeout=5"),
            ("proxy-authorization", "Basic eA=="),
            ("proxy-connection", "keep-alive"),
            ("te", "trailers"),
            ("trailer", "x-sum"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("x-belvo-request-mode", "async"),
            ("x-mine", "1"),
            ("x-other", "2"),
        ]);
        let expected = [("authorization", "Basic eA=="), ("content-length", "3"), ("x-belvo-request-mode", "async")];
        assert_eq!(of_request(&request), headers(&expected));
        let answer = headers(&[
            ("connection", "close, x-one"),
            ("content-encoding", "gzip"),
            ("keep-alive", "timeout=5"),
            ("location", "https://api.belvo.com/api/links/"),
            ("set-cookie", "a=1"),
            ("set-cookie", "b=2"),
            ("transfer-encoding", "chunked"),
            ("x-one", "1"),
        ]);
        let expected = headers(&[
            ("content-encoding", "gzip"),
            ("location", "https://api.belvo.com/api/links/"),
            ("set-cookie", "a=1"),
            ("set-cookie", "b=2"),
        ]);
        assert_eq!(of_answer(&answer), expected);
        assert_eq!(coding(&answer), headers(&[("content-encoding", "gzip")]));
    }

    #[test]
    fn only_codings_that_relink_reads_are_asked_for() {
        for (sent, passed_on) in [
            ("gzip, deflate", "gzip, deflate"),
            ("GZIP;q=0.5,identity", "GZIP;q=0.5,identity"),
            ("gzip, compress, deflate, br", "gzip, deflate"),
            ("zstd, br;q=0.9", "identity"),
            ("*", "identity"),
            ("", ""),
        ] {
            let passed = of_request(&headers(&[("accept-encoding", sent)]));
            assert_eq!(passed["accept-encoding"], passed_on, "{sent}");
        }
        assert_eq!(of_request(&HeaderMap::new()), HeaderMap::new());
    }
}
