//! What Belvo, the user and the customer's application do in a story.

use belvo_sandbox::{ApiFault, NewWebhook};
use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use super::PlayError;
use super::outside::Answered;
use super::player::Player;
use super::script::{Answer, AppDeed, BelvoDeed, UserDeed};

impl Player<'_> {
    // --- Belvo ---

    pub(super) fn belvo_does(&mut self, deed: &BelvoDeed) -> Result<(), PlayError> {
        match deed {
            BelvoDeed::Refreshes { link, outcome } => {
                self.control.scheduled_refresh(self.id(link)?, *outcome)?;
            }
            BelvoDeed::Sends { link, webhook } => {
                let webhook = webhook.clone();
                let request_id = webhook.refresh.map(|label| *self.refreshes.entry(label).or_insert_with(Uuid::new_v4));
                let new = NewWebhook {
                    webhook_type: webhook.family,
                    webhook_code: webhook.code,
                    process_type: webhook.process_type,
                    request_id,
                    data: webhook.data,
                    delay: webhook.delay,
                };
                self.control.send_webhook(self.id(link)?, new);
            }
            BelvoDeed::Repeats { link, code, times, delay } => {
                let id = self.id(link)?;
                let sent = self.control.deliveries(0);
                let latest = sent.iter().rfind(|sent| sent.link_id == id && sent.webhook_code == *code);
                let none = || PlayError::Unexpected(format!("no webhook `{code}` of `{link}` has been sent yet"));
                let seq = latest.ok_or_else(none)?.seq;
                for _ in 0..*times {
                    self.control.replay(seq, *delay)?;
                }
            }
            BelvoDeed::SetsStatus { link, status } => self.control.set_status(self.id(link)?, *status)?,
            BelvoDeed::Fails { on, error, times } => {
                self.control.fail_api(ApiFault::Error(error.clone()), *times, on)?;
            }
            BelvoDeed::Mishandles { fault, times } => self.control.fail_webhooks(fault.clone(), *times),
            BelvoDeed::HasNothingNew { link } => self.control.set_fresh_data(self.id(link)?, false)?,
            BelvoDeed::AnnouncesConsentEnd { link, within } => {
                self.control.consent_about_to_expire(self.id(link)?, *within)?;
            }
            BelvoDeed::EndsConsent { link } => self.control.expire_consent(self.id(link)?)?,
            BelvoDeed::Wipes => {
                self.control.wipe();
            }
            BelvoDeed::Speaks { shape } => self.control.set_payload_shape(*shape),
            BelvoDeed::LetsPass { span } => self.control.advance(*span),
        }
        Ok(())
    }

    // --- the user ---

    pub(super) async fn user_does(&mut self, deed: &UserDeed) -> Result<(), PlayError> {
        match deed {
            UserDeed::OpensWidget { link } => {
                let minted = self.relink.post(&format!("/v1/links/{}/update", self.id(link)?), &json!({})).await?;
                let Some(access) = minted["access"].as_str() else {
                    return Err(PlayError::Unexpected("relink minted no token".to_owned()));
                };
                self.tokens.insert(link.clone(), access.to_owned());
                Ok(())
            }
            UserDeed::Succeeds { link, unheard } => {
                let callback = self.in_widget(link, "success").await?;
                let heard =
                    json!({"event": "success", "link": callback["link"], "institution": callback["institution"]});
                self.call_back(link, *unheard, &heard).await
            }
            UserDeed::Mistypes { link } => self.in_widget(link, "wrong_password").await.map(drop),
            UserDeed::ClosesWidget { link, unheard } => {
                let mut callback = self.in_widget(link, "exit").await?;
                callback["event"] = json!("exit");
                self.call_back(link, *unheard, &callback).await
            }
            // Found by the user, with a token that relink did not mint.
            UserDeed::RenewsConsent { link, unheard: true } => Ok(self.control.renew_consent(self.id(link)?)?),
            UserDeed::RenewsConsent { link, unheard: false } => self.renew_consent(link).await,
        }
    }

    /// Goes to the portal by the address that relink hands out.
    async fn renew_consent(&self, link: &str) -> Result<(), PlayError> {
        let person = json!({"type": "CPF", "number": "76109277673", "name": "Ralph Bragg"});
        let wishes = json!({"widget": {"consent": {"identification_info": [person]}}});
        let minted = self.relink.post(&format!("/v1/links/{}/update", self.id(link)?), &wishes).await?;
        self.belvo.renew_consent(minted["widget_url"].as_str().unwrap_or_default()).await
    }

    async fn in_widget(&self, link: &str, outcome: &str) -> Result<Value, PlayError> {
        let Some(token) = self.tokens.get(link) else {
            return Err(PlayError::Unexpected(format!("the user of `{link}` has not opened the widget")));
        };
        self.belvo.complete_widget(token, outcome).await
    }

    /// What the widget tells the app and the app tells relink, unless it never does.
    async fn call_back(&self, link: &str, unheard: bool, callback: &Value) -> Result<(), PlayError> {
        if unheard {
            return Ok(());
        }
        self.relink.post(&format!("/v1/links/{}/widget", self.id(link)?), callback).await.map(drop)
    }

    // --- the customer's application ---

    pub(super) async fn app_does(&mut self, deed: &AppDeed) -> Result<(), PlayError> {
        match deed {
            AppDeed::Calls { link, call, answer } => {
                let id = self.id(link)?;
                let path = call.path.replace("{link}", &id.to_string());
                // A month of transactions; the other resources pay no heed to it.
                let body = json!({"link": id, "date_from": "2026-01-01"});
                let is_post = call.method == "POST";
                let method = if is_post { Method::POST } else { Method::GET };
                let answered = self.belvo.call(method, &path, is_post.then_some(&body)).await?;
                self.take_answer(link, &call.method, &path, answer, answered).await.map(drop)
            }
            AppDeed::Registers { link, password, answer } => self.register(link, password, answer).await,
            AppDeed::ChangesPassword { link, password, answer } => {
                let path = format!("/api/links/{}/", self.id(link)?);
                let body = json!({"password": password});
                let answered = self.belvo.call(Method::PUT, &path, Some(&body)).await?;
                let is_done = self.take_answer(link, "PUT", &path, answer, answered).await?;
                self.say_updated(link, is_done && answer.reported).await
            }
            AppDeed::Resumes { link, token, answer } => {
                let session = self.sessions.get(link).cloned().unwrap_or_default();
                let body = json!({"session": session, "token": token, "link": self.id(link)?});
                let answered = self.belvo.call(Method::PATCH, "/api/links/", Some(&body)).await?;
                let is_done = self.take_answer(link, "PATCH", "/api/links/", answer, answered).await?;
                self.say_updated(link, is_done && answer.reported).await
            }
            AppDeed::Reports { link, call, status, errors } => {
                let path = call.path.replace("{link}", &self.id(link)?.to_string());
                let answered = Answered { status: *status, body: errors.clone() };
                self.report(link, &call.method, &path, &answered).await
            }
            AppDeed::Deletes { link, later } => self.delete(link, *later).await,
            AppDeed::Commands { link, command } => {
                let path = format!("/v1/links/{}/commands", self.id(link)?);
                self.relink.post(&path, &json!({"command": command, "by": "scenario"})).await.map(drop)
            }
        }
    }

    /// `POST /api/links/`: the link exists from then on, perhaps only half.
    async fn register(&mut self, link: &str, password: &str, answer: &Answer) -> Result<(), PlayError> {
        let Some(part) = self.cast.get(link) else { return self.id(link).map(drop) };
        let body = json!({
            "institution": part.institution,
            "username": "user",
            "password": password,
            "access_mode": part.access_mode,
            "external_id": part.external_id,
            "refresh_rate": part.refresh_rate,
        });
        let answered = self.belvo.call(Method::POST, "/api/links/", Some(&body)).await?;
        let named = if answered.is_ok() { &answered.body["id"] } else { &answered.body[0]["link"] };
        let id: Option<Uuid> = named.as_str().and_then(|id| id.parse().ok());
        self.ids.extend(id.map(|id| (link.to_owned(), id)));
        self.take_answer(link, "POST", "/api/links/", answer, answered).await.map(drop)
    }

    async fn delete(&self, link: &str, later: bool) -> Result<(), PlayError> {
        let url = format!("{}/api/links/{}/", self.belvo.url, self.id(link)?);
        let answered = self.belvo.delete(&url, later).await?;
        if answered.is_ok() {
            return Ok(());
        }
        Err(PlayError::Unexpected(format!("Belvo answered {}: {}", answered.status, answered.body)))
    }

    /// Checks an answer of Belvo's against the file, and reports it if it is an error. Whether it was none.
    async fn take_answer(
        &mut self,
        link: &str,
        method: &str,
        path: &str,
        answer: &Answer,
        answered: Answered,
    ) -> Result<bool, PlayError> {
        let status_fits = answer.status.is_none_or(|status| status == answered.status);
        let code_fits = answer.code.is_none() || answer.code.as_deref() == answered.code();
        if !status_fits || !code_fits {
            let problem = format!("Belvo answered {}: {}", answered.status, answered.body);
            return Err(PlayError::Unexpected(problem));
        }
        if let Some(session) = answered.body[0]["session"].as_str() {
            self.sessions.insert(link.to_owned(), session.to_owned());
        }
        if answer.reported && !answered.is_ok() {
            self.report(link, method, path, &answered).await?;
        }
        Ok(answered.is_ok())
    }

    async fn report(&self, link: &str, method: &str, path: &str, answered: &Answered) -> Result<(), PlayError> {
        let mut report = json!({"http_status": answered.status, "method": method, "path": path, "body": answered.body});
        // A registration that came to nothing has no link to name.
        if let Ok(id) = self.id(link) {
            report["link_id"] = json!(id);
        }
        self.relink.post("/v1/api-errors", &report).await.map(drop)
    }

    async fn say_updated(&self, link: &str, is_said: bool) -> Result<(), PlayError> {
        self.call_back(link, !is_said, &json!({"event": "updated"})).await
    }
}
