//! The parts: relink, its nats-server, the sandbox and a subscriber.

use std::time::Duration;

use anyhow::Context as _;
use belvo_sandbox::{Control, Sandbox, SandboxConfig};
use secrecy::{ExposeSecret, SecretString};
use uuid::Uuid;

use super::screen::Screen;
use super::subscriber::Subscriber;
use crate::config::{BelvoKeys, Config};
use crate::link::{Policy, PolicySettings};
use crate::nats::connection::Access;
use crate::nats::server_binary::ServerSource;
use crate::service::Service;

/// The running parts.
pub(in crate::rehearsal) struct Local {
    pub(in crate::rehearsal) sandbox: Sandbox,
    pub(in crate::rehearsal) service: Service,
    pub(in crate::rehearsal) subscriber: Subscriber,
    pub(in crate::rehearsal) api_token: String,
    /// The value of `Authorization` in webhooks.
    pub(in crate::rehearsal) webhook_secret: String,
    pub(in crate::rehearsal) nats_url: SecretString,
    /// The least time between two messages to a person.
    pub(in crate::rehearsal) reminder_pause: Duration,
}

/// The least time between two messages to a person, in place of the default of a day.
const TRIAL_PAUSE: Duration = Duration::from_secs(1);

impl Local {
    /// Starts all parts. `prepare` can add links to the sandbox before relink reads them. With `is_trial_pause`, a person may get a message
    /// each second.
    ///
    /// # Errors
    /// If one of them cannot be started.
    pub(in crate::rehearsal) async fn start(
        screen: &Screen,
        mut config: Config,
        is_trial_pause: bool,
        sandbox: SandboxConfig,
        api_token: String,
        server_source: ServerSource,
        prepare: impl FnOnce(&Control) -> anyhow::Result<()>,
    ) -> anyhow::Result<Self> {
        // The sandbox sends the first value that relink accepts; relink goes on accepting the others too.
        if config.http.webhook_secrets.is_empty() {
            config.http.webhook_secrets = vec![format!("Bearer {}", Uuid::new_v4().simple()).into()];
        }
        let webhook_secret = config.http.webhook_secrets[0].expose_secret().to_owned();
        let sandbox = Sandbox::start(sandbox).await?;
        prepare(&sandbox.control())?;
        screen.action("belvo", &format!("relink's sandbox is at {}", sandbox.url()));
        config.http.api_tokens = vec![api_token.clone().into()];
        config.nats.url = None;
        config.nats.access = None;
        config.belvo.keys = Some(BelvoKeys {
            url: sandbox.url(),
            secret_id: SecretString::from("sandbox"),
            secret_password: SecretString::from("sandbox"),
        });
        config.belvo.widget_url = format!("{}/widget/", sandbox.url());
        config.belvo.portal_url = format!("{}/portal/", sandbox.url());
        if let Some(repair) = &mut config.repair {
            repair.script_url = format!("{}/widget/script.js", sandbox.url());
        }
        let settings = config.policy.settings().clone();
        // Somebody who tries relink breaks the same link several times, and does not wait for a day.
        let reminder_pause = if is_trial_pause { TRIAL_PAUSE } else { settings.reminder_pause };
        config.policy = Policy::new(PolicySettings { can_verify: true, reminder_pause, ..settings })?;
        let mut service = Service::start(&config, server_source).await?;
        service.running().await?;
        screen.action("nats", &format!("nats-server is at {}, durable, its own", service.nats_url()));
        screen.action("relink", &format!("is at http://{}", service.http_address()));
        let webhook_url = format!("http://{}/webhooks/belvo", service.http_address());
        sandbox.control().set_webhook(Some(webhook_url), Some(webhook_secret.clone().into()));
        let nats_url = service.own_nats_url_with_login().context("relink has its own nats-server here")?;
        let access = Access::of_urls([nats_url.expose_secret()])?;
        let subscriber = Subscriber::start(access.connect("relink's terminal").await?).await?;
        Ok(Self { sandbox, service, subscriber, api_token, webhook_secret, nats_url, reminder_pause })
    }

    /// The address of relink.
    pub(in crate::rehearsal) fn relink_url(&self) -> String {
        format!("http://{}", self.service.http_address())
    }

    pub(in crate::rehearsal) async fn stop(self) -> anyhow::Result<()> {
        self.sandbox.shutdown().await;
        self.service.stop().await
    }
}

/// A text as one word of sh, bash and zsh.
pub(in crate::rehearsal) fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}
