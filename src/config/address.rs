//! Addresses in settings: of servers that relink calls, and to listen on.

use std::net::{IpAddr, SocketAddr};

use reqwest::Url;

/// Whether an address has a part that relink adds, or one that would end up in the middle of the path.
pub(super) fn has_api_path(address: &str) -> bool {
    let Ok(url) = Url::parse(address) else { return false };
    let is_api = url.path_segments().is_some_and(|mut parts| parts.any(|part| part.eq_ignore_ascii_case("api")));
    is_api || url.query().is_some() || url.fragment().is_some()
}

/// Whether it is an http or https address without a user. An address with a blank is refused: a mail program would cut it off there, and
/// in a header it would end the address.
pub(super) fn is_http(address: &str) -> bool {
    let is_one_word = !address.contains(|letter: char| letter.is_whitespace() || letter.is_control());
    let is_web = |url: Url| matches!(url.scheme(), "http" | "https") && url.has_host() && url.username().is_empty();
    is_one_word && Url::parse(address).is_ok_and(is_web)
}

/// Whether an address leads to this machine.
pub(super) fn is_here(url: &str) -> bool {
    let host = Url::parse(url).ok().and_then(|url| url.host_str().map(str::to_owned)).unwrap_or_default();
    is_loopback_name(&host) || host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Whether a name means this machine, without a look at its list of hosts.
fn is_loopback_name(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost")
}

/// The part of a socket address that is missing, as a clause for an error.
pub(super) fn what_is_missing(text: &str) -> &'static str {
    match text.trim().parse::<u16>() {
        Ok(_port) => "; the address is missing",
        Err(_) if !text.contains(':') => "; the port is missing",
        Err(_) => "",
    }
}

/// Reads an address to listen on, such as `127.0.0.1:8480` or `localhost:8480`.
pub(super) fn socket_address(text: &str) -> Option<SocketAddr> {
    let named = || {
        let (host, port) = text.rsplit_once(':')?;
        is_loopback_name(host).then(|| port.parse().ok().map(|port: u16| ([127, 0, 0, 1], port).into()))?
    };
    text.parse().ok().or_else(named)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_cannot_be_used_says_what_is_missing() {
        for (text, missing) in
            [("8480", "; the address is missing"), ("localhost", "; the port is missing"), ("a:b", "")]
        {
            assert_eq!((socket_address(text), what_is_missing(text)), (None, missing), "{text}");
        }
    }
}
