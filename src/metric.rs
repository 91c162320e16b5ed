//! The table of relink's metrics: name, kind, labels, description.
//!
//! Code records with `metrics::counter!(metric::INPUTS.name, …)`; `telemetry` registers the descriptions with
//! Prometheus, and docs/operations.md contains this table. `tests/metrics.rs` compares the three.
//!
//! Each label value is a time series of its own. So no label contains a link, a user or a text from outside, except
//! the name of an institution. No label is called `job` or `instance`: Prometheus adds these itself, and renames those of the program.

/// The kind of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A number that only rises; 0 at each start.
    Counter,
    /// A number that rises and falls.
    Gauge,
    /// Recorded values, exported as counts of those up to each bound.
    Histogram(Scale),
}

/// The bounds of a histogram. `histogram_quantile` of Prometheus is as precise as they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// Numbers of messages in a batch.
    Messages,
    /// Seconds, for the time of a request or of a commit.
    Latency,
    /// Seconds, for what users and banks do: an outage lasts from seconds to months.
    Outage,
}

impl Scale {
    /// The upper bounds of the buckets, in the unit of the metric. Larger values count in one more bucket, `+Inf`.
    pub const fn bounds(self) -> &'static [f64] {
        const MINUTE: f64 = 60.0;
        const HOUR: f64 = 60.0 * MINUTE;
        const DAY: f64 = 24.0 * HOUR;
        match self {
            Self::Messages => &[1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1_000.0],
            Self::Latency => &[0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0],
            Self::Outage => &[
                1.0,
                10.0,
                MINUTE,
                5.0 * MINUTE,
                15.0 * MINUTE,
                HOUR,
                3.0 * HOUR,
                6.0 * HOUR,
                12.0 * HOUR,
                DAY,
                2.0 * DAY,
                4.0 * DAY,
                7.0 * DAY,
                14.0 * DAY,
                30.0 * DAY,
                90.0 * DAY,
            ],
        }
    }
}

/// One metric.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// The name in Prometheus.
    pub name: &'static str,
    /// The kind.
    pub kind: Kind,
    /// The names of its labels.
    pub labels: &'static [&'static str],
    /// The description, one clause.
    pub about: &'static str,
}

/// Defines a constant for each row, and [`METRICS`].
macro_rules! metrics {
    ($($constant:ident: $kind:ident $(($scale:ident))? $name:literal [$($label:literal),*] $about:literal;)*) => {
        $(
            #[doc = $about]
            pub const $constant: Metric = Metric {
                name: $name,
                kind: Kind::$kind $((Scale::$scale))?,
                labels: &[$($label),*],
                about: $about,
            };
        )*

        /// All metrics, in the order of docs/operations.md.
        pub const METRICS: &[Metric] = &[$($constant),*];
    };
}

