//! THE FRONT DOOR: HTTP in, HTTP out.
//!
//! ```text
//!   POST /webhooks/belvo                 ingest.rs        Belvo reports; the Authorization value of its dashboard
//!   GET  /webhooks/belvo                 ingest.rs        ... looks whether the address is right; also HEAD, OPTIONS
//!   POST /v1/api-errors                  report.rs        your application reports an error of Belvo's API
//!   POST /v1/links/{id}/widget           report.rs        ... what the widget said
//!   POST /v1/links/{id}/commands         report.rs        ... what an operator decided
//!   POST /v1/links/{id}/update           repair.rs        mints a widget token; the link is being repaired
//!   GET  /v1/links[/{id}[/history]]      links.rs         what is known of links, and why
//!   GET  /v1/summary                     links.rs         links by state, incidents, drift
//!   GET  /v1/dead-letters[/{n}]          dead_letters.rs  what could not be read
//!   POST /v1/dead-letters/{n}/replay     dead_letters.rs  ... once more
//!   GET  /healthz /readyz /metrics       health.rs        for machines, without credentials
//! ```
//!
//! - `auth`: who may come in; `paths`: one spelling of each path; `body`: bounded reading
//! - `problem`: every error, as `application/problem+json`; `observe`: counts, logs once, catches panics
//!
//! Everything that comes in goes to the input stream and is answered 2xx only when it is on the disk; nothing here
//! decides about a link. Next: `nats::publisher` stores it, the lanes handle it.

mod auth;
mod body;
mod dead_letters;
mod health;
mod ingest;
mod links;
mod observe;
mod parameters;
mod paths;
mod problem;
mod renewal;
mod repair;
mod report;

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::Uri;
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::{get, post};
use axum::serve::ListenerExt;
use bytes::Bytes;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use self::auth::Keys;
use self::problem::{Kind, Problem};
use crate::belvo::{self, Meaning, Undecodable};
use crate::clock;
use crate::config::Config;
use crate::contract::InputKind;
use crate::link::LinkId;
use crate::metric;
use crate::nats::dead_letter::DeadLetters;
use crate::nats::envelope;
use crate::nats::history::Histories;
use crate::nats::publisher::Publisher;
use crate::nats::subject::Subjects;
use crate::store::Store;
use crate::telemetry;

/// How long requests that are being answered may still take once relink is told to stop.
const GRACE: Duration = Duration::from_secs(10);

/// How often the metrics' histograms are tidied when nobody asks for them.
const UPKEEP_EVERY: Duration = Duration::from_secs(30);

/// What the door leads to.
pub struct Parts {
    /// The way into the input stream.
    pub publisher: Publisher,
    /// Where what cannot be read goes.
    pub dead_letters: DeadLetters,
    /// What has been decided about each link.
    pub histories: Histories,
    /// What is known of each link.
    pub store: Arc<dyn Store>,
    /// Belvo, if there are keys for it.
    pub belvo: Option<belvo::Client>,
    /// How many transitions the sweeps alone have found since the start, by institution; `None` if nothing is swept.
    pub drift: Option<watch::Receiver<BTreeMap<String, u64>>>,
    /// Whether all lanes are running.
    pub ready: watch::Receiver<bool>,
}

/// The front door: what it leads to, and who may use it.
pub struct Door {
    publisher: Publisher,
    dead_letters: DeadLetters,
    histories: Histories,
    store: Arc<dyn Store>,
    belvo: Option<belvo::Client>,
    drift: Option<watch::Receiver<BTreeMap<String, u64>>>,
    ready: watch::Receiver<bool>,
    subjects: Subjects,
    webhook_keys: Keys,
    open_webhooks: bool,
    api_tokens: Keys,
    widget_url: String,
    portal_url: String,
    metrics: PrometheusHandle,
}

type SharedDoor = Arc<Door>;

impl Door {
    /// The door of a configuration.
    pub fn new(config: &Config, parts: Parts) -> Self {
        let Parts { publisher, dead_letters, histories, store, belvo, drift, ready } = parts;
        Self {
            publisher,
            dead_letters,
            histories,
            store,
            belvo,
            drift,
            ready,
            subjects: config.nats.subjects.clone(),
            webhook_keys: Keys::of(&config.http.webhook_secrets),
            open_webhooks: config.http.allow_open_webhooks,
            api_tokens: Keys::of(&config.http.api_tokens),
            widget_url: config.belvo.widget_url.clone(),
            portal_url: config.belvo.portal_url.clone(),
            metrics: telemetry::metrics(),
        }
    }

    /// What an input means, by the tables; to be asked before it is stored, so that the sender hears what is wrong
    /// with it.
    fn understand(&self, kind: InputKind, link: &LinkId, body: &[u8]) -> Result<Meaning, Undecodable> {
        let meaning = belvo::translate(kind, link, body, clock::now())?;
        if let Meaning::Unknown { what } = &meaning {
            metrics::counter!(metric::HTTP_INPUTS_UNKNOWN.name, "kind" => kind.as_str()).increment(1);
            tracing::info!(link.id = %link, input.what = what, "an input is in no table of ours; it is kept whole");
        }
        Ok(meaning)
    }

