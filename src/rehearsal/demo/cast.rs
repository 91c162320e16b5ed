//! The parts of the demo: relink, the sandbox, the customer's application, and four users.

use std::path::Path;
use std::sync::Mutex;
use std::sync::PoisonError;

use anyhow::{Context as _, bail};
use belvo_sandbox::{AccessMode, Delivery, DeliveryOutcome, RefreshOutcome, Sandbox, SandboxConfig};
use secrecy::SecretString;
use serde_json::{Value, json};
use uuid::Uuid;

use super::screen::Screen;
use super::watch::{Heard, Watch};
use crate::config::{BelvoKeys, Config};
use crate::contract::{Record, StateWord};
use crate::link::{Policy, PolicySettings};
use crate::nats::server_binary::ServerSource;
use crate::service::Service;

/// The link of a user.
#[derive(Clone, Debug)]
pub(super) struct Person {
    name: String,
    institution: String,
    link: Uuid,
}

/// All parts, running.
pub(super) struct Cast {
    sandbox: Sandbox,
    service: Service,
    application: reqwest::Client,
    api_token: String,
    watch: Watch,
    people: Mutex<Vec<(Person, StateWord)>>,
}

impl Cast {
    pub(super) async fn start(
        screen: &Screen,
        mut config: Config,
        directory: &Path,
        server_source: ServerSource,
    ) -> anyhow::Result<Self> {
        let webhook_secret = format!("Bearer {}", Uuid::new_v4().simple());
        let api_token = Uuid::new_v4().simple().to_string();
        let sandbox = Sandbox::start(SandboxConfig::default()).await?;
        screen.act("belvo", &format!("relink's sandbox is at {}", sandbox.url()));
        config.http.listen = ([127, 0, 0, 1], 0).into();
        config.http.webhook_secrets = vec![webhook_secret.clone().into()];
        config.http.api_tokens = vec![api_token.clone().into()];
        directory.clone_into(&mut config.store.data_dir);
        config.belvo.keys = Some(BelvoKeys {
            url: sandbox.url(),
            secret_id: SecretString::from("sandbox"),
            secret_password: SecretString::from("sandbox"),
        });
        config.policy = Policy::new(PolicySettings { can_verify: true, ..config.policy.settings().clone() })?;
        let mut service = Service::start(&config, server_source).await?;
        service.running().await?;
        screen.act("nats", &format!("nats-server is at {}, durable, its own for this demo", service.nats_url()));
        screen.act("relink", &format!("is at http://{}", service.http_address()));
        let webhook_url = format!("http://{}/webhooks/belvo", service.http_address());
        sandbox.control().set_webhook(Some(webhook_url), Some(webhook_secret.into()));
        let watch = Watch::start(async_nats::connect(service.nats_url()).await?).await?;
        crate::tls::install();
        let application = reqwest::Client::builder().no_proxy().build()?;
        Ok(Self { sandbox, service, application, api_token, watch, people: Mutex::new(Vec::new()) })
    }

    pub(super) async fn stop(self) -> anyhow::Result<()> {
        self.sandbox.shutdown().await;
        self.service.stop().await
    }

    /// A link that was connected long ago; relink does not know it yet.
    pub(super) fn link(&self, name: &str, institution: &str) -> anyhow::Result<Person> {
        let link = self.sandbox.control().add_link(institution, AccessMode::Recurrent, Some(name))?;
        let person = Person { name: name.to_owned(), institution: institution.to_owned(), link };
        self.people().push((person.clone(), StateWord::Valid));
        Ok(person)
    }

    /// A scheduled refresh that succeeds: its webhooks make the link known to relink.
    pub(super) async fn data_arrives(&self, person: &Person) -> anyhow::Result<()> {
        self.sandbox.control().scheduled_refresh(person.link, RefreshOutcome::Ok)?;
        let state = format!("link.state.{}", person.link);
        let valid = |heard: &Heard| heard.subject == state && heard.body["state"] == "valid";
        self.watch.wait("the first word of the link", 0, valid).await.map(drop)
    }

    /// The bank asks for a new token when Belvo refreshes the link.
    pub(super) async fn bank_wants_a_token(&self, screen: &Screen, person: &Person) -> anyhow::Result<()> {
        self.refresh_fails(screen, person, RefreshOutcome::TokenRequired).await
    }

