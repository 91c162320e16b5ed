//! The actions of Belvo, of the user and of the customer's application.

use std::time::Duration;

use belvo_sandbox::{AccessMode, NewWebhook};
use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use super::actions::{AppAction, BelvoAction, UserAction};
use super::error::PlayError;
use super::http::Response;
use super::player::Player;
use super::values::Answered;

/// The default time between the warning about a consent and its end.
const CONSENT_WARNING: Duration = Duration::from_secs(7 * 24 * 3_600);

/// The required response of a call, if the file has one, and whether the app reports an error to relink.
type Expected<'a> = (Option<&'a Answered>, bool);

impl Player<'_> {
    // --- Belvo ---

    pub(super) async fn belvo(&mut self, action: &BelvoAction) -> Result<(), PlayError> {
        match action {
            BelvoAction::Refreshes { link, outcome } => {
                self.control.scheduled_refresh(self.id(link)?, *outcome)?;
            }
            BelvoAction::Sends { link, r#type, code, process_type, refresh, data, delay } => {
                let request_id = refresh.clone().map(|label| *self.refreshes.entry(label).or_insert_with(Uuid::new_v4));
                let new = NewWebhook {
                    webhook_type: r#type.clone(),
                    webhook_code: code.clone(),
                    process_type: process_type.clone(),
                    request_id,
                    data: data.clone(),
                    delay: delay.0,
                };
                self.control.send_webhook(self.id(link)?, new);
            }
            BelvoAction::Repeats { link, code, times, delay } => {
                let id = self.id(link)?;
                let sent = self.control.deliveries(0);
                let latest = sent.iter().rfind(|sent| sent.link_id == id && sent.webhook_code == *code);
                let none = || PlayError::Unexpected(format!("no webhook `{code}` of `{link}` has been sent yet"));
                let seq = latest.ok_or_else(none)?.seq;
                for _ in 0..*times {
                    self.control.replay(seq, delay.0)?;
                }
            }
            BelvoAction::SetsStatus { link, status } => self.control.set_status(self.id(link)?, *status)?,
            BelvoAction::Fails { error, call, times } => self.control.fail_api(error.0.clone(), *times, call)?,
            BelvoAction::Mishandles { webhook, delay, times } => {
                self.control.fail_webhooks(webhook.fault(*delay), *times);
            }
            BelvoAction::HasNothingNew { link } => self.control.set_fresh_data(self.id(link)?, false)?,
            BelvoAction::AnnouncesConsentEnd { link, within } => {
                self.control.consent_about_to_expire(self.id(link)?, within.map_or(CONSENT_WARNING, |span| span.0))?;
            }
            BelvoAction::EndsConsent { link } => self.control.expire_consent(self.id(link)?)?,
            BelvoAction::Wipes {} => {
                self.control.wipe();
            }
            BelvoAction::ReportsInstitution { institution, status } => {
                self.relink.report_institution(institution, (*status).into()).await?;
            }
            BelvoAction::ChangesPayload { shape } => self.control.set_payload_shape(*shape),
            BelvoAction::AdvancesClock { span } => self.control.advance(span.0),
        }
        Ok(())
    }

    // --- the user ---

    pub(super) async fn user(&mut self, action: &UserAction) -> Result<(), PlayError> {
        match action {
            UserAction::OpensWidget { link } => {
                let minted = self.relink.post(&format!("/v1/links/{}/update", self.id(link)?), &json!({})).await?;
                let Some(access) = minted["access"].as_str() else {
                    return Err(PlayError::Unexpected("relink minted no token".to_owned()));
                };
                self.tokens.insert(link.clone(), access.to_owned());
                Ok(())
            }
            UserAction::Waits { link } => self.call_back(link, true, &json!({"event": "waiting"})).await,
            UserAction::Succeeds { link, reported } => {
                let callback = self.in_widget(link, "success").await?;
                let callback =
                    json!({"event": "success", "link": callback["link"], "institution": callback["institution"]});
                self.call_back(link, *reported, &callback).await
            }
            UserAction::Mistypes { link } => self.in_widget(link, "wrong_password").await.map(drop),
            UserAction::ClosesWidget { link, reported } => {
                let mut callback = self.in_widget(link, "exit").await?;
                callback["event"] = json!("exit");
                self.call_back(link, *reported, &callback).await
            }
            // The user has found the portal without a token of relink.
            UserAction::RenewsConsent { link, reported: false } => Ok(self.control.renew_consent(self.id(link)?)?),
            UserAction::ConnectsAnew { link, old } => {
                let id = self.control.connect_anew(self.id(old)?)?;
                self.ids.push((link.clone(), id));
                Ok(())
            }
            UserAction::RenewsConsent { link, reported: true } => self.renew_consent(link).await,
        }
    }

    /// Opens the portal at the address that relink returns, and renews the consent.
    async fn renew_consent(&self, link: &str) -> Result<(), PlayError> {
        let person = json!({"type": "CPF", "number": "76109277673", "name": "Ralph Bragg"});
        let request = json!({"widget": {"consent": {"identification_info": [person]}}});
        let minted = self.relink.post(&format!("/v1/links/{}/update", self.id(link)?), &request).await?;
        self.belvo.renew_consent(minted["widget_url"].as_str().unwrap_or_default()).await
    }

    async fn in_widget(&self, link: &str, outcome: &str) -> Result<Value, PlayError> {
        let Some(token) = self.tokens.get(link) else {
            return Err(PlayError::Unexpected(format!("the user of `{link}` has not opened the widget")));
        };
        self.belvo.complete_widget(token, outcome).await
    }

    /// The app reports a callback of the widget to relink, if `reported`.
    async fn call_back(&self, link: &str, reported: bool, callback: &Value) -> Result<(), PlayError> {
        if !reported {
            return Ok(());
        }
        self.relink.post(&format!("/v1/links/{}/widget", self.id(link)?), callback).await.map(drop)
    }

    // --- the customer's application ---

    pub(super) async fn app(&mut self, action: &AppAction) -> Result<(), PlayError> {
        match action {
            AppAction::Calls { link, call, answered, reported } => {
                let id = self.id(link)?;
                let path = call.path.replace("{link}", &id.to_string());
                // The date is for transactions; the other resources ignore it.
                let body = json!({"link": id, "date_from": "2026-01-01"});
                let is_post = call.method == "POST";
                let method = if is_post { Method::POST } else { Method::GET };
                let response = self.belvo.call(method, &path, is_post.then_some(&body)).await?;
                self.take_answer(link, &call.method, &path, (answered.as_ref(), *reported), response).await.map(drop)
            }
            AppAction::Registers { link, password, answered, reported } => {
                self.register(link, password, (answered.as_ref(), *reported)).await
            }
            AppAction::ChangesPassword { link, password, answered, reported } => {
                let path = format!("/api/links/{}/", self.id(link)?);
                let body = json!({"password": password});
                let response = self.belvo.call(Method::PUT, &path, Some(&body)).await?;
                let is_done = self.take_answer(link, "PUT", &path, (answered.as_ref(), *reported), response).await?;
                self.report_update(link, is_done && *reported).await
            }
            AppAction::Resumes { link, token, answered, reported } => {
                let session = self.sessions.get(link).cloned().unwrap_or_default();
                let body = json!({"session": session, "token": token, "link": self.id(link)?});
                let response = self.belvo.call(Method::PATCH, "/api/links/", Some(&body)).await?;
                let is_done =
                    self.take_answer(link, "PATCH", "/api/links/", (answered.as_ref(), *reported), response).await?;
                self.report_update(link, is_done && *reported).await
            }
            AppAction::Reports { link, call, status, errors } => {
                let path = call.path.replace("{link}", &self.id(link)?.to_string());
                let response = Response { status: status.0, body: errors.clone() };
                self.report(link, &call.method, &path, &response).await
            }
            AppAction::Deletes { link, later } => self.delete(link, *later).await,
            AppAction::Commands { link, command } => {
                let path = format!("/v1/links/{}/commands", self.id(link)?);
                self.relink.post(&path, &json!({"command": command, "by": "scenario"})).await.map(drop)
            }
        }
    }

    /// `POST /api/links/`: the link exists from then on, even if the login is not complete.
    async fn register(&mut self, link: &str, password: &str, answer: Expected<'_>) -> Result<(), PlayError> {
        let Some(setup) = self.links.get(link) else { return self.id(link).map(drop) };
        let body = json!({
            "institution": setup.institution,
            "username": "user",
            "password": password,
            "access_mode": setup.access_mode.unwrap_or(AccessMode::Recurrent),
            "external_id": setup.external_id.as_deref().unwrap_or(link),
            "refresh_rate": setup.refresh_rate,
        });
        let response = self.belvo.call(Method::POST, "/api/links/", Some(&body)).await?;
        let named = if response.is_ok() { &response.body["id"] } else { &response.body[0]["link"] };
        let id: Option<Uuid> = named.as_str().and_then(|id| id.parse().ok());
        self.ids.extend(id.map(|id| (link.to_owned(), id)));
        self.take_answer(link, "POST", "/api/links/", answer, response).await.map(drop)
    }

    async fn delete(&self, link: &str, later: bool) -> Result<(), PlayError> {
        let url = format!("{}/api/links/{}/", self.belvo.url, self.id(link)?);
        let response = self.belvo.delete(&url, later).await?;
        if response.is_ok() {
            return Ok(());
        }
        Err(PlayError::Unexpected(format!("Belvo response {}: {}", response.status, response.body)))
    }

    /// Checks a response of Belvo against the file and reports an error to relink; returns whether the call succeeded.
    async fn take_answer(
        &mut self,
        link: &str,
        method: &str,
        path: &str,
        (answered, reported): Expected<'_>,
        response: Response,
    ) -> Result<bool, PlayError> {
        let status_fits = answered.is_none_or(|answered| answered.status == response.status);
        let code = answered.and_then(|answered| answered.code.as_deref());
        let code_fits = code.is_none() || code == response.code();
        if !status_fits || !code_fits {
            let problem = format!("Belvo response {}: {}", response.status, response.body);
            return Err(PlayError::Unexpected(problem));
        }
        if let Some(session) = response.body[0]["session"].as_str() {
            self.sessions.insert(link.to_owned(), session.to_owned());
        }
        if reported && !response.is_ok() {
            self.report(link, method, path, &response).await?;
        }
        Ok(response.is_ok())
    }

    async fn report(&self, link: &str, method: &str, path: &str, response: &Response) -> Result<(), PlayError> {
        let mut report = json!({"http_status": response.status, "method": method, "path": path, "body": response.body});
        // A failed registration has no link id.
        if let Ok(id) = self.id(link) {
            report["link_id"] = json!(id);
        }
        self.relink.post("/v1/api-errors", &report).await.map(drop)
    }

    async fn report_update(&self, link: &str, is_reported: bool) -> Result<(), PlayError> {
        self.call_back(link, is_reported, &json!({"event": "updated"})).await
    }
}
