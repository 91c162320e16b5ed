//! One TLS provider for the whole process: ring, for reqwest and async-nats alike.
//!
//! reqwest panics when a client is built before a provider is installed, so every place that builds one says this first.

/// Makes ring the provider of this process, unless it has one already, which is as good.
pub fn install() {
    let _another_is_as_good = rustls::crypto::ring::default_provider().install_default();
}
