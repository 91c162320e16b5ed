//! The environment of the demo: relink, the sandbox, the customer's application, and four users.

use std::path::Path;
use std::sync::Mutex;
use std::sync::PoisonError;

use anyhow::{Context as _, bail};
use belvo_sandbox::{AccessMode, Delivery, DeliveryOutcome, RefreshOutcome, SandboxConfig};
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::config::Config;
use crate::contract::{Record, StateWord};
use crate::nats::server_binary::ServerSource;
use crate::rehearsal::local::{Local, Received, Screen, quoted, transition};

/// A user with a link.
#[derive(Clone, Debug)]
pub(super) struct User {
    name: String,
    institution: String,
    link: Uuid,
}

/// The running parts of the demo.
pub(super) struct Environment {
    local: Local,
    application: reqwest::Client,
    users: Mutex<Vec<(User, StateWord)>>,
}

impl Environment {
    pub(super) async fn start(
        screen: &Screen,
        mut config: Config,
        directory: &Path,
        server_source: ServerSource,
    ) -> anyhow::Result<Self> {
        config.http.listen = ([127, 0, 0, 1], 0).into();
        directory.clone_into(&mut config.store.data_dir);
        let api_token = Uuid::new_v4().simple().to_string();
        let local =
            Local::start(screen, config, true, SandboxConfig::default(), api_token, server_source, |_| Ok(())).await?;
        let application = crate::direct::client().build()?;
        Ok(Self { local, application, users: Mutex::new(Vec::new()) })
    }

    pub(super) async fn stop(self) -> anyhow::Result<()> {
        self.local.stop().await
    }

    /// relink, NATS and the sandbox.
    pub(super) const fn local(&self) -> &Local {
        &self.local
    }

    /// Adds a link at Belvo; relink does not know it yet.
    pub(super) fn link(&self, name: &str, institution: &str) -> anyhow::Result<User> {
        let link = self.local.sandbox.control().add_link(institution, AccessMode::Recurrent, Some(name))?;
        let user = User { name: name.to_owned(), institution: institution.to_owned(), link };
        self.users().push((user.clone(), StateWord::Valid));
        Ok(user)
    }

    /// Runs a successful scheduled refresh: its webhooks make the link known to relink, which then reads it from Belvo.
    pub(super) async fn data_arrives(&self, user: &User) -> anyhow::Result<()> {
        self.local.sandbox.control().scheduled_refresh(user.link, RefreshOutcome::Ok)?;
        let state = format!("$KV.links.{}", user.link);
        // A prompt of a link that relink has not read yet would come after a read that the story does not show.
        let is_read = |received: &Received| {
            received.subject == state && received.body["state"] == "valid" && received.body["institution"].is_string()
        };
        self.local.subscriber.wait("the first read of the link", 0, is_read).await.map(drop)
    }

    /// The bank requires a new token when Belvo refreshes the link.
    pub(super) async fn bank_requires_token(&self, screen: &Screen, user: &User) -> anyhow::Result<()> {
        self.refresh_fails(screen, user, RefreshOutcome::TokenRequired).await
    }

    /// The user has changed the password at the bank, and Belvo's next refresh cannot log in.
    pub(super) async fn user_changes_password(&self, screen: &Screen, user: &User) -> anyhow::Result<()> {
        self.refresh_fails(screen, user, RefreshOutcome::LoginError).await
    }

    async fn refresh_fails(&self, screen: &Screen, user: &User, outcome: RefreshOutcome) -> anyhow::Result<()> {
        let belvo = self.local.sandbox.control();
        belvo.scheduled_refresh(user.link, outcome)?;
        let matches = |sent: &Delivery| sent.link_id == user.link && sent.webhook_type == "LINK";
        let sent = belvo.wait_for_delivery(0, matches).await?;
        let DeliveryOutcome::Answered(status) = sent.outcome else { bail!("relink did not answer Belvo's webhook") };
        let what = format!(
            "refresh of {}'s link fails; POST /webhooks/belvo LINK/{} is answered {status}",
            user.name, sent.webhook_code
        );
        screen.action("belvo", &what);
        screen.pause().await;
        Ok(())
    }

