//! Belvo in a box: a stand-in for Belvo that behaves like Belvo, for demos and tests.
//!
//! Belvo's own sandbox sends no LINK webhooks and cannot make a link `invalid`, so nobody can rehearse a broken link
//! there. Here every road can be walked: the API of links with its errors, the widget, the webhooks with their retries,
//! and faults in all of them. It shares no code with the rooms it tests (only the clock), so a mistake of ours about
//! Belvo would have to be made twice to go unnoticed.
//!
//! A tour: `link` and `world` are the state; `bank` is a login, within the limits of `quota`, with
//! what a `verdict` or a `fault` has made of it; `agenda` is when Belvo does
//! something by itself, `schedule` and `consent` what that is; `webhook` and `family` are what is said, `post_box` where it waits and
//! `courier` how it is delivered; `api` is Belvo's HTTP, behind its `rate_limit`; `widget` and `portal` are the pages
//! a user would see.
//! `control` has the strings to pull, in process and over HTTP; `drive` moves time, `in_process` needs no socket, and `fleet` makes many
//! links.
//! [`scenario`] plays whole stories.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use reqwest::redirect::Policy;
use secrecy::SecretString;
use tokio::net::TcpListener;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

mod agenda;
mod clock;
mod family;
mod institution;
mod link;
mod problem;
mod webhook;

mod consent;
mod fault;
mod post_box;
mod quota;
mod rate_limit;
mod verdict;
mod world;

mod bank;
mod schedule;

mod api;
mod courier;
mod portal;
mod widget;

mod cli;
mod control;
mod control_http;
mod control_json;
mod drive;
mod fleet;
mod in_process;

pub mod scenario;

pub use cli::{SandboxArgs, run};
pub use clock::SandboxTime;
pub use consent::ConsentLack;
pub use control::{Control, ControlError, NewWebhook};
pub use drive::TakenWebhook;
pub use fault::{ApiFault, WebhookFault};
pub use fleet::NewFleetLink;
pub use in_process::{Answered, InProcess};
pub use link::{AccessMode, LinkStatus, Login, LoginFailure, RefreshRate};
pub use post_box::{Delivery, DeliveryOutcome};
pub use quota::QuotaUse;
pub use schedule::RefreshOutcome;
pub use webhook::{Correction, PayloadShape};

use clock::Clock;
use rate_limit::RateLimit;
use world::{Rules, Target, World};

/// Who takes webhooks out of the post box.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WebhookDelivery {
    /// The sandbox sends them itself, over HTTP.
    #[default]
    Send,
    /// Whoever holds the [`Control`], by [`Control::take_webhooks`] and [`Control::settle_webhook`].
    ByHand,
}

/// How a sandbox is set up.
#[derive(Clone, Debug)]
pub struct SandboxConfig {
    /// Where it listens; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Where webhooks go; without one they are recorded and not sent.
    pub webhook_url: Option<String>,
    /// The whole `Authorization` value of each webhook, as typed into Belvo's dashboard.
    pub webhook_authorization: Option<SecretString>,
    /// The user of Basic auth.
    pub secret_id: String,
    /// The password of Basic auth.
    pub secret_password: SecretString,
    /// How long a receiver may take. Belvo's integration checklists say five seconds.
    pub webhook_timeout: Duration,
    /// How many webhooks are under way at the same time. Belvo sends one for each resource in parallel; one at a time
    /// keeps them in order.
    pub deliveries_at_once: usize,
    /// The first retry comes after one step, the second after two more, and so on. Belvo does not say how long it is.
    pub webhook_retry_step: Duration,
    /// How soon the `historical_update` webhooks follow a creation, a repair or a refresh.
    pub data_delay: Duration,
    /// How many failed logins make a link `invalid`. Belvo's error reference says six.
    pub logins_until_invalid: u32,
    /// Which generation of Belvo's webhook body to send.
    pub payload_shape: PayloadShape,
    /// How many calls of the API are let through in 30 seconds; without a number, any. Belvo's reference says 80.
    pub requests_per_30s: Option<u32>,
    /// What its clock goes by.
    pub time: SandboxTime,
    /// Whether Belvo does by itself what it does by itself: refreshes recurrent links by their rate, ends consents on
    /// their day. Without it such things happen only when [`Control`] says so.
    pub schedule: bool,
    /// Whether the schedule goes on refreshing a link that it could not log in to, and says so each time anew. A link
    /// with a consent has no login: when its consent is over, nothing more is said.
    pub repeats_while_broken: bool,
    /// Whether a scheduled refresh gives word of a consent that is about to end. At Belvo it is opt-in.
    pub consent_warnings: bool,
    /// Whether the schedule has all links gone on the first of each month, as in Belvo's own sandbox.
    pub monthly_wipe: bool,
    /// Who delivers webhooks.
    pub delivery: WebhookDelivery,
    /// How many records of deliveries are kept; the oldest go first.
    pub deliveries_kept: usize,
    /// All ids come from it.
    pub seed: u64,
}

