//! The HTTP server: the routes, and what all of them share.
//!
//! ```text
//!   POST /webhooks/belvo                 ingest.rs        webhooks; with the Authorization value of Belvo's dashboard
//!   POST /webhooks/belvo-status          status.rs        webhooks of Belvo's status page; with a secret
//!   GET  /webhooks/belvo                 ingest.rs        a check of the address; also HEAD and OPTIONS
//!   POST /v1/api-errors                  report.rs        an error of Belvo's API, from your application
//!   POST /v1/links/{id}/widget           report.rs        an event of the widget
//!   POST /v1/links/{id}/commands         report.rs        a command of an operator
//!   POST /v1/links/{id}/update           repair.rs        mints a widget token for the user who repairs a link
//!   GET  /v1/links[/{id}[/history]]      links.rs         the links, and the history of one
//!   GET  /v1/events                      events.rs        the messages about links, as they come
//!   GET  /v1/prompts                     prompts.rs       the links whose users have to be asked right now
//!   GET  /v1/prompts/held                prompts.rs       the links whose users were not prompted yet
//!   GET  /v1/status                      status_now.rs    when sweeps ended, Belvo's budget, what waits
//!   GET  /v1/summary                     links.rs         links by state, incidents, drift
//!   GET  /v1/activity                    activity.rs      what happened in the last hours, as numbers
//!   GET  /v1/institutions                institutions.rs  the state of each institution
//!   GET  /v1/dead-letters[/{n}]          dead_letters.rs  messages that could not be handled
//!   POST /v1/dead-letters/{n}/replay     dead_letters.rs  publishes one again as input, or sends it again
//!   POST /v1/dead-letters/{n}/drop       dead_letters.rs  removes one for ever
//!   GET  /repair/{token}                 pages.rs         the page on which a user repairs a link; without credentials
//!   GET  /console                       console.rs       the page for support and operators; its data comes from /v1
//!   GET  /openapi[.json]                 openapi.rs       the description of this API
//!   GET  /healthz /readyz[/inputs]       health.rs        for monitoring and load balancers, without credentials
//!   GET  /metrics                        health.rs        the same
//! ```
//!
//! The proxy for Belvo's API is a listener of its own (`proxy`).
//!
//! - `listener`: accepts connections, bounds their number; `connection`: serves one, with time limits
//! - `v1`: binds the operations of `/v1` to their handlers and scopes; `auth`: checks credentials; `paths`: normalizes the path; `body`: reads bodies of bounded size
//! - `problem`: every error, as `application/problem+json`; `observe`: metrics, the log, panics; `log_sample`:
//!   limits the log; `traces`: the span of a request
//! - `scan`: bounds long reads of the store; `as_of`: marks what was read with its time
//!
//! Every accepted input is appended to the journal, which publishes it to the input stream. The answer is 2xx only after
//! the input is on the disk of this node or, if the settings say so, in NATS. This module decides nothing about a link.
//! Next: `journal` stores and publishes the input, the partitions handle it.

mod activity;
mod as_of;
mod auth;
mod body;
mod connection;
mod console;
mod dead_letters;
mod events;
mod health;
mod ingest;
mod institutions;
mod links;
mod listener;
mod log_sample;
mod notices;
mod observe;
mod openapi;
mod pages;
mod parameters;
mod paths;
mod problem;
mod prompts;
pub mod proxy;
mod renewal;
mod repair;
mod report;
mod scan;
mod status;
mod status_now;
mod surroundings;
mod traces;
mod v1;

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Router;
use axum::extract::{DefaultBodyLimit, OriginalUri, Request, State};
use axum::http::Method;
use axum::middleware;
use axum::routing::{any, get, post};
use bytes::Bytes;
use metrics_exporter_prometheus::PrometheusHandle;
use serde_json::{Map, Value};
use tokio::sync::{Semaphore, watch};

use self::auth::{Caller, Keys, Tokens};
pub use self::health::{KEYS_REFUSED, OBSERVES};
pub use self::listener::{Limits, serve};
use self::log_sample::LogSample;
use self::problem::{Kind, Problem};
use crate::activity::ActivityLog;
use crate::belvo::{self, Meaning, Undecodable};
use crate::clock::{self, Clock};
use crate::config::Config;
use crate::contract::{InputKind, Receipt, SweepStatus, TOKEN_HEADER};
use crate::journal::{Acknowledge, Entry, Journal, Stored};
use crate::link::{LinkId, Policy, Timestamp};
use crate::metric;
use crate::nats::dead_letter::DeadLetters;
use crate::nats::envelope;
use crate::nats::events::Events;
use crate::nats::history::Histories;
use crate::nats::lag::Lag;
use crate::nats::node::Commits;
use crate::nats::subject::Subjects;
use crate::outbound::Targets;
use crate::store::Store;
use crate::telemetry;
use crate::trace;

