//! How a sandbox is set up.

use std::net::SocketAddr;
use std::time::Duration;

use secrecy::SecretString;

use crate::clock::SandboxTime;
use crate::webhook::PayloadShape;

/// Who delivers the webhooks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WebhookDelivery {
    /// The sandbox sends them itself, over HTTP.
    #[default]
    Send,
    /// The program that holds the [`Control`](crate::Control), by
    /// [`take_webhooks`](crate::Control::take_webhooks) and [`settle_webhook`](crate::Control::settle_webhook).
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
    /// Its clock.
    pub time: SandboxTime,
    /// Whether Belvo's own schedule runs: it refreshes recurrent links by their rate and ends consents on their day.
    /// Without it such things happen only when a test asks the [`Control`](crate::Control) for them.
    pub schedule: bool,
    /// Whether the schedule goes on refreshing a broken link, with a webhook each time. A link with a consent has no
    /// login: when its consent is over, no more webhooks are sent.
    pub repeats_while_broken: bool,
    /// Whether a scheduled refresh announces the end of a consent. At Belvo it is opt-in.
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
