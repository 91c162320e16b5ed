//! The publishers, and the changes of the links at Belvo: links break and are repaired, and messages about them are published, true or
//! false.

use bytes::Bytes;
use serde_json::{Value, json};

use super::background_events::error;
use super::belvo::{Belvo, CONSENT_ENDS_MS};
use super::fault::{Fault, FaultMix, RandomSource};
use super::status_page::StatusPage;
use crate::belvo::{Question, Reply};
use crate::contract::{Command, Observation, Webhook, Widget};
use crate::engine::Delivery;
use crate::link::Timestamp;

/// The number of links whose publishers go on. Belvo has four more.
const LINKS: usize = 6;
pub(super) const LINKS_AT_BELVO: usize = LINKS + 4;

/// A link whose creation is not finished, and one whose creation its user finished without a message to relink.
const UNFINISHED: [usize; 2] = [LINKS + 1, LINKS + 2];

/// A link with a consent that ends soon.
const WITH_CONSENT: usize = LINKS + 3;

/// When Belvo announces the end of the consent: repeatedly, and also after the next rung of the ladder.
const CONSENT_ANNOUNCED_MS: [i64; 3] = [0, 20_000, 3 * 3_600_000];

/// When an unfinished creation is reported a second time.
const UNFINISHED_REPORTED_AGAIN_MS: i64 = 8 * 3_600_000;

/// The persons of the links; the last one is of nobody. The links 4 and 5 are newer links of the users of 0 and 1.
const PERSONS: [Option<&str>; LINKS] = [Some("p0"), Some("p0"), Some("p0"), Some("p1"), Some("p1"), None];

/// A text that makes the record of a link too large where the server has a low limit.
pub(super) const TOO_LARGE: &str = "this-text-counts-as-nine-hundred-kilobytes";

/// The publishers, and Belvo with its links.
pub(super) struct Publishers {
    pub(super) belvo: Belvo,
    pub(super) status_page: StatusPage,
    /// The previous status of each link at Belvo.
    status_before: Vec<&'static str>,
    /// The link for which Belvo refuses every call.
    pub(super) refused: Option<usize>,
    partitions: u16,
    requests_count: u32,
}

/// A message, and the delay in milliseconds before it is published.
pub(super) type Published = (i64, Delivery);

impl Publishers {
    pub(super) fn new(partitions: u16, belvo: Belvo, status_page: StatusPage, refused: Option<usize>) -> Self {
        let mut status_before = vec!["valid"; LINKS_AT_BELVO];
        // A creation begins without a token, so an answer that lags shows no other status.
        status_before[UNFINISHED[0]] = "unconfirmed";
        Self { belvo, status_page, status_before, refused, partitions, requests_count: 0 }
    }

    /// The messages at the start of a run: observations of the first links, and reports of unfinished creations. The link that no publisher
    /// mentions may be broken already.
    pub(super) fn begin(&self, random: &mut RandomSource, now: Timestamp) -> Vec<Published> {
        if random.one_in(2) {
            self.belvo.break_link(LINKS, "invalid");
        }
        let seen =
            (0..LINKS / 2).map(|link| (0, self.message(link, "observation", self.observation(link, "valid", now))));
        self.belvo.leave_unfinished(UNFINISHED[0]);
        // The second report comes when relink has published the notice, or has found that the link works.
        let times = [0, UNFINISHED_REPORTED_AGAIN_MS];
        let reports =
            UNFINISHED.iter().flat_map(|&link| times.map(|at| (at, self.message(link, "api_error", unfinished()))));
        let consent = CONSENT_ANNOUNCED_MS.map(|at| (at, self.consent_ends(now, at)));
        seen.chain(reports).chain(consent).collect()
    }

    /// Belvo announces the end of the consent.
    fn consent_ends(&self, now: Timestamp, number: i64) -> Delivery {
        let due_at = Timestamp::from_millis(now.as_millis() + CONSENT_ENDS_MS);
        let body = with(Webhook::example(), "link_id", json!(self.belvo.name(WITH_CONSENT)));
        let body = with(body, "external_id", Value::Null);
        let body = with(body, "webhook_type", json!("CONSENT"));
        let body = with(body, "webhook_code", json!("openfinance_consent_about_to_expire"));
        let body = with(body, "data", json!({"consent_due_date": due_at.to_string()}));
        self.message(WITH_CONSENT, "webhook", with(body, "request_id", json!(format!("of-the-consent-{number}"))))
    }

