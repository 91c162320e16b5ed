//! What relink says about itself: the log on standard error, and metrics for Prometheus at `GET /metrics`.
//!
//! | metric | labels | what it counts |
//! |---|---|---|
//! | `relink_http_requests_total` | `route`, `method`, `status` | answers; `route` is the pattern, never the path |
//! | `relink_http_request_seconds` | `route` | how long they took (summary) |
//! | `relink_http_panics_total` | | requests whose handling panicked: each is a bug |
//! | `relink_http_inputs_total` | `kind`, `outcome` | inputs, `stored`, `unreadable`, `refused`, `unavailable` |
//! | `relink_http_inputs_unknown_total` | `kind` | stored inputs whose code is in no table of ours |
//! | `relink_inputs_total` | `kind`, `outcome` | what the lanes made of each input: `accepted`, a refusal, a dead letter's reason |
//! | `relink_commit_messages` | | messages in each commit (summary) |
//! | `relink_incidents` | | institutions whose links fail together now |
//! | `relink_prompts_held_total` | | prompts that had to wait for the end of an incident |
//! | `relink_timers_set_aside_total` | | timers that cannot be handled and are left alone until the next start |
//! | `relink_jobs_total` | `job`, `outcome` | calls to Belvo: `reported`, `later`, `given_up` |
//! | `relink_unauthorized_total` | `door` | requests without valid credentials: `webhooks` or `v1` |
//!
//! The reconciler's are in `reconciler/mod.rs`, with their labels.
//!
//! The log never holds a body, a secret or a token: messages read alone, ids are dotted fields (`link.id`,
//! `request.id`).

use std::io;
use std::sync::OnceLock;

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tracing::{Level, Metadata};
use tracing_subscriber::filter::{FilterExt, filter_fn};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{EnvFilter, Layer};

use crate::config::{LogConfig, LogFormat};

/// `relink_http_requests_total`
pub const HTTP_REQUESTS: &str = "relink_http_requests_total";
/// `relink_http_request_seconds`
pub const HTTP_REQUEST_SECONDS: &str = "relink_http_request_seconds";
/// `relink_http_panics_total`
pub const HTTP_PANICS: &str = "relink_http_panics_total";
/// `relink_http_inputs_total`
pub const INPUTS: &str = "relink_http_inputs_total";
/// `relink_http_inputs_unknown_total`
pub const INPUTS_UNKNOWN: &str = "relink_http_inputs_unknown_total";
/// `relink_unauthorized_total`
pub const UNAUTHORIZED: &str = "relink_unauthorized_total";

/// The log cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter is not one.
    #[error("the log filter cannot be used: {0}")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    /// Something else already takes this process's log.
    #[error("the log has already been set up in this process")]
    Log(#[from] TryInitError),
}

/// Starts the log of this process, on standard error: colours only for people who want them.
///
/// # Errors
/// [`TelemetryError`] if the filter is malformed or a log has been started before.
pub fn start_log(config: &LogConfig) -> Result<(), TelemetryError> {
    let filter = config.filter.parse::<EnvFilter>()?.and(filter_fn(shows_no_body));
    let registry = tracing_subscriber::registry();
    let format = tracing_subscriber::fmt::layer().with_writer(io::stderr);
    match config.format {
        LogFormat::Json => registry.with(format.json().flatten_event(true).with_filter(filter)).try_init()?,
        LogFormat::Text => {
            // Asks the terminal and honours NO_COLOR, as everything else relink prints does.
            let colours = anstream::AutoStream::choice(&io::stderr()) != anstream::ColorChoice::Never;
            registry.with(format.with_ansi(colours).with_filter(filter)).try_init()?;
        }
    }
    Ok(())
}

/// Whether a line with this metadata is free of bodies, whatever the filter asks for: at `TRACE` the crates below us
/// log what they send and receive, async-nats whole messages.
pub fn shows_no_body(metadata: &Metadata<'_>) -> bool {
    let ours = metadata.target().split("::").next() == Some("relink");
    ours || *metadata.level() <= Level::DEBUG
}

/// What renders the metrics of this process. The recorder is installed at the first call; later calls share it.
pub fn metrics() -> PrometheusHandle {
    static METRICS: OnceLock<PrometheusHandle> = OnceLock::new();
    let handle = METRICS.get_or_init(|| {
        let recorder = PrometheusBuilder::new().build_recorder();
        let handle = recorder.handle();
        if metrics::set_global_recorder(recorder).is_err() {
            tracing::warn!("another metrics recorder was installed before relink's; GET /metrics will stay empty");
        }
        describe();
        handle
    });
    handle.clone()
}

fn describe() {
    metrics::describe_counter!(HTTP_REQUESTS, "Answers of the HTTP door.");
    metrics::describe_histogram!(HTTP_REQUEST_SECONDS, metrics::Unit::Seconds, "How long the answers took.");
    metrics::describe_counter!(HTTP_PANICS, "Requests whose handling panicked.");
    metrics::describe_counter!(INPUTS, "Inputs handed in at the HTTP door, by kind and outcome.");
    metrics::describe_counter!(INPUTS_UNKNOWN, "Stored inputs whose code is in no table of relink's.");
    metrics::describe_counter!(UNAUTHORIZED, "Requests without valid credentials.");
    metrics::describe_counter!("relink_inputs_total", "What the lanes made of each input, by kind and outcome.");
    metrics::describe_histogram!("relink_commit_messages", "Messages in each commit.");
    metrics::describe_counter!("relink_jobs_total", "Calls to Belvo that the machine asked for, by job and outcome.");
    metrics::describe_gauge!("relink_incidents", "Institutions whose links fail together now.");
    metrics::describe_counter!("relink_prompts_held_total", "Prompts that had to wait for the end of an incident.");
    metrics::describe_counter!(
        "relink_timers_set_aside_total",
        "Timers that cannot be handled and are left alone until the next start."
    );
    metrics::describe_counter!("relink_drift_total", "Transitions learnt only by sweeping.");
    metrics::describe_counter!("relink_adopted_total", "Links first heard of by sweeping.");
    metrics::describe_gauge!("relink_adopted_waiting", "Adopted links that are still muted.");
    metrics::describe_gauge!("relink_missing_held", "Links that Belvo does not know, taken for an incident; 0: none.");
    metrics::describe_gauge!("relink_sweep_seconds", metrics::Unit::Seconds, "How long each step's last sweep took.");
    metrics::describe_gauge!(
        "relink_sweep_ended_at_seconds",
        metrics::Unit::Seconds,
        "When each step's last sweep ended well, since the Unix epoch."
    );
    metrics::describe_counter!("relink_sweep_failures_total", "Sweeps that broke off, by step.");
}

#[cfg(test)]
mod tests {
    #[test]
    fn metrics_may_be_asked_for_twice() {
        let first = super::metrics();
        metrics::counter!(super::UNAUTHORIZED, "door" => "test").increment(1);
        assert!(super::metrics().render().contains("relink_unauthorized_total{door=\"test\"} 1"));
        assert!(first.render().contains("# HELP relink_unauthorized_total"));
    }
}