/// The characters of an unknown path that an answer and the log show.
const PATH_SHOWN_MAX: usize = 200;

/// The parts of relink that the HTTP server uses.
pub struct Parts {
    /// Stores inputs, and the messages that cannot be read.
    pub journal: Journal,
    /// Lists and replays dead letters.
    pub dead_letters: DeadLetters,
    /// Sends dead letters of messages over HTTP again.
    pub targets: Targets,
    /// Reads the history of a link.
    pub histories: Histories,
    /// Reads messages as they come.
    pub events: Events,
    /// The record of each link.
    pub store: Arc<dyn Store>,
    /// The clock of the jobs and sweeps. It decides when a repair link has expired, and dates what the repair page reads from Belvo.
    pub clock: Clock,
    /// The client of Belvo's API; `None` without keys.
    pub belvo: Option<belvo::Client>,
    /// How many transitions only a sweep has found since the start, by institution; `None` without a reconciler.
    pub drift: Option<watch::Receiver<BTreeMap<String, u64>>>,
    /// The last complete sweep of each kind, by its name; `None` without a reconciler.
    pub steps_ended: Option<watch::Receiver<BTreeMap<&'static str, SweepStatus>>>,
    /// What waits in the partitions of the input stream.
    pub lag: watch::Receiver<Lag>,
    /// What the node has done in the last day.
    pub activity: ActivityLog,
    /// The time up to which the store is known to have followed `KV_links`; `None` until it has caught up.
    pub as_of: watch::Receiver<Option<Timestamp>>,
    /// The commits that the store does not show yet.
    pub commits: Commits,
    /// Why relink cannot store inputs or decide about links, each reason as one clause; none if it can.
    pub not_ready: watch::Receiver<Vec<String>>,
}

/// The state of the HTTP server: its parts and its credentials.
pub struct Server {
    journal: Journal,
    dead_letters: DeadLetters,
    targets: Targets,
    histories: Histories,
    events: Events,
    /// The turns of those who watch events.
    event_slots: Arc<Semaphore>,
    store: Arc<dyn Store>,
    clock: Clock,
    belvo: Option<belvo::Client>,
    drift: Option<watch::Receiver<BTreeMap<String, u64>>>,
    steps_ended: Option<watch::Receiver<BTreeMap<&'static str, SweepStatus>>>,
    lag: watch::Receiver<Lag>,
    activity: ActivityLog,
    as_of: watch::Receiver<Option<Timestamp>>,
    commits: Commits,
    not_ready: watch::Receiver<Vec<String>>,
    subjects: Subjects,
    /// The policy of the machine, which decides when something is due.
    policy: Policy,
    webhook_keys: Keys,
    status_keys: Keys,
    open_webhooks: bool,
    api_tokens: Tokens,
    acknowledge: Acknowledge,
    widget_url: String,
    portal_url: String,
    /// The repair pages; `None` if they are switched off.
    pages: Option<pages::Pages>,
    /// Whether the console is served.
    has_console: bool,
    /// Whether relink only observes.
    observe: bool,
    metrics: PrometheusHandle,
    /// The turns of long reads of the store.
    read_slots: scan::Slots,
}

type SharedServer = Arc<Server>;

impl Server {
    /// Takes credentials and addresses from `config`.
    pub fn new(config: &Config, parts: Parts) -> Self {
        let Parts {
            journal,
            dead_letters,
            targets,
            histories,
            events,
            store,
            clock,
            belvo,
            drift,
            steps_ended,
            lag,
            activity,
            as_of,
            commits,
            not_ready,
        } = parts;
        Self {
            journal,
            dead_letters,
            targets,
            histories,
            events,
            event_slots: Arc::new(Semaphore::new(events::WATCHERS_MAX)),
            store,
            belvo,
            drift,
            steps_ended,
            lag,
            activity,
            as_of,
            commits,
            not_ready,
            subjects: config.nats.subjects.clone(),
            policy: config.policy.clone(),
            webhook_keys: Keys::of(&config.http.webhook_secrets),
            status_keys: Keys::of(&config.http.status_webhook_secrets),
            open_webhooks: config.http.allow_open_webhooks,
            api_tokens: Tokens::of(&config.http),
            acknowledge: config.journal.acknowledge,
            widget_url: config.belvo.widget_url.clone(),
            portal_url: config.belvo.portal_url.clone(),
            pages: pages::Pages::of(config, &clock),
            clock,
            has_console: config.http.console,
            observe: config.service.observe,
            metrics: telemetry::metrics(),
            read_slots: scan::Slots::default(),
        }
    }

