//! The export of traces, as a part of the service: it begins before all other parts, and ends after them.

use std::time::Duration;

use anyhow::{Context as _, anyhow};
use reqwest::Url;
use reqwest::header::CONTENT_TYPE;
use reqwest::redirect::Policy;
use secrecy::ExposeSecret as _;

use crate::belvo::http_client;
use crate::config::Config;
use crate::trace::{self, Exporting, Settings};

/// How long the endpoint has to answer a probe.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// What to do if a probe fails.
pub(super) const ADVICE: &str = "check RELINK_TRACES_ENDPOINT and RELINK_TRACES_HEADERS";

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

/// Sends an export without spans, which OTLP allows: an empty message of protobuf has no bytes.
pub(super) async fn probe(traces: &Settings) -> anyhow::Result<String> {
    let endpoint = &traces.endpoint;
    let client = http_client(&Url::parse(endpoint)?).redirect(Policy::none()).timeout(ANSWER_WITHIN).build()?;
    let mut request = client.post(endpoint).header(CONTENT_TYPE, "application/x-protobuf");
    for (name, value) in &traces.headers {
        request = request.header(name, value.expose_secret());
    }
    // The error of the client has the whole address, which is in the text already.
    let answer = request.body("").send().await.map_err(reqwest::Error::without_url);
    match answer.with_context(|| format!("{endpoint} does not answer"))?.status() {
        status if status.is_success() => Ok(format!("{endpoint} takes spans")),
        status => Err(anyhow!("{endpoint} answers {status}")),
    }
}
