//! The configuration of a sandbox.

use std::net::SocketAddr;
use std::time::Duration;

use secrecy::SecretString;

use crate::clock::SandboxTime;
use crate::webhook::PayloadShape;

/// How webhooks are delivered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WebhookDelivery {
    /// The sandbox sends them itself, over HTTP.
    #[default]
    Send,
    /// The program with the [`Control`](crate::Control) delivers them, with
    /// [`take_webhooks`](crate::Control::take_webhooks) and [`record_outcome`](crate::Control::record_outcome).
    ByHand,
}

/// The configuration of a sandbox.
#[derive(Clone, Debug)]
pub struct SandboxConfig {
    /// The address to listen on; port 0 selects a free port.
    pub listen: SocketAddr,
    /// The URL that receives webhooks; without it they are recorded and not sent.
    pub webhook_url: Option<String>,
    /// The whole `Authorization` value of each webhook, as typed into Belvo's dashboard.
    pub webhook_authorization: Option<SecretString>,
    /// The user of Basic auth.
    pub secret_id: String,
    /// The password of Basic auth.
    pub secret_password: SecretString,
    /// The timeout of a receiver. Belvo's integration checklists say five seconds.
    pub webhook_timeout: Duration,
    /// The maximum number of webhooks in transit at the same time. Belvo sends the webhooks of one refresh in parallel;
    /// the value 1 keeps webhooks in order.
    pub deliveries_at_once: usize,
    /// The first retry comes after one step, the second after two more, and so on. Belvo does not publish the length of
    /// a step.
    pub webhook_retry_step: Duration,
    /// The time from a creation, a repair or a refresh to its `historical_update` webhooks.
    pub data_delay: Duration,
    /// The number of failed logins that make a link `invalid`. Belvo's error reference says six.
    pub logins_until_invalid: u32,
    /// Which generation of Belvo's webhook body to send.
    pub payload_shape: PayloadShape,
    /// The maximum number of API calls in 30 seconds; `None` means no limit. Belvo's reference says 80.
    pub requests_per_30s: Option<u32>,
    /// The clock of the sandbox.
    pub time: SandboxTime,
    /// Whether Belvo's schedule runs: it refreshes recurrent links by their rate and ends consents on their date.
    /// Without it these events happen only on a call of the [`Control`](crate::Control).
    pub schedule: bool,
    /// Whether the schedule continues to refresh a broken link, with a webhook each time. A link with a consent has no
    /// login: after the end of its consent no webhooks are sent.
    pub repeats_while_broken: bool,
    /// Whether a scheduled refresh announces the end of a consent. At Belvo it is opt-in.
    pub consent_warnings: bool,
    /// Whether the schedule deletes all links on the first day of each month, as in Belvo's own sandbox.
    pub monthly_wipe: bool,
    /// Who delivers webhooks.
    pub delivery: WebhookDelivery,
    /// The maximum number of delivery records; the oldest are dropped first.
    pub deliveries_kept: usize,
    /// The seed of all ids.
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