    /// One turn: a change at Belvo or an action of a user, with or without messages.
    pub(super) fn next(&mut self, random: &mut RandomSource, fault_mix: &FaultMix, now: Timestamp) -> Vec<Published> {
        let link = random.below(LINKS);
        match random.below(20) {
            0..5 => self.break_link(link, random),
            5..9 => self.repair(link, random),
            9..11 => {
                let code = *random.pick(&["new_transactions_available", "historical_update"]);
                self.webhook(link, "TRANSACTIONS", code, random)
            }
            11..13 => self.noise(link, random, now),
            13..15 => {
                let status = if random.one_in(4) { self.status_before[link] } else { self.status(link) };
                vec![(0, self.message(link, "observation", self.observation(link, status, now)))]
            }
            15 => {
                let command = *random.pick(&["mute", "unmute", "release", "verify", "unsupersede"]);
                vec![(0, self.message(link, "command", json!({"command": command})))]
            }
            16 if random.one_in(10) => {
                self.belvo.delete(link);
                self.webhook(link, "LINK", "link_deleted", random)
            }
            _ => self.bad_input(link, random, fault_mix),
        }
    }

    fn break_link(&mut self, link: usize, random: &mut RandomSource) -> Vec<Published> {
        let status = *random.pick(&["invalid", "token_required"]);
        self.status_before[link] = self.status(link);
        self.belvo.break_link(link, status);
        match random.below(8) {
            0 => Vec::new(),
            1..3 => {
                let body = token_wanted(&self.belvo.name(link), self.request(random));
                vec![(random.delay_ms(500), self.message(link, "api_error", body))]
            }
            _ if status == "invalid" => self.webhook(link, "LINK", "invalid_credentials", random),
            _ => self.webhook(link, "LINK", "token_required", random),
        }
    }

    /// A user opens the widget and succeeds, exits or abandons it.
    fn repair(&mut self, link: usize, random: &mut RandomSource) -> Vec<Published> {
        let id = self.belvo.name(link);
        let started = json!({"event": "started", "expires_in_seconds": random.within(1, 600)});
        let mut published = vec![(0, self.message(link, "widget", started))];
        let later = random.within(50, 20_000);
        match random.below(6) {
            0 => {}
            1 => published.push((later, self.message(link, "widget", json!({"event": "exit"})))),
            end => {
                if end > 2 {
                    self.status_before[link] = self.status(link);
                    self.belvo.repair(link);
                }
                published.push((later, self.message(link, "widget", with(Widget::example(), "link", json!(id)))));
                if random.one_in(2) {
                    let mut data = self.webhook(link, "TRANSACTIONS", "historical_update", random);
                    data.iter_mut().for_each(|(after, _)| *after += later + 2_000);
                    published.append(&mut data);
                }
            }
        }
        published
    }

    fn noise(&mut self, link: usize, random: &mut RandomSource, now: Timestamp) -> Vec<Published> {
        let tomorrow = Timestamp::from_millis(now.as_millis() + 86_400_000).to_string();
        let another = self.belvo.name(random.below(LINKS));
        let (kind, body) = match random.below(8) {
            0 => return self.webhook(link, "CONSENT", "openfinance_consent_expired", random),
            1 => return self.webhook(link, "LINK", "account_locked", random),
            // Belvo, or the institution, is down; or a user sees that it is. Without a random number, so that the seeds of named tests keep
            // their faults.
            2 => match self.requests_count % 4 {
                0 => ("api_error", json!({"http_status": 503, "method": "POST", "path": "/api/transactions/"})),
                1 => ("widget", json!({"event": "waiting"})),
                _ => {
                    let item = json!({"code": "institution_down", "message": "The financial institution is down"});
                    let link = self.belvo.name(link);
                    let path = "/api/transactions/";
                    (
                        "api_error",
                        json!({"http_status": 400, "method": "POST", "path": path, "link_id": link, "body": [item]}),
                    )
                }
            },
            3 => ("widget", json!({"event": "exit"})),
            // The other link may be any one, also this one, or one that does not work.
            5 => ("widget", with(Widget::example(), "link", json!(another))),
            6 => {
                let observed_at = Timestamp::from_millis(now.as_millis() - random.within(0, 60_000)).to_string();
                ("observation", json!({"observed_at": observed_at, "outcome": "superseded", "by": another}))
            }
            4 => ("command", json!({"command": "snooze", "until": tomorrow})),
            _ => ("widget", with(Widget::example(), "link", json!(self.belvo.name(link)))),
        };
        vec![(0, self.message(link, kind, body))]
    }