metrics! {
    HTTP_REQUESTS: Counter "relink_http_requests_total" ["route", "method", "status"]
        "responses of the HTTP server; `route` is the pattern, never the path";
    HTTP_REQUEST_SECONDS: Histogram(Latency) "relink_http_request_seconds" ["route"] "time to each response, in seconds";
    HTTP_CONNECTIONS: Gauge "relink_http_connections" [] "open connections of the HTTP server and of the proxy";
    HTTP_CONNECTIONS_CLOSED: Counter "relink_http_connections_closed_total" ["reason"] "closed connections, by the reason of the end";
    HTTP_PANICS: Counter "relink_http_panics_total" [] "requests whose handling panicked: each is a bug";
    HTTP_INPUTS: Counter "relink_http_inputs_total" ["kind", "outcome"]
        "inputs sent over HTTP: `stored`, `unreadable`, `refused` or `unavailable`";
    HTTP_INPUTS_UNKNOWN: Counter "relink_http_inputs_unknown_total" ["kind"]
        "stored inputs with a code that relink does not know";
    PROXY_CALLS: Counter "relink_proxy_calls_total" ["method", "status"]
        "calls to the proxy, by Belvo's status, or `refused`, `unreachable`, `client_gone`";
    PROXY_REPORTS: Counter "relink_proxy_reports_total" ["kind", "outcome"]
        "answers that concern a link, by what became of their report";
    JOURNAL_RECORDS: Gauge "relink_journal_records" [] "messages of the journal that wait for NATS, approximately";
    JOURNAL_BYTES: Gauge "relink_journal_bytes" [] "size of the journal on the disk";
    JOURNAL_OLDEST_SECONDS: Gauge "relink_journal_oldest_seconds" [] "how long the oldest message of the journal has waited for NATS";
    JOURNAL_DAMAGED: Counter "relink_journal_damaged_total" [] "damaged parts of the journal: each is a dead letter";
    OUTBOUND_REQUESTS: Counter "relink_outbound_requests_total" ["target", "outcome"]
        "requests to an HTTP target: `accepted`, `failed` or `given_up`";
    OUTBOUND_WAITING: Gauge "relink_outbound_waiting" ["target"] "messages that the address does not have yet, read every few seconds";
    OUTBOUND_STOPPED: Gauge "relink_outbound_stopped" ["target"] "1: the address has answered 410 Gone, and gets no request until the next start";
    UNAUTHORIZED: Counter "relink_unauthorized_total" ["endpoint"]
        "requests without valid credentials, to `webhooks`, `status` or `v1`";
    INPUTS: Counter "relink_inputs_total" ["kind", "outcome"]
        "handled inputs: `accepted`, or the reason of the refusal or of the dead letter";
    INPUTS_WAITING: Gauge "relink_inputs_waiting" ["partition"]
        "messages of each partition that are not handled yet, read every few seconds";
    INPUTS_OLDEST_SECONDS: Gauge "relink_inputs_oldest_seconds" ["partition"]
        "how long the oldest message of each partition has waited to be handled";
    INPUTS_REMOVED: Counter "relink_inputs_removed_total" []
        "inputs that were removed from `BELVO` before relink read them, at least";
    UNREADABLE_FIELDS: Counter "relink_unreadable_fields_total" ["field"]
        "fields of inputs, such as dates, that could not be read";
    COMMIT_MESSAGES: Histogram(Messages) "relink_commit_messages" [] "messages in each commit";
    COMMIT_SECONDS: Histogram(Latency) "relink_commit_seconds" [] "time from the end of each commit to the answer of NATS, in seconds";
    TRANSITIONS: Counter "relink_transitions_total" ["from", "to"] "transitions of links from one state to another";
    NOTICES: Counter "relink_notices_total" ["type"] "notices; in observe mode those that are recorded and not published";
    PROMPTS: Counter "relink_prompts_total" ["reminder"]
        "messages that ask a user for a repair: 0 is the prompt, 1 the first reminder; `10+` from the tenth";
    DETECT_SECONDS: Histogram(Outage) "relink_detect_seconds" []
        "time from the last proof that a link worked until relink knew of its outage, in seconds";
    PROMPT_SECONDS: Histogram(Outage) "relink_prompt_seconds" [] "how long each outage had lasted when its prompt was published, in seconds";
    REPAIR_SECONDS: Histogram(Outage) "relink_repair_seconds" [] "how long each outage lasted that ended with a proof, in seconds";
    DATA_AGE_SECONDS: Histogram(Outage) "relink_data_age_seconds" []
        "how old the data of a link was when newer data arrived, in seconds; webhooks within a minute count as one";
    LINKS_UNREADABLE: Counter "relink_links_unreadable_total" [] "links whose record in the store is unreadable";
    STORE_DAMAGES: Counter "relink_store_damages_total" [] "damages of the store that relink found while it ran; the store was rebuilt";
    STATES_LOST: Counter "relink_states_lost_total" [] "times that states were missing on `KV_links` when relink caught up with it";
    FOREIGN_MESSAGES: Counter "relink_foreign_messages_total" []
        "messages on `link.>` or `$KV.links.>` that are not relink's own and that relink stepped over";
    TIMERS_SET_ASIDE: Counter "relink_timers_set_aside_total" []
        "timers that failed and are disabled until the next start";
    CLOCK_JUMPS: Counter "relink_clock_jumps_total" ["clock"]
        "jumps by more than 5 seconds of the clock of NATS (`nats`) or of this host (`host`)";
    INCIDENTS: Gauge "relink_incidents" [] "institutions with an incident now";
    PROMPTS_DEFERRED: Counter "relink_prompts_deferred_total" []
        "prompts that were deferred because of an incident";
    CREATIONS: Counter "relink_creations_total" ["outcome"]
        "links whose creation was not finished at once: `begun`, `finished`, `unfinished`, `removed`";
    JOBS: Counter "relink_jobs_total" ["type", "outcome"]
        "attempts of jobs: `reported`, `retried` or `given_up`";
    BELVO_KEYS_REFUSED: Gauge "relink_belvo_keys_refused" [] "1 while Belvo refuses relink's keys, by its last answer that shows it; else 0";
    BELVO_REQUESTS_LEFT: Gauge "relink_belvo_requests_left" []
        "requests that may be sent to Belvo now; 0 during a pause that Belvo asked for";
    BELVO_REQUESTS_MAX: Gauge "relink_belvo_requests_max" []
        "the most requests in a window (`RELINK_BELVO_REQUESTS_PER_30S`); jobs use 7/8 of it, sweeps 3/4";
    BELVO_UNEXPECTED_RESPONSES: Counter "relink_belvo_unexpected_responses_total" ["status"]
        "responses that do not have the form of Belvo's API, such as a gateway's page";
    DRIFT: Counter "relink_drift_total" ["institution", "from", "to"]
        "transitions that only a sweep found: no webhook reported them";
    ADOPTED: Counter "relink_adopted_total" ["institution", "state"] "links that a sweep found and relink did not know before";
    ADOPTIONS_PENDING: Gauge "relink_adoptions_pending" [] "adopted links that are still muted";
    MISSING_UNCONFIRMED: Gauge "relink_missing_unconfirmed" []
        "links missing at Belvo that do not count as deleted, because many are missing at once; else 0";
    SKIPPED: Counter "relink_skipped_total" ["reason"] "links, consents and pages that a sweep could not read";
    READS_DEFERRED: Gauge "relink_reads_deferred" [] "links and consents that a sweep could not read and will read again";
    SWEEP_SECONDS: Gauge "relink_sweep_seconds" ["step"] "duration of the last sweep, in seconds";
    SWEEP_ENDED_AT_SECONDS: Gauge "relink_sweep_ended_at_seconds" ["step"]
        "when the last complete sweep ended, in seconds since 1970";
    SWEEP_FAILURES: Counter "relink_sweep_failures_total" ["step"] "sweeps that failed";
    RECREATED: Counter "relink_streams_recreated_total" ["name"]
        "streams and consumers that were deleted while relink ran, and were created again";
    SPANS: Counter "relink_spans_total" ["outcome"]
        "spans: `exported`, `failed` (the endpoint did not take them) or `dropped` (too many waited)";
    SERVER_RESTARTS: Counter "relink_nats_server_restarts_total" [] "restarts of relink's own nats-server";
}