    /// The customer's application calls Belvo, gets an error, and reports it.
    pub(super) async fn application_calls_accounts(&self, screen: &Screen, user: &User) -> anyhow::Result<()> {
        let path = "/api/accounts/";
        let answer = self
            .application
            .post(format!("{}{path}", self.local.sandbox.url()))
            .basic_auth("sandbox", Some("sandbox"))
            .json(&json!({ "link": user.link }))
            .send()
            .await?;
        let status = answer.status().as_u16();
        let body: Value = answer.json().await?;
        screen.action("your app", &format!("POST {path} is answered {status} {}", body[0]["code"]));
        let report = json!({ "http_status": status, "method": "POST", "path": path, "body": body });
        self.post("/v1/api-errors", &report).await?;
        screen.action("your app", "POST /v1/api-errors with the unchanged response; relink finds the link in it");
        Ok(())
    }

    /// The user follows the prompt, enters the required value, and the link recovers.
    pub(super) async fn user_repairs(&self, screen: &Screen, user: &User) -> anyhow::Result<()> {
        let after = self.local.subscriber.len();
        let callback = self.open_widget(screen, user, "success").await?;
        let success = json!({ "event": "success", "link": callback["link"], "institution": callback["institution"] });
        self.post(&format!("/v1/links/{}/widget", user.link), &success).await?;
        screen.action(&user.name, "enters the value; the widget calls back: success. relink verifies it with Belvo");
        for notice in ["recovered", "refresh_due", "refreshed"] {
            self.wait_for_notice(screen, user, notice, after).await?;
        }
        Ok(())
    }

    /// The user follows the prompt and closes the widget.
    pub(super) async fn user_closes_widget(&self, screen: &Screen, user: &User) -> anyhow::Result<()> {
        let after = self.local.subscriber.len();
        let mut exit = self.open_widget(screen, user, "exit").await?;
        exit["event"] = json!("exit");
        self.post(&format!("/v1/links/{}/widget", user.link), &exit).await?;
        screen.action(&user.name, "closes the widget. relink reads the link, in case the repair succeeded anyway");
        self.wait_for_notice(screen, user, "update_failed", after).await?;
        self.expect_final_state(user, StateWord::Invalid);
        Ok(())
    }

    /// Mints a token for update mode and completes the widget; returns the widget's callback.
    async fn open_widget(&self, screen: &Screen, user: &User, outcome: &str) -> anyhow::Result<Value> {
        let after = self.local.subscriber.len();
        let minted = self.post(&format!("/v1/links/{}/update", user.link), &json!({})).await?;
        let Some(access) = minted["access"].as_str() else { bail!("no access token in the response") };
        screen.action(&user.name, "opens the prompt; your app requests an access token (POST /v1/links/{id}/update)");
        self.wait_for_notice(screen, user, "update_started", after).await?;
        let completed = self
            .application
            .post(format!("{}/widget/complete", self.local.sandbox.url()))
            .json(&json!({ "access_token": access, "outcome": outcome }))
            .send()
            .await?
            .error_for_status()?;
        Ok(completed.json().await?)
    }

    /// Waits for a notice about a link and prints it.
    pub(super) async fn expect(&self, screen: &Screen, user: &User, notice: &str) -> anyhow::Result<()> {
        self.wait_for_notice(screen, user, notice, 0).await
    }

    async fn wait_for_notice(&self, screen: &Screen, user: &User, notice: &str, after: usize) -> anyhow::Result<()> {
        let subject = format!("link.notice.{notice}.{}", user.link);
        let (_, received) = self.local.subscriber.wait(&subject, after, |received| received.subject == subject).await?;
        let body = &received.body;
        let text = transition(body);
        screen.notice(&subject.replace(&user.link.to_string(), &format!("<{}>", user.name)), &text);
        screen.pause().await;
        Ok(())
    }