    /// An input that cannot be read, or whose commit is too large.
    fn bad_input(&mut self, link: usize, random: &mut RandomSource, fault_mix: &FaultMix) -> Vec<Published> {
        let which = random.below(10);
        if which == 0 && fault_mix.has(Fault::MessageLimit) {
            let mut published = self.webhook(link, "LINK", "invalid_credentials", random);
            for (_, delivery) in &mut published {
                let body: Value = serde_json::from_slice(&delivery.payload).unwrap_or_default();
                delivery.payload = with(body, "external_id", json!(TOO_LARGE)).to_string().into();
            }
            return published;
        }
        if !fault_mix.has(Fault::UnreadableInputs) {
            return Vec::new();
        }
        let mut delivery = self.message(link, "command", Command::example());
        match which {
            1 => delivery.payload = Bytes::from_static(b"{\xff\x00"),
            2 => delivery.payload = Bytes::new(),
            3 => delivery.kind = "telepathy".to_owned(),
            4 => delivery.link = "not a link".to_owned(),
            5 => delivery.headers.push(("CE-SpecVersion".to_owned(), "2.0".to_owned())),
            6 => return self.webhook(link, "LINK", "link_healed", random),
            7 => return vec![(0, self.message(link, "api_error", json!({"http_status": "teapot"})))],
            8 => {
                let another = with(Webhook::example(), "link_id", json!("link-6"));
                return vec![(0, self.message(link, "webhook", another))];
            }
            _ => delivery.payload = with(Command::example(), "schema_version", json!(9)).to_string().into(),
        }
        vec![(0, delivery)]
    }

    /// Belvo's status of a link; for a deleted link the last one.
    fn status(&self, link: usize) -> &'static str {
        self.belvo.status(link).unwrap_or(self.status_before[link])
    }

    /// Belvo's response; if `lags`, with the previous status of the links.
    pub(super) fn reply(&self, question: &Question, is_wrong_account: bool, lags: bool) -> Result<Reply, String> {
        let names = |link: usize| question.target.contains(&format!("/{}/", self.belvo.name(link)));
        if self.refused.is_some_and(names) {
            return Ok(Reply { status: 400, retry_after: None, body: error("invalid") });
        }
        let mut reply = self.belvo.ask(question, is_wrong_account)?;
        if lags && let Ok(mut body) = serde_json::from_slice::<Value>(&reply.body) {
            match body.get_mut("results").and_then(Value::as_array_mut) {
                Some(links) => links.iter_mut().for_each(|link| self.restore_status(link)),
                None => self.restore_status(&mut body),
            }
            reply.body = body.to_string().into_bytes();
        }
        Ok(reply)
    }

    fn restore_status(&self, resource: &mut Value) {
        let link = resource.get("id").and_then(Value::as_str).and_then(|id| self.belvo.find(id));
        if let (Some(link), Some(status)) = (link, resource.get_mut("status")) {
            *status = json!(self.status_before[link]);
        }
    }

    fn webhook(&mut self, link: usize, family: &str, code: &str, random: &mut RandomSource) -> Vec<Published> {
        let body = with(Webhook::example(), "link_id", json!(self.belvo.name(link)));
        let body = with(body, "external_id", json!(PERSONS.get(link)));
        let body = with(body, "webhook_type", json!(family));
        let body = with(body, "webhook_code", json!(code));
        let request = self.request(random);
        let body = with(body, "request_id", json!(format!("{request:08}-51eb-4350-9c74-5df5ac92a7f6")));
        vec![(random.delay_ms(300), self.message(link, "webhook", body))]
    }

    /// A request number, mostly a new one: two messages with one number may be the same fact.
    fn request(&mut self, random: &mut RandomSource) -> u32 {
        self.requests_count += u32::from(!random.one_in(6));
        self.requests_count
    }

    /// An observation of a link, with its user and its creation as Belvo shows them.
    fn observation(&self, link: usize, status: &str, now: Timestamp) -> Value {
        let mut body = with(Observation::example(), "observed_at", json!(now.to_string()));
        let resource = self.belvo.resource(link).unwrap_or_default();
        body["link"]["id"] = json!(self.belvo.name(link));
        body["link"]["external_id"] = json!(PERSONS.get(link));
        body["link"]["status"] = json!(status);
        body["link"]["last_accessed_at"] = json!(now.to_string());
        for field in ["institution_user_id", "created_at"] {
            body["link"][field] = resource[field].clone();
        }
        body
    }

    pub(super) fn message(&self, link: usize, kind: &str, body: Value) -> Delivery {
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

fn unfinished() -> Value {
    let item = json!({"code": "unconfirmed_link", "message": "The link is not confirmed", "request_id": "0"});
    json!({"http_status": 400, "method": "POST", "path": "/api/accounts/", "body": [item]})
}

fn token_wanted(link: &str, request: u32) -> Value {
    let item = json!({"code": "token_required", "message": "A MFA token is required", "session": "s", "expiry": 600,
        "request_id": format!("{request:032}"), "link": link});
    json!({"http_status": 428, "method": "POST", "path": "/api/transactions/", "link_id": link, "body": [item]})
}