    /// Translates an input before it is stored, so that the sender learns of errors in the answer.
    fn translate(&self, kind: InputKind, link: &LinkId, body: &[u8]) -> Result<Meaning, Undecodable> {
        translate(kind, link, body)
    }

    /// Stores an input about a link. Returns when the answer may promise that it is stored.
    async fn store_input(&self, kind: InputKind, link: &LinkId, payload: Bytes) -> Result<Receipt, Problem> {
        self.store_input_of(kind, link, payload, &Caller::default()).await
    }

    /// Stores an input of the holder of an API token. If the token has a name, the input names it.
    async fn store_input_of(
        &self,
        kind: InputKind,
        link: &LinkId,
        payload: Bytes,
        caller: &Caller,
    ) -> Result<Receipt, Problem> {
        let source = match kind {
            InputKind::Webhook => envelope::WEBHOOK_SOURCE,
            InputKind::InstitutionStatus => "/relink/webhooks/belvo-status",
            InputKind::ApiError | InputKind::Widget | InputKind::Observation | InputKind::Command => "/relink/v1",
        };
        let (mut entry, message_id) = entry_of_input(&self.subjects, kind, link, source, payload);
        entry.headers.extend(caller.name().map(|name| (TOKEN_HEADER.to_owned(), name.to_owned())));
        let stored = self.journal.append(entry).await;
        let outcome = if stored.is_ok() { "stored" } else { "unavailable" };
        metrics::counter!(metric::HTTP_INPUTS.name, "kind" => kind.as_str(), "outcome" => outcome).increment(1);
        Ok(receipt(stored?, message_id))
    }

    fn subject_of(&self, kind: InputKind, link: &LinkId) -> String {
        self.subjects.input(kind, link.as_str())
    }

    /// Runs `query` on the store in a blocking thread, because the store may read from the disk. The store shows what was published before.
    async fn read_store<T: Send + 'static>(
        &self,
        query: impl FnOnce(&dyn Store) -> Result<T, crate::store::StoreError> + Send + 'static,
    ) -> Result<T, Problem> {
        self.commits.are_in_store().await;
        let store = Arc::clone(&self.store);
        // In a store that is being rebuilt, links are missing.
        let query = move || store.check_complete().and_then(|()| query(store.as_ref()));
        let result = tokio::task::spawn_blocking(query).await;
        // A panic message may quote a record, so it is not logged.
        let result = result.map_err(|_panic| Problem::internal("reading the store panicked"))?;
        result.map_err(|error| Problem::of_store(error, &self.not_ready.borrow()))
    }
}

/// The meaning of an input that is about to be stored.
fn translate(kind: InputKind, link: &LinkId, body: &[u8]) -> Result<Meaning, Undecodable> {
    let meaning = belvo::translate(kind, link, body, clock::now())?;
    if let Meaning::Unknown { what } = &meaning {
        metrics::counter!(metric::HTTP_INPUTS_UNKNOWN.name, "kind" => kind.as_str()).increment(1);
        tracing::debug!(link.id = %link, input.what = what, "the code of an input is not in relink's tables; the input is stored unchanged");
    }
    Ok(meaning)
}

/// The entry of the journal for an input from `source`, and its `ce-id`.
fn entry_of_input(
    subjects: &Subjects,
    kind: InputKind,
    link: &LinkId,
    source: &str,
    payload: Bytes,
) -> (Entry, Option<String>) {
    let at = clock::now();
    let headers = envelope::input_attributes(kind, link, source, at);
    let headers = headers.into_iter().chain(trace::current_headers());
    let headers: Vec<_> = headers.map(|(name, value)| (name.to_owned(), value)).collect();
    trace::note("relink.link.id", || link.to_string());
    trace::note("relink.input.kind", || kind.as_str());
    let message_id = headers.iter().find(|(name, _)| name == "ce-id").map(|(_, id)| id.clone());
    (Entry { at, subject: subjects.input(kind, link.as_str()), headers, payload, dead: None }, message_id)
}