    /// Stores an input about a link and gives its sequence, once it is on the disk.
    async fn store_input(&self, kind: InputKind, link: &LinkId, body: Bytes) -> Result<u64, Problem> {
        let source = match kind {
            InputKind::Webhook => "/relink/webhooks/belvo",
            InputKind::ApiError | InputKind::Widget | InputKind::Observation | InputKind::Command => "/relink/v1",
        };
        let headers = envelope::input_headers(kind, link, source, clock::now());
        let stored = self.publisher.publish(self.subject_of(kind, link), headers, body).await;
        let outcome = if stored.is_ok() { "stored" } else { "unavailable" };
        metrics::counter!(metric::HTTP_INPUTS.name, "kind" => kind.as_str(), "outcome" => outcome).increment(1);
        Ok(stored?)
    }

    fn subject_of(&self, kind: InputKind, link: &LinkId) -> String {
        self.subjects.input(kind, link.as_str())
    }

    /// Asks the store, off the runtime's threads: it may have to read from the disk.
    async fn ask_store<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&dyn Store) -> Result<T, crate::store::StoreError> + Send + 'static,
    ) -> Result<T, Problem> {
        let store = Arc::clone(&self.store);
        let asked = tokio::task::spawn_blocking(move || ask(store.as_ref())).await;
        // What a panic says may quote a record, so only that there was one goes into the log.
        asked.map_err(|_panic| Problem::internal("reading the store panicked"))?.map_err(Problem::from)
    }
}

/// All routes.
pub fn router(door: Door) -> Router {
    let door = Arc::new(door);
    let v1 = Router::new()
        .route("/api-errors", post(report::api_error))
        .route("/links", get(links::list))
        .route("/links/{id}", get(links::show))
        .route("/links/{id}/history", get(links::history))
        .route("/links/{id}/update", post(repair::update))
        .route("/links/{id}/widget", post(report::widget))
        .route("/links/{id}/commands", post(report::command))
        .route("/summary", get(links::summary))
        .route("/dead-letters", get(dead_letters::list))
        .route("/dead-letters/{sequence}", get(dead_letters::show))
        .route("/dead-letters/{sequence}/replay", post(dead_letters::replay))
        .fallback(not_found)
        .method_not_allowed_fallback(wrong_method)
        .layer(middleware::from_fn_with_state(Arc::clone(&door), admit));
    let routes = Router::new()
        .route(ingest::PATH, post(ingest::webhook).get(ingest::probe).options(ingest::options))
        .nest("/v1", v1)
        .route("/healthz", get(health::alive))
        .route("/readyz", get(health::ready))
        .route("/metrics", get(health::metrics))
        .fallback(nothing_here)
        .method_not_allowed_fallback(wrong_method)
        // `body.rs` bounds bodies itself, so that the answer is a problem like all others.
        .layer(DefaultBodyLimit::disable())
        .layer(observe::catch_panics())
        .layer(middleware::from_fn(observe::observe))
        .with_state(door);
    // A layer runs before the routes that are behind it, so the path has one spelling when they look at it.
    Router::new().fallback_service(routes).layer(middleware::map_request(paths::one_spelling))
}

/// Serves until `shutdown`, then answers what is being asked, for a bounded time.
///
/// # Errors
/// If the listener fails for good.
pub async fn serve(listener: TcpListener, router: Router, shutdown: CancellationToken) -> io::Result<()> {
    let metrics = telemetry::metrics();
    let mut upkeep = tokio::time::interval(UPKEEP_EVERY);
    // Answers are small: waiting to fill a packet would only delay them.
    let listener = listener.tap_io(|stream| {
        let _refused_by_a_dead_connection = stream.set_nodelay(true);
    });
    let graceful = axum::serve(listener, router).with_graceful_shutdown(shutdown.clone().cancelled_owned());
    let mut server = std::pin::pin!(graceful.into_future());
    let mut over = std::pin::pin!(async {
        shutdown.cancelled().await;
        tokio::time::sleep(GRACE).await;
    });
    loop {
        tokio::select! {
            ended = &mut server => return ended,
            () = &mut over => {
                tracing::warn!("some requests were still open {} s after the stop and were cut off", GRACE.as_secs());
                return Ok(());
            }
            _ = upkeep.tick() => metrics.run_upkeep(),
        }
    }
}

async fn admit(State(door): State<SharedDoor>, request: Request, next: Next) -> Result<Response, Problem> {
    auth::check_api(&door.api_tokens, request.headers())?;
    Ok(next.run(request).await)
}

async fn nothing_here(State(door): State<SharedDoor>, request: Request) -> Problem {
    let problem = not_found(request.uri().clone()).await;
    ingest::astray(&door, request, problem).await
}

async fn not_found(uri: Uri) -> Problem {
    Problem::new(Kind::NotFound, format!("There is nothing at {}.", uri.path().escape_debug()))
}

async fn wrong_method(request: Request) -> Problem {
    let (method, path) = (request.method(), request.uri().path());
    Problem::new(
        Kind::MethodNotAllowed,
        format!("{} does not take {method}; see the Allow header.", path.escape_debug()),
    )
}
