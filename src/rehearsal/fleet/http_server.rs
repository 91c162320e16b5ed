//! relink's HTTP server under test: the shipped router with the repair page, the shipped journal, and a real socket.
//!
//! ```text
//!   browser, scanner ──HTTP──▶ router ─▶ journal ─▶ forwarder ─▶ Batch ─▶ the simulation: relink handles the inputs
//!        ▲                        └──────── answer, after that ◀────────────────┘
//! ```
//!
//! A fleet has no NATS, so the forwarder publishes to the simulation, and the simulation acknowledges a batch when relink has handled it.
//! The server acknowledges inputs as with `RELINK_HTTP_ACKNOWLEDGE=stream`. So the page never waits for the machine in real time, and a run
//! has one history. The operations that read NATS (histories, events, dead letters) would fail; nobody in a fleet uses them.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context as _;
use async_nats::jetstream;
use axum::Router;
use axum::extract::Request;
use axum::http::Method;
use axum::middleware::map_request;
use futures::future::BoxFuture;
use reqwest::header::LOCATION;
use reqwest::redirect::Policy;
use reqwest::{RequestBuilder, Url};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::options::InjectedBug;
use super::relink::Relink;
use crate::config::{Config, Sources};
use crate::http::{self, Limits, Parts, Server};
use crate::journal::{self, Dead, Entry, MemoryDisk, Target};
use crate::nats::connection::Access;
use crate::nats::dead_letter::DeadLetters;
use crate::nats::events::Events;
use crate::nats::history::Histories;
use crate::nats::publisher::PublishError;

/// The public address of relink. A proxy with TLS in front of it would lead its requests to the socket.
pub(super) const BASE_URL: &str = "https://relink.example.com";

/// The API token of the customer's application.
pub(super) const API_TOKEN: &str = "token-of-the-fleet";

const REPAIR_KEY: &str = "the-key-of-a-fleet-that-is-long-enough-for-it";

/// relink's settings in a fleet: the defaults, with the sandbox at `belvo_url` as Belvo, and with the repair page.
pub(super) fn settings(belvo_url: &str, keys: [&str; 2], quiet_hours: bool) -> anyhow::Result<Config> {
    let (widget, portal) = (format!("{belvo_url}/widget/"), format!("{belvo_url}/portal/"));
    let mut environment = vec![
        ("RELINK_BELVO_URL", belvo_url),
        ("RELINK_BELVO_SECRET_ID", keys[0]),
        ("RELINK_BELVO_SECRET_PASSWORD", keys[1]),
        ("RELINK_BELVO_WIDGET_URL", &widget),
        ("RELINK_BELVO_PORTAL_URL", &portal),
        ("RELINK_REPAIR_BASE_URL", BASE_URL),
        ("RELINK_REPAIR_KEYS", REPAIR_KEY),
        ("RELINK_API_TOKENS", API_TOKEN),
        ("RELINK_HTTP_ACKNOWLEDGE", "stream"),
    ];
    environment.extend(quiet_hours.then_some(("RELINK_POLICY_QUIET_HOURS", "22:00-08:00")));
    let environment = environment.into_iter().map(|(name, value)| (name.into(), value.into())).collect();
    Ok(Config::load(&Sources { environment, ..Sources::default() })?.config)
}

/// The HTTP server, and a client that follows no redirect.
pub(super) struct HttpServer {
    address: SocketAddr,
    client: reqwest::Client,
    batches: mpsc::UnboundedReceiver<Batch>,
    _tasks: [AbortOnDropHandle<()>; 2],
}

/// Inputs that the server has accepted. The server answers when they are acknowledged.
pub(super) struct Batch {
    pub(super) entries: Vec<Entry>,
    /// Takes the sequence of each input.
    pub(super) stored: oneshot::Sender<Vec<u64>>,
}

/// An answer of the server.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    /// Where the browser goes next.
    pub(super) location: Option<Url>,
    pub(super) body: String,
}

