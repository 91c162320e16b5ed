//! Everybody who publishes, and what happens to the links at Belvo: they break and are repaired, and a good deal is said of them, true or not.

use bytes::Bytes;
use serde_json::{Value, json};

use super::belvo::Belvo;
use super::chance::{Chance, Mix, Trouble};
use super::errands::error;
use crate::belvo::{Question, Reply};
use crate::contract::{Command, Observation, Webhook, Widget};
use crate::engine::Delivery;
use crate::link::Timestamp;

/// How many links there are that people speak of; and with one of which only Belvo knows.
const LINKS: usize = 6;
pub(super) const LINKS_AT_BELVO: usize = LINKS + 1;

/// A text that the record of a link has no room for, where the server's limit is low.
pub(super) const TOO_LARGE: &str = "this-text-is-taken-for-nine-hundred-kilobytes";

/// What happens to the links, and what is said of it.
pub(super) struct Bank {
    pub(super) belvo: Belvo,
    /// What Belvo said of each link before that changed.
    before: Vec<&'static str>,
    /// The link that Belvo refuses every call about.
    pub(super) refused: Option<usize>,
    partitions: u16,
    requests_count: u32,
}

/// Something published, and after how many milliseconds.
pub(super) type Published = (i64, Delivery);

impl Bank {
    pub(super) fn new(partitions: u16, belvo: Belvo, refused: Option<usize>) -> Self {
        Self { belvo, before: vec!["valid"; LINKS_AT_BELVO], refused, partitions, requests_count: 0 }
    }

    /// What the first links are known by when a run begins. The last may have been broken for long.
    pub(super) fn begin(&self, chance: &mut Chance, now: Timestamp) -> Vec<Published> {
        if chance.one_in(2) {
            self.belvo.breaks(LINKS, "invalid");
        }
        (0..LINKS / 2)
            .map(|link| (0, self.said(link, "observation", observation(&self.belvo.name(link), "valid", now))))
            .collect()
    }

    /// Something happens at Belvo or to a user, and is published or not.
    pub(super) fn next(&mut self, chance: &mut Chance, mix: &Mix, now: Timestamp) -> Vec<Published> {
        let link = chance.below(LINKS);
        let id = self.belvo.name(link);
        match chance.below(20) {
            0..5 => self.breaks(link, chance),
            5..9 => self.is_repaired(link, chance),
            9..11 => {
                let code = *chance.pick(&["new_transactions_available", "historical_update"]);
                self.webhook(link, "TRANSACTIONS", code, chance)
            }
            11..13 => self.noise(link, chance, now),
            13..15 => {
                let status = if chance.one_in(4) { self.before[link] } else { self.status(link) };
                vec![(0, self.said(link, "observation", observation(&id, status, now)))]
            }
            15 => {
                let command = *chance.pick(&["mute", "unmute", "unmute", "verify"]);
                vec![(0, self.said(link, "command", json!({"command": command})))]
            }
            16 if chance.one_in(10) => {
                self.belvo.delete(link);
                self.webhook(link, "LINK", "link_deleted", chance)
            }
            _ => self.bad(link, chance, mix),
        }
    }

    fn breaks(&mut self, link: usize, chance: &mut Chance) -> Vec<Published> {
        let status = *chance.pick(&["invalid", "token_required"]);
        self.before[link] = self.status(link);
        self.belvo.breaks(link, status);
        match chance.below(8) {
            0 => Vec::new(),
            1..3 => {
                let body = token_wanted(&self.belvo.name(link), self.request(chance));
                vec![(chance.delay_ms(500), self.said(link, "api_error", body))]
            }
            _ if status == "invalid" => self.webhook(link, "LINK", "invalid_credentials", chance),
            _ => self.webhook(link, "LINK", "token_required", chance),
        }
    }

    /// A user opens the widget, and comes to an end in it or not.
    fn is_repaired(&mut self, link: usize, chance: &mut Chance) -> Vec<Published> {
        let id = self.belvo.name(link);
        let started = json!({"event": "started", "expires_in_seconds": chance.within(1, 600)});
        let mut published = vec![(0, self.said(link, "widget", started))];
        let later = chance.within(50, 20_000);
        match chance.below(6) {
            0 => {}
            1 => published.push((later, self.said(link, "widget", json!({"event": "exit"})))),
            end => {
                if end > 2 {
                    self.before[link] = self.status(link);
                    self.belvo.is_repaired(link);
                }
                published.push((later, self.said(link, "widget", with(Widget::example(), "link", json!(id)))));
                if chance.one_in(2) {
                    let mut data = self.webhook(link, "TRANSACTIONS", "historical_update", chance);
                    data.iter_mut().for_each(|(after, _)| *after += later + 2_000);
                    published.append(&mut data);
                }
            }
        }
        published
    }

    fn noise(&mut self, link: usize, chance: &mut Chance, now: Timestamp) -> Vec<Published> {
        let tomorrow = Timestamp::from_millis(now.as_millis() + 86_400_000).to_string();
        let (kind, body) = match chance.below(6) {
            0 => return self.webhook(link, "CONSENT", "openfinance_consent_expired", chance),
            1 => return self.webhook(link, "LINK", "account_locked", chance),
            2 => ("api_error", json!({"http_status": 503, "method": "POST", "path": "/api/transactions/"})),
            3 => ("widget", json!({"event": "exit"})),
            4 => ("command", json!({"command": "snooze", "until": tomorrow})),
            _ => ("widget", with(Widget::example(), "link", json!(self.belvo.name(link)))),
        };
        vec![(0, self.said(link, kind, body))]
    }

