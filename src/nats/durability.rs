//! Whether a NATS that was given to us can keep the promise that an acknowledged message is on a disk.
//!
//! With the default `sync_interval` (2 minutes) a crash of the host loses minutes of acknowledged messages, and whole streams that are new
//! (nats-server #7564). A client cannot read that setting; the server's HTTP monitor tells. We warn and go on: the operator decides.

use std::time::Duration;

use serde::Deserialize;

/// How long the monitor may take.
const MONITOR_TIMEOUT: Duration = Duration::from_secs(3);

/// What of `/varz` matters here (nats-server, "Monitoring NATS").
#[derive(Deserialize)]
struct Varz {
    jetstream: Option<JetStream>,
}

#[derive(Deserialize)]
struct JetStream {
    config: Option<JetStreamConfig>,
}

#[derive(Deserialize)]
struct JetStreamConfig {
    #[serde(default)]
    sync_always: bool,
}

/// Warns where the server's settings, or the number of copies, cannot keep the promise. `monitor_url` is the server's HTTP monitor, if it is known.
pub async fn warn_where_promises_cannot_be_kept(monitor_url: Option<&str>, replicas: usize) {
    let Some(monitor_url) = monitor_url else {
        tracing::warn!(
            replicas,
            "cannot tell whether this NATS server syncs every write to its disk (`sync_interval: always`); without it a crash of \
             its host loses acknowledged messages. Set RELINK_NATS_MONITOR_URL to have it checked"
        );
        return;
    };
    match sync_always(monitor_url).await {
        Ok(true) => tracing::info!("the NATS server syncs every write to its disk"),
        Ok(false) => tracing::warn!(
            replicas,
            "this NATS server does not sync every write to its disk: a crash of its host loses acknowledged messages. \
             Set `sync_interval: always` in the `jetstream` block of its configuration"
        ),
        Err(problem) => {
            tracing::warn!(%problem, "the NATS server's monitor could not be read, so its durability is not known")
        }
    }
}

async fn sync_always(monitor_url: &str) -> Result<bool, String> {
    crate::tls::install();
    let client = reqwest::Client::builder().timeout(MONITOR_TIMEOUT).build().map_err(|error| error.to_string())?;
    // Without the address, which may hold a password.
    let failed = |error: reqwest::Error| error.without_url().to_string();
    let answer = client.get(format!("{}/varz", monitor_url.trim_end_matches('/'))).send().await.map_err(failed)?;
    let varz: Varz = answer.json().await.map_err(failed)?;
    varz.jetstream
        .and_then(|jetstream| jetstream.config)
        .map(|config| config.sync_always)
        .ok_or_else(|| "it says nothing about JetStream".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Cut from the answer of nats-server 2.15.1.
    #[test]
    fn what_varz_says() {
        let check = |config: &str, expected: Option<bool>| {
            let varz: Varz = serde_json::from_str(config).unwrap();
            assert_eq!(
                varz.jetstream.and_then(|jetstream| jetstream.config).map(|config| config.sync_always),
                expected
            );
        };
        check(r#"{"jetstream":{"config":{"sync_interval":120000000000,"sync_always":true}}}"#, Some(true));
        check(r#"{"jetstream":{"config":{"sync_interval":120000000000}}}"#, Some(false));
        check(r#"{"jetstream":{}}"#, None);
    }
}