    /// The user has changed the password at the bank, and Belvo's next refresh cannot log in.
    pub(super) async fn password_was_changed(&self, screen: &Screen, person: &Person) -> anyhow::Result<()> {
        self.refresh_fails(screen, person, RefreshOutcome::LoginError).await
    }

    async fn refresh_fails(&self, screen: &Screen, person: &Person, outcome: RefreshOutcome) -> anyhow::Result<()> {
        let belvo = self.sandbox.control();
        belvo.scheduled_refresh(person.link, outcome)?;
        let is_it = |sent: &Delivery| sent.link_id == person.link && sent.webhook_type == "LINK";
        let sent = belvo.wait_for_delivery(0, is_it).await?;
        let DeliveryOutcome::Answered(status) = sent.outcome else { bail!("relink did not answer Belvo's webhook") };
        let what = format!(
            "{}'s refresh fails; POST /webhooks/belvo LINK/{} is answered {status}",
            person.name, sent.webhook_code
        );
        screen.act("belvo", &what);
        screen.pause().await;
        Ok(())
    }

    /// The customer's application calls Belvo, is answered with an error, and reports it.
    pub(super) async fn application_asks_for_accounts(&self, screen: &Screen, person: &Person) -> anyhow::Result<()> {
        let path = "/api/accounts/";
        let answer = self
            .application
            .post(format!("{}{path}", self.sandbox.url()))
            .basic_auth("sandbox", Some("sandbox"))
            .json(&json!({ "link": person.link }))
            .send()
            .await?;
        let status = answer.status().as_u16();
        let body: Value = answer.json().await?;
        screen.act("your app", &format!("POST {path} is answered {status} {}", body[0]["code"]));
        let report = json!({ "http_status": status, "method": "POST", "path": path, "body": body });
        self.post("/v1/api-errors", &report).await?;
        screen.act("your app", "POST /v1/api-errors: the answer as it came, relink finds the link in it");
        Ok(())
    }

    /// The user follows the prompt, gives what the bank wants, and the link comes back.
    pub(super) async fn user_repairs(&self, screen: &Screen, person: &Person) -> anyhow::Result<()> {
        let after = self.watch.len();
        let callback = self.open_widget(screen, person, "success").await?;
        let success = json!({ "event": "success", "link": callback["link"], "institution": callback["institution"] });
        self.post(&format!("/v1/links/{}/widget", person.link), &success).await?;
        screen.act(&person.name, "gives it; the widget calls back: success. Belvo is asked whether that is true");
        for notice in ["recovered", "refresh_due", "refreshed"] {
            self.hear(screen, person, notice, after).await?;
        }
        Ok(())
    }

    /// The user follows the prompt, and closes the widget.
    pub(super) async fn user_gives_up(&self, screen: &Screen, person: &Person) -> anyhow::Result<()> {
        let after = self.watch.len();
        let mut exit = self.open_widget(screen, person, "exit").await?;
        exit["event"] = json!("exit");
        self.post(&format!("/v1/links/{}/widget", person.link), &exit).await?;
        screen.act(&person.name, "closes the widget. Belvo is asked, in case it worked all the same");
        self.hear(screen, person, "update_failed", after).await?;
        self.expect_ending(person, StateWord::Invalid);
        Ok(())
    }

    /// Mints a token for update mode and plays the user's part in the widget; gives what the widget would call back.
    async fn open_widget(&self, screen: &Screen, person: &Person, outcome: &str) -> anyhow::Result<Value> {
        let after = self.watch.len();
        let minted = self.post(&format!("/v1/links/{}/update", person.link), &json!({})).await?;
        let Some(access) = minted["access"].as_str() else { bail!("no access token in the answer") };
        screen.act(&person.name, "clicks; your app mints an access token for this link (POST /v1/links/{id}/update)");
        self.hear(screen, person, "update_started", after).await?;
        let completed = self
            .application
            .post(format!("{}/widget/complete", self.sandbox.url()))
            .json(&json!({ "access_token": access, "outcome": outcome }))
            .send()
            .await?
            .error_for_status()?;
        Ok(completed.json().await?)
    }