impl Default for SandboxConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            webhook_url: None,
            webhook_authorization: None,
            secret_id: "sandbox".into(),
            secret_password: SecretString::from("sandbox"),
            webhook_timeout: Duration::from_secs(5),
            deliveries_at_once: 1,
            webhook_retry_step: Duration::from_secs(10),
            data_delay: Duration::from_millis(300),
            logins_until_invalid: 6,
            payload_shape: PayloadShape::Current,
            requests_per_30s: None,
            time: SandboxTime::Wall,
            schedule: false,
            repeats_while_broken: true,
            consent_warnings: true,
            monthly_wipe: false,
            delivery: WebhookDelivery::Send,
            deliveries_kept: 200_000,
            seed: 1,
        }
    }
}

/// Why a sandbox did not start.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// The address is taken or not ours.
    #[error("the sandbox cannot listen on {address}: {source}")]
    Listen {
        /// The address asked for.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// The client for webhooks could not be made.
    #[error("the sandbox cannot make its webhook client: {0}")]
    Client(#[source] reqwest::Error),
}

/// A running sandbox. Dropping it stops it; [`Sandbox::shutdown`] also waits for that.
#[derive(Debug)]
pub struct Sandbox {
    address: SocketAddr,
    shared: Arc<Shared>,
    tasks: TaskTracker,
}

impl Sandbox {
    /// Listens, and starts delivering webhooks and doing what is planned.
    pub async fn start(config: SandboxConfig) -> Result<Self, SandboxError> {
        let address = config.listen;
        let failed = |source| SandboxError::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        crate::tls::install();
        // Belvo takes any answer but 2xx for a failure; nothing says that it goes where a redirect points.
        let client = reqwest::Client::builder().no_proxy().redirect(Policy::none());
        let client = client.build().map_err(SandboxError::Client)?;

        let shared = Arc::new(Shared::new(config));
        let tasks = TaskTracker::new();
        if shared.config.delivery == WebhookDelivery::Send {
            tasks.spawn(courier::run(Arc::clone(&shared), client));
        }
        if shared.config.schedule && shared.config.time == SandboxTime::Wall {
            tasks.spawn(agenda::run(Arc::clone(&shared)));
        }
        let router = api::router(Arc::clone(&shared));
        let stop = shared.stop.clone();
        tasks.spawn(async move {
            let server = axum::serve(listener, router).with_graceful_shutdown(async move { stop.cancelled().await });
            if let Err(error) = server.await {
                tracing::error!(%error, "the sandbox's server ended");
            }
        });
        tasks.close();
        Ok(Self { address, shared, tasks })
    }

    /// The base URL, to be used in place of Belvo's.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The strings to pull.
    pub fn control(&self) -> Control {
        Control::new(Arc::clone(&self.shared))
    }

    /// Answers what is being asked, then stops. Webhooks that are still waiting are lost.
    pub async fn shutdown(self) {
        self.shared.stop.cancel();
        self.tasks.wait().await;
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        self.shared.stop.cancel();
    }
}

/// What the server, the courier and the control handle share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: SandboxConfig,
    pub(crate) clock: Clock,
    pub(crate) stop: CancellationToken,
    /// Wakes the courier.
    pub(crate) wake: Notify,
    /// Changes whenever something was delivered or posted.
    pub(crate) changed: watch::Sender<u64>,
    world: Mutex<World>,
}

impl Shared {
    fn new(config: SandboxConfig) -> Self {
        let rules = Rules {
            data_delay_ms: clock::millis(config.data_delay),
            logins_until_invalid: config.logins_until_invalid.max(1),
            retry_step_ms: clock::millis(config.webhook_retry_step),
            deliveries_kept: config.deliveries_kept,
            schedule: config.schedule,
            repeats_while_broken: config.repeats_while_broken,
            consent_warnings: config.consent_warnings,
            monthly_wipe: config.monthly_wipe,
        };
        let clock = Clock::new(config.time);
        let authorization = config.webhook_authorization.clone();
        let target = config.webhook_url.clone().map(|url| Target { url, authorization });
        let mut world = World::new(rules, config.seed, target, config.payload_shape);
        world.rate_limit = RateLimit::new(config.requests_per_30s);
        world.plan_wipe(clock.now_ms());
        Self {
            world: Mutex::new(world),
            clock,
            stop: CancellationToken::new(),
            wake: Notify::new(),
            changed: watch::Sender::new(0),
            config,
        }
    }

    /// The state. Never held across an await.
    pub(crate) fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state, which everything that was due before has changed by then; wakes the courier and whoever
    /// watches.
    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut World, i64) -> T) -> T {
        let answer = {
            let mut world = self.world();
            let now = self.clock.now_ms();
            world.do_what_is_due(now);
            change(&mut world, now)
        };
        self.announce();
        answer
    }

    /// Moves time forward; what is due until then happens on the way, each at its own time.
    pub(crate) fn advance(&self, span_ms: impl FnOnce(i64) -> i64) {
        {
            let mut world = self.world();
            let span_ms = span_ms(self.clock.now_ms());
            world.do_what_is_due(self.clock.advance(span_ms));
        }
        self.announce();
    }

    /// Tells the courier and the watchers that something happened.
    fn announce(&self) {
        self.wake.notify_one();
        self.changed.send_modify(|count| *count += 1);
    }
}

/// Sleeps so long; without an end, for ever.
async fn sleep(nap: Option<Duration>) {
    match nap {
        Some(nap) => tokio::time::sleep(nap).await,
        None => std::future::pending().await,
    }
}
