//! What a NATS server reports about itself: `/healthz` of its HTTP monitor.
//!
//! After a failed write, for example on a full disk, a nats-server (2.14 and newer) refuses every later write to the same stream until it
//! is restarted, also when the disk has room again. A client gets no answer to its publishes then, so only the monitor shows the reason.

use std::time::Duration;

use serde::Deserialize;

/// The longest time for an answer of the monitor.
const MONITOR_TIMEOUT: Duration = Duration::from_secs(3);

/// A part of the report of a server that has failed to write.
const WRITE_ERROR: &str = "write error";

/// The report of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerHealth {
    /// Its streams and consumers work.
    Healthy,
    /// It cannot write to a stream until it is restarted. The text is the server's.
    CannotWrite(String),
    /// Something else does not work. The text is the server's.
    Unhealthy(String),
}

/// The answer of `/healthz` (nats-server, "Monitoring NATS").
#[derive(Deserialize)]
struct Healthz {
    status: String,
    #[serde(default)]
    error: String,
}

/// The HTTP monitor of a server.
#[derive(Debug, Clone)]
pub struct ServerMonitor {
    client: reqwest::Client,
    url: String,
}

impl ServerMonitor {
    /// The monitor at this address.
    ///
    /// # Errors
    /// The error text, if no HTTP client can be made.
    pub fn new(url: &str) -> Result<Self, String> {
        let client = crate::direct::client().timeout(MONITOR_TIMEOUT).build();
        let client = client.map_err(|error| error.to_string())?;
        Ok(Self { client, url: url.trim_end_matches('/').to_owned() })
    }

    /// Reads the health of the server.
    ///
    /// # Errors
    /// The error text, if the monitor does not answer as documented.
    pub async fn health(&self) -> Result<ServerHealth, String> {
        // The error is logged without the address, which may contain a password.
        let failed = |error: reqwest::Error| error.without_url().to_string();
        let answer = self.client.get(format!("{}/healthz", self.url)).send().await.map_err(failed)?;
        Ok(health(answer.json().await.map_err(failed)?))
    }
}

fn health(Healthz { status, error }: Healthz) -> ServerHealth {
    if status == "ok" {
        ServerHealth::Healthy
    } else if error.contains(WRITE_ERROR) {
        ServerHealth::CannotWrite(error)
    } else {
        ServerHealth::Unhealthy(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bodies are answers of nats-server 2.15.1.
    #[test]
    fn a_write_error_is_recognised() {
        let check = |body: &str| health(serde_json::from_str(body).unwrap());
        assert_eq!(check(r#"{"status":"ok"}"#), ServerHealth::Healthy);
        let full = r#"{"status":"unavailable","error":"JetStream stream '$G \u003e BELVO' write error: write 1.blk: no space left on device"}"#;
        assert!(matches!(check(full), ServerHealth::CannotWrite(text) if text.contains("no space left")));
        let stalled = r#"{"status":"unavailable","error":"JetStream is not current with the meta leader"}"#;
        assert!(matches!(check(stalled), ServerHealth::Unhealthy(_)));
    }
}
