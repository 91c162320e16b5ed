//! The TLS provider of the process: ring, for reqwest and async-nats.
//!
//! reqwest panics if a client is built before a provider is installed, so every place that builds one calls
//! [`install`] first.

/// Installs ring as the provider of this process. A provider that is already installed stays.
pub fn install() {
    let _already_installed = rustls::crypto::ring::default_provider().install_default();
}
