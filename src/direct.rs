//! The HTTP client for relink's own API, the monitor of NATS, and programs on this machine.
//!
//! It never uses a proxy. `HTTP_PROXY` and its like are meant for addresses on the internet; a proxy would receive
//! relink's API token and every answer. Belvo's client (`belvo::Client`) uses the configured proxy, except for
//! loopback addresses. No other file builds an HTTP client.

use reqwest::ClientBuilder;

/// The builder of a client without proxies.
pub fn client() -> ClientBuilder {
    crate::tls::install();
    reqwest::Client::builder().no_proxy()
}
