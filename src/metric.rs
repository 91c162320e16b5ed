//! Every metric of relink, in one table: its name, its kind, its labels, and what it counts.
//!
//! The parts count with `metrics::counter!(metric::INPUTS.name, …)`; `telemetry` describes all of them to Prometheus, and docs/operations.md
//! shows this table. `tests/metrics.rs` holds the three together.
//!
//! No label ever has a link, a user or a text from outside in it but for the name of an institution: each value is a time series.

/// How a metric moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only rises, from 0 at each start.
    Counter,
    /// Rises and falls.
    Gauge,
    /// Values, shown as quantiles; Prometheus calls it a summary.
    Histogram,
}

/// One metric.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// As Prometheus shows it.
    pub name: &'static str,
    /// How it moves.
    pub kind: Kind,
    /// The names of its labels.
    pub labels: &'static [&'static str],
    /// What it counts, in one clause.
    pub about: &'static str,
}

/// Makes a constant of each row, and [`METRICS`] of all.
macro_rules! metrics {
    ($($constant:ident: $kind:ident $name:literal [$($label:literal),*] $about:literal;)*) => {
        $(
            #[doc = $about]
            pub const $constant: Metric =
                Metric { name: $name, kind: Kind::$kind, labels: &[$($label),*], about: $about };
        )*

        /// All of them, in the order of docs/operations.md.
        pub const METRICS: &[Metric] = &[$($constant),*];
    };
}

metrics! {
    HTTP_REQUESTS: Counter "relink_http_requests_total" ["route", "method", "status"]
        "answers of the HTTP server; `route` is the pattern, never the path";
    HTTP_REQUEST_SECONDS: Histogram "relink_http_request_seconds" ["route"] "how long the answers took";
    HTTP_PANICS: Counter "relink_http_panics_total" [] "requests whose handling panicked: each is a bug";
    HTTP_INPUTS: Counter "relink_http_inputs_total" ["kind", "outcome"]
        "inputs sent over HTTP: `stored`, `unreadable`, `refused` or `unavailable`";
    HTTP_INPUTS_UNKNOWN: Counter "relink_http_inputs_unknown_total" ["kind"]
        "stored inputs whose code is in no table of relink's";
    UNAUTHORIZED: Counter "relink_unauthorized_total" ["endpoint"]
        "requests without valid credentials, to `webhooks` or `v1`";
    INPUTS: Counter "relink_inputs_total" ["kind", "outcome"]
        "what became of each input: `accepted`, the reason of a refusal, or that of a dead letter";
    UNREADABLE_FIELDS: Counter "relink_unreadable_fields_total" ["field"]
        "fields of inputs, such as dates, that could not be read";
    COMMIT_MESSAGES: Histogram "relink_commit_messages" [] "messages in each commit";
    LINKS_UNREADABLE: Counter "relink_links_unreadable_total" [] "links whose record in the store cannot be read";
    TIMERS_SET_ASIDE: Counter "relink_timers_set_aside_total" []
        "timers that cannot be handled and are left alone until the next start";
    INCIDENTS: Gauge "relink_incidents" [] "institutions whose links fail together now";
    PROMPTS_DEFERRED: Counter "relink_prompts_deferred_total" []
        "prompts that had to wait for the end of an incident";
    JOBS: Counter "relink_jobs_total" ["job", "outcome"]
        "calls to Belvo that the state machine asked for: `reported`, `later` or `given_up`";
    BELVO_UNEXPECTED_RESPONSES: Counter "relink_belvo_unexpected_responses_total" ["status"]
        "answers of Belvo's API that are not in Belvo's form, such as a gateway's page";
    DRIFT: Counter "relink_drift_total" ["institution", "from", "to"]
        "transitions that only a sweep found: no webhook reported them";
    ADOPTED: Counter "relink_adopted_total" ["institution", "state"] "links that a sweep found and relink did not know";
    ADOPTIONS_PENDING: Gauge "relink_adoptions_pending" [] "adopted links that are still muted";
    MISSING_UNCONFIRMED: Gauge "relink_missing_unconfirmed" []
        "links that Belvo does not know, so many at once that they are taken for an incident; 0: none";
    SKIPPED: Counter "relink_skipped_total" ["why"] "links, consents and pages that a sweep could not read";
    READS_DEFERRED: Gauge "relink_reads_deferred" [] "links and consents of these that will be asked for again";
    SWEEP_SECONDS: Gauge "relink_sweep_seconds" ["step"] "how long the last sweep took";
    SWEEP_ENDED_AT_SECONDS: Gauge "relink_sweep_ended_at_seconds" ["step"]
        "when the last complete sweep ended, in seconds since 1970";
    SWEEP_FAILURES: Counter "relink_sweep_failures_total" ["step"] "sweeps that broke off";
}
