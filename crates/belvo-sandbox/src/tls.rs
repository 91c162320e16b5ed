//! The TLS provider of webhooks that go to an https address.
//!
//! reqwest panics when a client is built before a provider is installed.

/// Makes ring the TLS provider of this process, unless it already has one.
pub(crate) fn install() {
    let _another_is_as_good = rustls::crypto::ring::default_provider().install_default();
}