    /// Waits for a notice about a link and shows it.
    pub(super) async fn expect(&self, screen: &Screen, person: &Person, notice: &str) -> anyhow::Result<()> {
        self.hear(screen, person, notice, 0).await
    }

    async fn hear(&self, screen: &Screen, person: &Person, notice: &str, after: usize) -> anyhow::Result<()> {
        let subject = format!("link.notice.{notice}.{}", person.link);
        let (_, heard) = self.watch.wait(&subject, after, |heard| heard.subject == subject).await?;
        let body = &heard.body;
        let because = &body["because"];
        let mut text = format!(
            "{} -> {}, because of {} ({})",
            word(&because["from"]),
            word(&because["to"]),
            word(&because["event"]),
            word(&because["origin"]["kind"])
        );
        for detail in ["action", "proof", "by", "attempt", "arrived"] {
            if !body[detail].is_null() {
                text.push_str(&format!(", {detail}: {}", body[detail]));
            }
        }
        screen.hear(&subject.replace(&person.link.to_string(), &format!("<{}>", person.name)), &text);
        screen.pause().await;
        Ok(())
    }

    async fn post(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        let url = format!("http://{}{path}", self.service.http_address());
        let answer = self.application.post(url).bearer_auth(&self.api_token).json(body).send().await?;
        let status = answer.status();
        let body: Value = answer.json().await.unwrap_or(Value::Null);
        if !status.is_success() {
            bail!("{path} was answered {status}: {body}");
        }
        Ok(body)
    }

    async fn get(&self, path: &str) -> anyhow::Result<Value> {
        let url = format!("http://{}{path}", self.service.http_address());
        let answer = self.application.get(url).bearer_auth(&self.api_token).send().await?;
        Ok(answer.error_for_status()?.json().await?)
    }

    /// Shows where every link ended, as relink answers it; whether all ended where they should, prompted exactly once.
    pub(super) async fn show_ending(&self, screen: &Screen) -> anyhow::Result<bool> {
        screen.heading(["link", "user", "institution", "state", "prompts"]);
        let mut all_well = true;
        let people = self.people().clone();
        for (person, expected) in people {
            let record: Record = serde_json::from_value(self.get(&format!("/v1/links/{}", person.link)).await?)
                .context("GET /v1/links/{id} is not a link's state")?;
            let prompt = format!("link.notice.update_required.{}", person.link);
            let prompts = self.watch.snapshot().iter().filter(|heard| heard.subject == prompt).count().to_string();
            let well = record.state == expected && prompts == "1";
            all_well &= well;
            let columns = [&record.link_id, &person.name, &person.institution, &prompts].map(String::as_str);
            screen.row(columns, record.state, well);
        }
        Ok(all_well)
    }

    /// How to look around while it runs.
    pub(super) fn show_around(&self, screen: &Screen) {
        let http = format!("http://{}", self.service.http_address());
        let token = &self.api_token;
        let link = self.people().last().map(|(person, _)| person.link.to_string()).unwrap_or_default();
        screen.title("Everything keeps running. Look around; Ctrl-C ends it.");
        let curl = format!("curl -s -H 'Authorization: Bearer {token}' {http}");
        screen.command("all links that need their user", &format!("{curl}/v1/links?state=invalid"));
        screen
            .command("why did this user get this message?", &format!("relink why {link} --url {http} --token {token}"));
        screen.command("everything relink decided about a link", &format!("{curl}/v1/links/{link}/history"));
        screen.command(
            "subscribe to the prompts, with any NATS client",
            &format!("nats --server {} sub 'link.notice.>'", self.service.nats_url()),
        );
        screen.command("break a link yourself", &format!(
            "curl -s -X POST {}/sandbox/links/{link}/scheduled-refresh -H 'content-type: application/json' -d '{{\"outcome\":\"token_required\"}}'",
            self.sandbox.url()
        ));
        screen.command("metrics", &format!("curl -s {http}/metrics"));
    }

    fn expect_ending(&self, person: &Person, state: StateWord) {
        for (known, expected) in self.people().iter_mut() {
            if known.link == person.link {
                *expected = state;
            }
        }
    }

    fn people(&self) -> std::sync::MutexGuard<'_, Vec<(Person, StateWord)>> {
        self.people.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn word(value: &Value) -> &str {
    value.as_str().unwrap_or("?")
}
