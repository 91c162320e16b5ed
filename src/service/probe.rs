//! Whether NATS, Belvo and the endpoint for traces accept the settings, for `check-config --probe` and `doctor`. Nothing is changed there.

use std::path::Path;

use anyhow::{Context as _, anyhow};
use async_nats::Client;

use super::{belvo_client, traces};
use crate::belvo::{self, CallError};
use crate::config::Config;
use crate::http;
use crate::nats::connection::Access;
use crate::nats::server::min_version_check;
use crate::nats::server_login;

/// Connects to NATS, calls Belvo, writes a file into the data directory, and sends the endpoint for traces a request without spans, if there
/// is one. Returns the name of each part with its answer.
pub async fn probe(config: &Config) -> Vec<(&'static str, anyhow::Result<String>)> {
    let mut answers = vec![
        ("NATS", probe_nats(config).await),
        ("Belvo", probe_belvo(config).await),
        ("data directory", probe_directory(&config.store.data_dir)),
    ];
    if let Some(settings) = &config.traces {
        let answer = traces::probe(settings).await;
        answers.push(("traces", answer.map_err(|error| anyhow!("{error:#}; {}", traces::ADVICE))));
    }
    answers
}

fn probe_directory(directory: &Path) -> anyhow::Result<String> {
    let shown = directory.display();
    let is_there = directory.exists();
    // relink serve creates what is missing below the nearest directory.
    let nearest = directory.ancestors().find(|path| path.exists()).unwrap_or(Path::new("."));
    // The file has no name after that.
    tempfile::tempfile_in(nearest).with_context(|| {
        format!(
            "{} cannot be written; make the user that runs relink its owner, or set store.data_dir (RELINK_DATA_DIR)",
            nearest.display()
        )
    })?;
    Ok(if is_there {
        format!("{shown} can be written")
    } else {
        format!("{shown} does not exist yet; relink serve creates it")
    })
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

#[cfg(test)]
mod tests {
    use super::probe_directory;

    #[test]
    fn a_directory_is_tried_also_if_relink_has_to_create_it() {
        let directory = tempfile::tempdir().unwrap();
        let missing = directory.path().join("a/b");
        assert!(probe_directory(directory.path()).unwrap().ends_with(" can be written"));
        assert!(probe_directory(&missing).unwrap().ends_with("does not exist yet; relink serve creates it"));
        assert!(!missing.exists() && directory.path().read_dir().unwrap().next().is_none(), "nothing is left behind");
        #[cfg(target_os = "linux")]
        {
            let error = probe_directory("/proc/relink/data".as_ref()).unwrap_err().to_string();
            assert!(error.starts_with("/proc cannot be written; ") && error.contains("RELINK_DATA_DIR"), "{error}");
        }
    }
}