    /// Nobody can read it; or nobody can store what follows from it.
    fn bad(&mut self, link: usize, chance: &mut Chance, mix: &Mix) -> Vec<Published> {
        let which = chance.below(10);
        if which == 0 && mix.has(Trouble::MessageLimit) {
            let mut published = self.webhook(link, "LINK", "invalid_credentials", chance);
            for (_, delivery) in &mut published {
                let body: Value = serde_json::from_slice(&delivery.payload).unwrap_or_default();
                delivery.payload = with(body, "external_id", json!(TOO_LARGE)).to_string().into();
            }
            return published;
        }
        if !mix.has(Trouble::BadInputs) {
            return Vec::new();
        }
        let mut delivery = self.said(link, "command", Command::example());
        match which {
            1 => delivery.payload = Bytes::from_static(b"{\xff\x00"),
            2 => delivery.payload = Bytes::new(),
            3 => delivery.kind = "telepathy".to_owned(),
            4 => delivery.link = "not a link".to_owned(),
            5 => delivery.headers.push(("CE-SpecVersion".to_owned(), "2.0".to_owned())),
            6 => return self.webhook(link, "LINK", "link_healed", chance),
            7 => return vec![(0, self.said(link, "api_error", json!({"http_status": "teapot"})))],
            8 => {
                let another = with(Webhook::example(), "link_id", json!("link-6"));
                return vec![(0, self.said(link, "webhook", another))];
            }
            _ => delivery.payload = with(Command::example(), "schema_version", json!(9)).to_string().into(),
        }
        vec![(0, delivery)]
    }

    /// What Belvo says of a link; of one that is gone, what it said last.
    fn status(&self, link: usize) -> &'static str {
        self.belvo.status(link).unwrap_or(self.before[link])
    }

    /// What Belvo answers, or what it would have answered a while ago.
    pub(super) fn reply(&self, question: &Question, is_astray: bool, lags: bool) -> Result<Reply, String> {
        let names = |link: usize| question.target.contains(&format!("/{}/", self.belvo.name(link)));
        if self.refused.is_some_and(names) {
            return Ok(Reply { status: 400, retry_after: None, body: error("invalid") });
        }
        let mut reply = self.belvo.ask(question, is_astray)?;
        if lags && let Ok(mut body) = serde_json::from_slice::<Value>(&reply.body) {
            match body.get_mut("results").and_then(Value::as_array_mut) {
                Some(links) => links.iter_mut().for_each(|link| self.set_back(link)),
                None => self.set_back(&mut body),
            }
            reply.body = body.to_string().into_bytes();
        }
        Ok(reply)
    }

    fn set_back(&self, resource: &mut Value) {
        let link = resource.get("id").and_then(Value::as_str).and_then(|id| self.belvo.find(id));
        if let (Some(link), Some(status)) = (link, resource.get_mut("status")) {
            *status = json!(self.before[link]);
        }
    }

    fn webhook(&mut self, link: usize, family: &str, code: &str, chance: &mut Chance) -> Vec<Published> {
        let body = with(Webhook::example(), "link_id", json!(self.belvo.name(link)));
        let body = with(body, "webhook_type", json!(family));
        let body = with(body, "webhook_code", json!(code));
        let request = self.request(chance);
        let body = with(body, "request_id", json!(format!("{request:08}-51eb-4350-9c74-5df5ac92a7f6")));
        vec![(chance.delay_ms(300), self.said(link, "webhook", body))]
    }

    /// Mostly a new one: two messages of one request may be the same fact.
    fn request(&mut self, chance: &mut Chance) -> u32 {
        self.requests_count += u32::from(!chance.one_in(6));
        self.requests_count
    }

    pub(super) fn said(&self, link: usize, kind: &str, body: Value) -> Delivery {
        let link_name = self.belvo.name(link);
        Delivery {
            partition: u16::try_from(link).unwrap_or_default() % self.partitions,
            sequence: 0,
            stored_at_ns: 0,
            subject: format!("belvo.{kind}.{link_name}"),
            kind: kind.to_owned(),
            link: link_name,
            headers: Vec::new(),
            payload: body.to_string().into(),
            receipt: String::new(),
        }
    }
}

fn with(mut body: Value, field: &str, value: Value) -> Value {
    body[field] = value;
    body
}

fn token_wanted(link: &str, request: u32) -> Value {
    let item = json!({"code": "token_required", "message": "A MFA token is required", "session": "s", "expiry": 600,
        "request_id": format!("{request:032}"), "link": link});
    json!({"http_status": 428, "method": "POST", "path": "/api/transactions/", "link_id": link, "body": [item]})
}

fn observation(link: &str, status: &str, now: Timestamp) -> Value {
    let mut body = with(Observation::example(), "observed_at", json!(now.to_string()));
    body["link"]["id"] = json!(link);
    body["link"]["status"] = json!(status);
    body["link"]["last_accessed_at"] = json!(now.to_string());
    body
}
