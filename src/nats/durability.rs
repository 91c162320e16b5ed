//! Checks whether an external NATS server has an acknowledged message on its disk.
//!
//! With the default `sync_interval` (2 minutes), a crash of the host loses minutes of acknowledged messages, and may lose new streams as a
//! whole (nats-server #7564). A client cannot read that setting; the server's HTTP monitor reports it. relink logs a warning and goes on,
//! because the operator decides.

use std::time::Duration;

use serde::Deserialize;

use super::server_binary::{PREFERRED, ServerVersion};

/// The longest time for an answer of the monitor.
const MONITOR_TIMEOUT: Duration = Duration::from_secs(3);

/// The fields of `/varz` that this check reads (nats-server, "Monitoring NATS").
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

/// Logs a warning if this version of nats-server has a known fault that loses acknowledged messages.
pub fn warn_of_an_old_server(version: ServerVersion) {
    if let Some(fault) = known_fault(version) {
        tracing::warn!(nats.version = %version, "{fault}");
    }
}

/// The known fault of this version of nats-server that loses acknowledged messages, with what to do; `None` if there is none.
pub fn known_fault(version: ServerVersion) -> Option<String> {
    (version < PREFERRED).then(|| {
        format!(
            "this version of nats-server can lose acknowledged messages if its host crashes while it compacts a stream (nats-server PRs \
             8475 and 8629); use {PREFERRED} or newer"
        )
    })
}

/// Logs a warning if the server does not sync each write, or if this cannot be checked. `monitor_url` is the address of the server's HTTP
/// monitor, if it is configured.
pub async fn warn_where_promises_cannot_be_kept(monitor_url: Option<&str>, replicas: usize) {
    let Some(monitor_url) = monitor_url else {
        tracing::warn!(
            replicas,
            "it is unknown whether this NATS server syncs every write to its disk (`sync_interval: always`); without that setting, \
             a crash of its host loses acknowledged messages. Set RELINK_NATS_MONITOR_URL so that relink can check it"
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

/// Whether the server syncs each write. `monitor_url` is the address of its HTTP monitor.
///
/// # Errors
/// The error text, if the monitor does not answer as documented.
pub async fn sync_always(monitor_url: &str) -> Result<bool, String> {
    let client = crate::direct::client().timeout(MONITOR_TIMEOUT).build().map_err(|error| error.to_string())?;
    // The error is logged without the address, which may contain a password.
    let failed = |error: reqwest::Error| error.without_url().to_string();
    let answer = client.get(format!("{}/varz", monitor_url.trim_end_matches('/'))).send().await.map_err(failed)?;
    let varz: Varz = answer.json().await.map_err(failed)?;
    varz.jetstream
        .and_then(|jetstream| jetstream.config)
        .map(|config| config.sync_always)
        .ok_or_else(|| "its /varz has no JetStream configuration".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bodies are parts of an answer of nats-server 2.15.1.
    #[test]
    fn varz_shows_whether_every_write_is_synced() {
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
