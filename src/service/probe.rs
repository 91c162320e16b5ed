//! Whether NATS, Belvo and the endpoint for traces accept the settings, for `check-config --probe` and `doctor`. Nothing is changed there.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use async_nats::Client;
use reqwest::Url;
use reqwest::header::CONTENT_TYPE;
use reqwest::redirect::Policy;
use secrecy::ExposeSecret as _;

use super::belvo_client;
use crate::belvo::{self, CallError};
use crate::config::Config;
use crate::http;
use crate::nats::connection::Access;
use crate::nats::server::min_version_check;
use crate::nats::server_login;
use crate::trace::Settings;

/// How long the endpoint for traces has to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// Connects to NATS, calls Belvo, writes a file into the data directory, and sends the endpoint for traces a request without spans, if there
/// is one. Returns the name of each part with its answer.
pub async fn probe(config: &Config) -> Vec<(&'static str, anyhow::Result<String>)> {
    let mut answers = vec![
        ("NATS", probe_nats(config).await),
        ("Belvo", probe_belvo(config).await),
        ("data directory", probe_directory(&config.store.data_dir)),
    ];
    if let Some(traces) = &config.traces {
        answers.push(("traces", probe_traces(traces).await));
    }
    answers
}

fn probe_directory(directory: &Path) -> anyhow::Result<String> {
    let shown = directory.display();
    if !directory.exists() {
        return Ok(format!("{shown} does not exist yet; relink serve creates it"));
    }
    // The file has no name after that.
    tempfile::tempfile_in(directory).with_context(|| format!("{shown} cannot be written"))?;
    Ok(format!("{shown} can be written"))
}

/// Sends an export without spans, which OTLP allows: an empty message of protobuf has no bytes.
pub(super) async fn probe_traces(traces: &Settings) -> anyhow::Result<String> {
    let endpoint = &traces.endpoint;
    let client = belvo::http_client(&Url::parse(endpoint)?).redirect(Policy::none()).timeout(ANSWER_WITHIN).build()?;
    let mut request = client.post(endpoint).header(CONTENT_TYPE, "application/x-protobuf");
    for (name, value) in &traces.headers {
        request = request.header(name, value.expose_secret());
    }
    // The error of the client has the whole address, which is in the text already.
    let answer = request.body("").send().await.map_err(|error| {
        anyhow!("{endpoint} does not answer: {}. check RELINK_TRACES_ENDPOINT", describe(&error.without_url()))
    })?;
    match answer.status() {
        status if status.is_success() => Ok(format!("{endpoint} takes spans")),
        status => Err(anyhow!("{endpoint} answers {status}. check RELINK_TRACES_ENDPOINT and RELINK_TRACES_HEADERS")),
    }
}

/// An error with its causes.
fn describe(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// Makes one call with Belvo's keys, so that `/readyz` names refused keys from the start on, and not only after the first sweep. Every other
/// failure is left to the sweeps.
pub(super) async fn check_keys(client: belvo::Client) {
    if let Err(error) = client.knows_any_link().await {
        if client.are_keys_refused() {
            tracing::error!(%error, "{}", http::KEYS_REFUSED);
        } else {
            tracing::debug!(%error, "Belvo's keys could not be tried at the start");
        }
    }
}

/// Connects to the NATS of a relink with this configuration: the configured one, or the one that relink runs itself.
///
/// # Errors
/// There is no connection.
pub async fn connect(config: &Config, name: &str) -> anyhow::Result<Client> {
    let access = match &config.nats.access {
        Some(access) => access.clone(),
        None => {
            let file = server_login::url_file(&config.store.data_dir.join("nats"));
            let url = std::fs::read_to_string(&file).with_context(|| {
                format!(
                    "no nats.url is configured, and relink's own nats-server has never run in this data directory: {} cannot be read",
                    file.display()
                )
            })?;
            Access::of_urls([url.trim()])?
        }
    };
    access.connect(name).await.with_context(|| format!("cannot connect to NATS at {access}"))
}

async fn probe_nats(config: &Config) -> anyhow::Result<String> {
    let Some(access) = &config.nats.access else {
        return Ok("not set; relink runs its own nats-server".to_owned());
    };
    let client = access.connect("relink check-config").await.with_context(|| format!("cannot connect to {access}"))?;
    let version = min_version_check(&client)?;
    Ok(format!("connected to {access}, version {version}, with JetStream"))
}

pub(super) async fn probe_belvo(config: &Config) -> anyhow::Result<String> {
    let Some(keys) = &config.belvo.keys else { return Ok("not set; relink makes no calls to Belvo".to_owned()) };
    let Some(client) = belvo_client(config)? else { return Ok("not set".to_owned()) };
    match client.knows_any_link().await {
        Ok(true) => Ok(format!("{} accepts the keys, and has links", keys.url)),
        Ok(false) => Ok(format!("{} accepts the keys, and has no links yet", keys.url)),
        Err(error @ CallError::Permanent { .. }) => Err(anyhow!(
            "{} refuses the call: {error}. Check belvo.secret_id and belvo.secret_password, and that they belong to this address",
            keys.url
        )),
        Err(error) => Err(anyhow!("{} cannot be used: {error}", keys.url)),
    }
}
