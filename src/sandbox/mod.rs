//! Belvo in a box: a stand-in for Belvo that behaves like Belvo, for demos and tests.
//!
//! Belvo's own sandbox sends no LINK webhooks and cannot make a link `invalid`, so nobody can rehearse a broken link
//! there. Here every road can be walked: the API of links with its errors, the widget, the webhooks with their retries,
//! and faults in all of them. It shares no code with the rooms it tests (only the clock), so a mistake of ours about
//! Belvo would have to be made twice to go unnoticed.
//!
//! A tour: `link` and `world` are the state; `bank` is a login and `schedule` what Belvo does by itself;
//! `webhook` is what is said, `post_box` where it waits and `courier` how it is delivered; `api` is Belvo's HTTP, `widget` the page a user
//! would see, `control` the strings to pull, in process and over HTTP. [`scenario`] plays whole
//! stories.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use secrecy::SecretString;
use tokio::net::TcpListener;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

mod clock;
mod institution;
mod link;
mod problem;
mod webhook;

mod consent;
mod fault;
mod post_box;
mod world;

mod bank;
mod schedule;

mod api;
mod courier;
mod widget;

mod cli;
mod control;
mod control_http;

pub mod scenario;

pub use cli::{SandboxArgs, run};
pub use control::{Control, ControlError, NewWebhook};
pub use fault::{ApiFault, WebhookFault};
pub use link::{AccessMode, LinkStatus, Login, LoginFailure};
pub use post_box::{Delivery, DeliveryOutcome};
pub use schedule::RefreshOutcome;
pub use webhook::PayloadShape;

use clock::Clock;
use world::{Rules, Target, World};

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
    /// The first retry comes after one step, the second after two more, and so on. Belvo does not say how long it is.
    pub webhook_retry_step: Duration,
    /// How soon the `historical_update` webhooks follow a creation, a repair or a refresh.
    pub data_delay: Duration,
    /// How many failed logins make a link `invalid`. Belvo's error reference says six.
    pub logins_until_invalid: u32,
    /// Which generation of Belvo's webhook body to send.
    pub payload_shape: PayloadShape,
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
            webhook_retry_step: Duration::from_secs(10),
            data_delay: Duration::from_millis(300),
            logins_until_invalid: 6,
            payload_shape: PayloadShape::Current,
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
    /// Listens, and starts delivering webhooks.
    pub async fn start(config: SandboxConfig) -> Result<Self, SandboxError> {
        let address = config.listen;
        let failed = |source| SandboxError::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        crate::tls::install();
        let client = reqwest::Client::builder().no_proxy().build().map_err(SandboxError::Client)?;

        let shared = Arc::new(Shared::new(config));
        let tasks = TaskTracker::new();
        tasks.spawn(courier::run(Arc::clone(&shared), client));
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
        };
        let authorization = config.webhook_authorization.clone();
        let target = config.webhook_url.clone().map(|url| Target { url, authorization });
        Self {
            world: Mutex::new(World::new(rules, config.seed, target, config.payload_shape)),
            clock: Clock::default(),
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

    /// Changes the state, then wakes the courier and whoever watches.
    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut World, i64) -> T) -> T {
        let answer = change(&mut self.world(), self.clock.now_ms());
        self.announce();
        answer
    }

    /// Tells the courier and the watchers that something happened.
    pub(crate) fn announce(&self) {
        self.wake.notify_one();
        self.changed.send_modify(|count| *count += 1);
    }
}