    async fn post(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        let url = format!("http://{}{path}", self.local.service.http_address());
        let answer = self.application.post(url).bearer_auth(&self.local.api_token).json(body).send().await?;
        let status = answer.status();
        let body: Value = answer.json().await.unwrap_or(Value::Null);
        if !status.is_success() {
            bail!("{path} was answered {status}: {body}");
        }
        Ok(body)
    }

    async fn get(&self, path: &str) -> anyhow::Result<Value> {
        let url = format!("http://{}{path}", self.local.service.http_address());
        let answer = self.application.get(url).bearer_auth(&self.local.api_token).send().await?;
        Ok(answer.error_for_status()?.json().await?)
    }

    /// Prints the final state of every link from relink's API; returns whether all are correct, with exactly one prompt each.
    pub(super) async fn show_final_states(&self, screen: &Screen) -> anyhow::Result<bool> {
        screen.heading(["link", "user", "institution", "state", "prompts"]);
        let mut all_correct = true;
        let users = self.users().clone();
        for (user, expected) in users {
            let record = self.get(&format!("/v1/links/{}", user.link)).await?;
            let record: Record = serde_json::from_value(record).context("GET /v1/links/{id} is not a link's state")?;
            let prompt = format!("link.notice.update_required.{}", user.link);
            let prompts = self
                .local
                .subscriber
                .snapshot()
                .iter()
                .filter(|received| received.subject == prompt)
                .count()
                .to_string();
            let is_correct = record.state == expected && prompts == "1";
            all_correct &= is_correct;
            let columns = [&record.link_id, &user.name, &user.institution, &prompts].map(String::as_str);
            screen.row(columns, record.state, is_correct);
        }
        Ok(all_correct)
    }

    /// Prints commands to explore the running demo. They work as they are printed, in sh, bash and zsh.
    ///
    /// # Errors
    /// The path of this program is unknown.
    pub(super) fn show_commands(&self, screen: &Screen) -> anyhow::Result<()> {
        let (http, token) = (self.local.relink_url(), &self.local.api_token);
        let users = self.users();
        let first_that = |wanted: StateWord| {
            let found = users.iter().find(|(_, state)| *state == wanted);
            found.map(|(user, _)| user.link.to_string()).unwrap_or_default()
        };
        let (broken, valid) = (first_that(StateWord::Invalid), first_that(StateWord::Valid));
        screen.title("The demo keeps running and prints what happens. Try these commands in another terminal; Ctrl-C here ends it.");
        let curl = |paths: &[&str]| {
            let urls = paths.iter().map(|path| quoted(&format!("{http}{path}"))).collect::<Vec<_>>().join(" ");
            format!("curl -s -H 'Authorization: Bearer {token}' {urls}")
        };
        // `relink` is usually not on PATH after `cargo run`.
        let relink = quoted(&std::env::current_exe()?.display().to_string());
        screen.command(
            "all links that need their user",
            &curl(&["/v1/links?state=invalid", "/v1/links?state=token_required"]),
        );
        screen.command(
            "why this link is in its state",
            &format!("{relink} why {broken} --url {} --token {}", quoted(&http), quoted(token)),
        );
        screen.command("all transitions of a link", &curl(&[&format!("/v1/links/{broken}/history")]));
        screen.command(
            "subscribe to the notices, with any NATS client",
            &format!("nats --server {} sub 'link.notice.>'", quoted(self.local.nats_url.expose_secret())),
        );
        let refresh = format!("{}/sandbox/links/{valid}/scheduled-refresh", self.local.sandbox.url());
        screen.command(
            "break a link that works",
            &format!(
                "curl -s -X POST {} -H 'content-type: application/json' -d '{{\"outcome\":\"token_required\"}}'",
                quoted(&refresh)
            ),
        );
        screen.command("metrics", &format!("curl -s {}", quoted(&format!("{http}/metrics"))));
        Ok(())
    }

    fn expect_final_state(&self, user: &User, state: StateWord) {
        for (known, expected) in self.users().iter_mut() {
            if known.link == user.link {
                *expected = state;
            }
        }
    }

    fn users(&self) -> std::sync::MutexGuard<'_, Vec<(User, StateWord)>> {
        self.users.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
