//! Belvo and everybody who publishes: links break and are repaired, and a good deal is said of them, true or not.

use bytes::Bytes;
use serde_json::{Value, json};

use super::chance::{Chance, Mix, Trouble};
use crate::contract::{Command, JobBody, JobName, Observation, Webhook, Widget};
use crate::engine::Delivery;
use crate::link::Timestamp;

/// How many links there are.
const LINKS: usize = 6;

/// A text that the record of a link has no room for, where the server's limit is low.
pub(super) const TOO_LARGE: &str = "this-text-is-taken-for-nine-hundred-kilobytes";

/// What Belvo knows of its links.
pub(super) struct Bank {
    links: Vec<Truth>,
    partitions: u16,
    requests_count: u32,
}

#[derive(Clone, Copy)]
struct Truth {
    status: &'static str,
    /// What it was before it changed.
    before: &'static str,
    is_gone: bool,
}

/// Something published, and after how many milliseconds.
pub(super) type Published = (i64, Delivery);

impl Bank {
    pub(super) fn new(partitions: u16) -> Self {
        let truth = Truth { status: "valid", before: "valid", is_gone: false };
        Self { links: vec![truth; LINKS], partitions, requests_count: 0 }
    }

    /// What the first links are known by when a run begins.
    pub(super) fn begin(&self, now: Timestamp) -> Vec<Published> {
        (0..LINKS / 2).map(|link| (0, self.said(link, "observation", observation(&name(link), "valid", now)))).collect()
    }

    /// Something happens at Belvo or to a user, and is published or not.
    pub(super) fn next(&mut self, chance: &mut Chance, mix: &Mix, now: Timestamp) -> Vec<Published> {
        let link = chance.below(LINKS);
        let id = name(link);
        match chance.below(20) {
            0..5 => self.breaks(link, chance),
            5..9 => self.is_repaired(link, chance),
            9..11 => {
                let code = *chance.pick(&["new_transactions_available", "historical_update"]);
                self.webhook(link, "TRANSACTIONS", code, chance)
            }
            11..13 => self.noise(link, chance, now),
            13..15 => {
                let status = if chance.one_in(4) { self.links[link].before } else { self.links[link].status };
                vec![(0, self.said(link, "observation", observation(&id, status, now)))]
            }
            15 => {
                let command = *chance.pick(&["mute", "unmute", "unmute", "verify"]);
                vec![(0, self.said(link, "command", json!({"command": command})))]
            }
            16 if chance.one_in(10) => {
                self.links[link].is_gone = true;
                self.webhook(link, "LINK", "link_deleted", chance)
            }
            _ => self.bad(link, chance, mix),
        }
    }

    fn breaks(&mut self, link: usize, chance: &mut Chance) -> Vec<Published> {
        let status = *chance.pick(&["invalid", "token_required"]);
        let truth = &mut self.links[link];
        (truth.before, truth.status) = (truth.status, status);
        match chance.below(8) {
            0 => Vec::new(),
            1..3 => {
                let body = token_wanted(&name(link), self.request(chance));
                vec![(chance.delay_ms(500), self.said(link, "api_error", body))]
            }
            _ if status == "invalid" => self.webhook(link, "LINK", "invalid_credentials", chance),
            _ => self.webhook(link, "LINK", "token_required", chance),
        }
    }

    /// A user opens the widget, and comes to an end in it or not.
    fn is_repaired(&mut self, link: usize, chance: &mut Chance) -> Vec<Published> {
        let id = name(link);
        let started = json!({"event": "started", "expires_in_seconds": chance.within(1, 600)});
        let mut published = vec![(0, self.said(link, "widget", started))];
        let later = chance.within(50, 20_000);
        match chance.below(6) {
            0 => {}
            1 => published.push((later, self.said(link, "widget", json!({"event": "exit"})))),
            end => {
                if end > 2 {
                    let truth = &mut self.links[link];
                    (truth.before, truth.status) = (truth.status, "valid");
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
            _ => ("widget", with(Widget::example(), "link", json!(name(link)))),
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
                let another = with(Webhook::example(), "link_id", json!(name(LINKS)));
                return vec![(0, self.said(link, "webhook", another))];
            }
            _ => delivery.payload = with(Command::example(), "schema_version", json!(9)).to_string().into(),
        }
        vec![(0, delivery)]
    }

    /// What comes of a job, if anything does.
    pub(super) fn answer(&mut self, job: &JobBody, chance: &mut Chance, mix: &Mix, now: Timestamp) -> Vec<Published> {
        let Some(link) = (0..LINKS).find(|link| name(*link) == job.link_id) else { return Vec::new() };
        if mix.strikes(Trouble::BelvoSilent, chance) {
            return Vec::new();
        }
        let Truth { status, before, is_gone } = self.links[link];
        let status = if mix.strikes(Trouble::BelvoLags, chance) { before } else { status };
        let seen = |outcome: &str| json!({"observed_at": now.to_string(), "source": "verify", "outcome": outcome});
        match job.name {
            _ if is_gone => vec![(0, self.said(link, "observation", seen("missing")))],
            JobName::Verify => vec![(0, self.said(link, "observation", observation(&name(link), status, now)))],
            JobName::Refresh => {
                let mut published = vec![(0, self.said(link, "observation", seen("refresh_accepted")))];
                let mut told = match status {
                    "valid" => self.webhook(link, "TRANSACTIONS", "historical_update", chance),
                    _ => self.webhook(link, "LINK", "invalid_credentials", chance),
                };
                told.iter_mut().for_each(|(after, _)| *after += 1_000);
                published.append(&mut told);
                published
            }
        }
    }

    fn webhook(&mut self, link: usize, family: &str, code: &str, chance: &mut Chance) -> Vec<Published> {
        let body = with(Webhook::example(), "link_id", json!(name(link)));
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

    fn said(&self, link: usize, kind: &str, body: Value) -> Delivery {
        let link_name = name(link);
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

fn name(link: usize) -> String {
    format!("link-{link}")
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