/// The proof that a message is stored.
fn receipt(stored: Stored, message_id: Option<String>) -> Receipt {
    let (journal, sequence, dead_letter) = match stored {
        Stored::Journal(number) => (Some(number), None, None),
        Stored::Stream(sequence) => (None, Some(sequence), None),
        Stored::DeadLetter(sequence) => (None, None, Some(sequence)),
    };
    Receipt { journal, sequence, dead_letter, message_id }
}

/// The members of a receipt, for an answer that has other members too.
fn members(receipt: &Receipt) -> Map<String, Value> {
    match serde_json::to_value(receipt) {
        Ok(Value::Object(members)) => members,
        Ok(_) | Err(_) => Map::new(),
    }
}

/// Builds the router with all routes.
pub fn router(server: Server) -> Router {
    let server = Arc::new(server);
    let console = if server.has_console { console::routes() } else { Router::new() };
    let routes = Router::new()
        .merge(console)
        .merge(openapi::routes())
        .route(ingest::PATH, post(ingest::webhook).get(ingest::probe).options(ingest::options))
        .route(status::PATH, post(status::webhook).get(ingest::probe).options(ingest::options))
        .nest(v1::PATH, v1::routes(&server))
        .nest(pages::PATH, pages::routes())
        .route("/repair/", any(pages::wrong_address))
        .route("/healthz", get(health::alive))
        .route("/readyz", get(health::ready))
        .route("/readyz/inputs", get(health::ready_for_inputs))
        .route("/metrics", get(health::metrics))
        .fallback(unknown_path)
        .method_not_allowed_fallback(wrong_method)
        // `body.rs` limits bodies itself, so that an oversized body is answered with a problem like every other
        // error.
        .layer(DefaultBodyLimit::disable())
        .layer(observe::catch_panics())
        .layer(middleware::from_fn_with_state(LogSample::default(), observe::observe))
        .with_state(server);
    // The path is normalized in a layer around the router, because layers inside it run after routing.
    Router::new().fallback_service(routes).layer(middleware::map_request(paths::normalize_path))
}

async fn unknown_path(State(server): State<SharedServer>, request: Request) -> Problem {
    let problem = no_resource(request.uri().path());
    ingest::misdirected(&server, request, problem).await
}

/// The path is the whole one, also in a nested router.
async fn not_found(OriginalUri(uri): OriginalUri) -> Problem {
    no_resource(uri.path())
}

fn no_resource(path: &str) -> Problem {
    Problem::new(
        Kind::NotFound,
        format!("There is no resource at {}; `/openapi` lists the calls of the interface.", shown(path)),
    )
}

/// A path for a problem and for the log. It may have 64 KiB, and it comes from anybody. If a proxy in front of relink leaves its own path
/// in front of that of the repair page, the rest is a signed address, which is as good as a password.
fn shown(path: &str) -> String {
    let (path, end) = match path.split_once("/repair/") {
        Some((before, _signed)) => (before, "/repair/…"),
        None => (path, ""),
    };
    let start: String = path.chars().take(PATH_SHOWN_MAX).collect();
    format!("{}{end}", start.escape_debug())
}

async fn wrong_method(OriginalUri(uri): OriginalUri, method: Method) -> Problem {
    let path = uri.path();
    let method: String = method.as_str().chars().take(20).collect();
    Problem::new(
        Kind::MethodNotAllowed,
        format!("{} does not support the method {method}; see the Allow header.", shown(path)),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_quotes_no_signed_address() {
        assert_eq!(shown("/banks/repair/AXDZGYUg/state"), "/banks/repair/…");
        assert_eq!(shown("/v1/nothing"), "/v1/nothing");
        assert_eq!(shown(&"/\u{1b}".repeat(999)).len(), "/\\u{1b}".len() * PATH_SHOWN_MAX / 2);
    }

    #[tokio::test]
    async fn a_wrong_method_quotes_only_the_begin_of_a_long_path() {
        for (path, shown) in [
            (format!("/v1/links/{}/commands", "x".repeat(9_000)), format!("/v1/links/{}", "x".repeat(190))),
            ("/banks/repair/AXDZGYUg/state".to_owned(), "/banks/repair/…".to_owned()),
        ] {
            let expected = format!("{shown} does not support the method DELETE; see the Allow header.");
            let problem = wrong_method(OriginalUri(path.parse().unwrap()), Method::DELETE).await;
            assert_eq!(problem.detail(), expected);
        }
    }
}