impl HttpServer {
    /// Starts the server over the store, the clock and the client of Belvo of `relink`.
    pub(super) async fn start(config: &Config, relink: &Relink, bug: Option<InjectedBug>) -> anyhow::Result<Self> {
        let (queue, batches) = mpsc::unbounded_channel();
        let target = Arc::new(SimulatedBus(queue));
        let (journal, forwarder) = journal::open_on(MemoryDisk::default(), config.journal, target)?;
        // No server is there, so this client never connects.
        let client = Access::of_urls(["nats://127.0.0.1:1"])?.connect_later("fleet").await?;
        let (context, subjects) = (jetstream::new(client), config.nats.subjects.clone());
        let parts = Parts {
            journal,
            dead_letters: DeadLetters::new(context.clone(), subjects.clone()),
            targets: Default::default(),
            histories: Histories::new(context.clone(), subjects.clone()),
            events: Events::new(context, subjects),
            store: Arc::new(relink.store()),
            clock: relink.clock.clone(),
            belvo: Some(relink.belvo.clone()),
            drift: None,
            steps_ended: None,
            lag: watch::channel(Default::default()).1,
            activity: Default::default(),
            as_of: watch::channel(None).1,
            commits: Default::default(),
            not_ready: watch::channel(Vec::new()).1,
        };
        let router = with_bug(http::router(Server::new(config, parts)), bug);
        let listener = TcpListener::bind("127.0.0.1:0").await.context("binding the port of relink's HTTP server")?;
        let address = listener.local_addr()?;
        let served = tokio::spawn(http::serve(listener, router, Limits::new(0), CancellationToken::new()));
        let forwarded = tokio::spawn(forwarder.run(CancellationToken::new()));
        let client = crate::direct::client().redirect(Policy::none()).build().context("making a browser")?;
        Ok(Self { address, client, batches, _tasks: [served, forwarded].map(AbortOnDropHandle::new) })
    }

    /// A request to an address of relink, as the proxy in front of relink passes it on.
    pub(super) fn request(&self, method: Method, url: &str) -> anyhow::Result<RequestBuilder> {
        let path = url.strip_prefix(BASE_URL).with_context(|| format!("{url} is no address of relink"))?;
        let request = self.client.request(method, format!("http://{}{path}", self.address));
        Ok(request.header("x-forwarded-proto", "https"))
    }

    /// The next inputs.
    pub(super) async fn next_batch(&mut self) -> Option<Batch> {
        self.batches.recv().await
    }
}

impl Answer {
    /// Sends the request, and reads the whole answer.
    pub(super) async fn to(request: RequestBuilder) -> anyhow::Result<Self> {
        let response = request.send().await.context("asking relink's HTTP server")?;
        let status = response.status().as_u16();
        let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
        let location = location.map(Url::parse).transpose().context("relink redirects to no address")?;
        Ok(Self { status, location, body: response.text().await? })
    }
}

/// The forwarder's target: the simulation.
struct SimulatedBus(mpsc::UnboundedSender<Batch>);

impl Target for SimulatedBus {
    fn publish(&self, entries: Vec<Entry>) -> BoxFuture<'_, Vec<Result<u64, PublishError>>> {
        let (stored, is_stored) = oneshot::channel();
        let count = entries.len();
        let _ended = self.0.send(Batch { entries, stored });
        Box::pin(async move {
            match is_stored.await {
                Ok(sequences) => sequences.into_iter().map(Ok).collect(),
                // The simulation has ended.
                Err(_) => vec![Err(PublishError::Closed); count],
            }
        })
    }

    fn set_aside(&self, letters: Vec<(Entry, Dead)>) -> BoxFuture<'_, Result<Vec<u64>, String>> {
        let problem = format!("a fleet has no stream of dead letters for {} letters", letters.len());
        Box::pin(std::future::ready(Err(problem)))
    }
}

/// The router with a bug in front of it.
fn with_bug(router: Router, bug: Option<InjectedBug>) -> Router {
    match bug {
        None => router,
        Some(InjectedBug::PageMintsWhenOpened) => {
            Router::new().fallback_service(router).layer(map_request(press_button))
        }
    }
}

/// Handles a look at a repair page as a press of its button.
async fn press_button(mut request: Request) -> Request {
    let path = request.uri().path();
    let is_page = path.strip_prefix("/repair/").is_some_and(|rest| !rest.contains('/'));
    if is_page && [Method::GET, Method::HEAD].contains(request.method()) {
        *request.method_mut() = Method::POST;
    }
    request
}
