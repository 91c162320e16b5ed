//! The export of traces, as a part of the service: it begins before all other parts, and ends after them.

use anyhow::Context as _;
use reqwest::Url;

use crate::belvo::http_client;
use crate::config::Config;
use crate::trace::{self, Exporting};

/// Starts the export, if an endpoint is configured.
///
/// # Errors
/// The export cannot be started.
pub(super) fn start(config: &Config) -> anyhow::Result<Option<Exporting>> {
    let Some(settings) = &config.traces else { return Ok(None) };
    let started = trace::start(settings, http_client(&Url::parse(&settings.endpoint)?));
    tracing::info!(traces.endpoint = settings.endpoint, "relink sends traces to an OTLP endpoint");
    started.context("cannot send traces to RELINK_TRACES_ENDPOINT")
}
