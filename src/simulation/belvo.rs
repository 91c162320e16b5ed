//! The Belvo sandbox, as the simulation drives it: the ground truth about the links, its API, and its webhooks. Only this file imports
//! `belvo_sandbox`.

use std::str::FromStr;
use std::sync::LazyLock;

use secrecy::ExposeSecret;
use serde_json::Value;
use uuid::Uuid;

use crate::belvo::{Client, Question, Reply, SecretId, SecretPassword, Timeouts};
use belvo_sandbox::{
    AccessMode, Control, DeliveryOutcome, InProcess, LinkStatus, Login, LoginFailure, NewFleetLink, SandboxConfig,
    SandboxTime, TakenWebhook,
};

/// The institution of all links but the last one.
pub(super) const INSTITUTION: &str = "erebor_mx_retail";

/// The institution of the last link, which has a consent.
const INSTITUTION_OF_CONSENT: &str = "ofmockbank_br_retail";

/// When that consent ends: an hour after the second rung of the ladder is reached.
pub(super) const CONSENT_ENDS_MS: i64 = (7 * 24 + 1) * 3_600_000;

/// Belvo, with its links.
pub(super) struct Belvo {
    sandbox: InProcess,
    control: Control,
    /// Another account at Belvo: its API works and it has no links.
    other_account: InProcess,
    ids: Vec<Uuid>,
}

/// The older link of the same user. Links 4 and 5 are of the users of links 0 and 1, who have connected the bank anew.
const fn older_link_of_same_user(link: usize) -> Option<usize> {
    match link {
        4 | 5 => Some(link - 4),
        _ => None,
    }
}

/// A webhook that Belvo sends.
pub(super) struct OutgoingWebhook {
    pub(super) link: usize,
    pub(super) body: Value,
    taken: TakenWebhook,
}

impl Belvo {
    pub(super) fn new(seed: u64, now_ms: i64, links: usize) -> Self {
        let config = SandboxConfig {
            time: SandboxTime::Driven { from_ms: now_ms },
            schedule: true,
            seed,
            ..SandboxConfig::default()
        };
        let sandbox = InProcess::new(config.clone());
        let control = sandbox.control();
        let mut ids: Vec<Uuid> = Vec::new();
        for link in 0..links {
            let added = match older_link_of_same_user(link).map(|old| ids[old]) {
                Some(old) => control.add_link_of_same_user(old),
                None if link + 1 == links => control.add_fleet_link(NewFleetLink {
                    institution: INSTITUTION_OF_CONSENT.to_owned(),
                    consent_ends_at_ms: Some(now_ms + CONSENT_ENDS_MS),
                    ..NewFleetLink::default()
                }),
                None => control.add_link(INSTITUTION, AccessMode::Recurrent, None),
            };
            ids.push(added.expect("the sandbox has this bank, and the older link"));
        }
        Self { sandbox, control, other_account: InProcess::new(config), ids }
    }

    /// A client with the keys of this Belvo; the caller sets its `Wire`.
    pub(super) fn client() -> Client {
        static CLIENT: LazyLock<Client> = LazyLock::new(Belvo::make_client);
        CLIENT.clone()
    }

    fn make_client() -> Client {
        let config = SandboxConfig::default();
        let keys = (SecretId(config.secret_id.into()), SecretPassword(config.secret_password));
        Client::new("http://belvo.invalid", keys.0, keys.1, Timeouts::default()).expect("it is an address")
    }

    pub(super) fn name(&self, link: usize) -> String {
        self.ids.get(link).map_or_else(|| format!("link-{link}"), Uuid::to_string)
    }

    /// The link resource as Belvo shows it; `None` for a deleted link.
    pub(super) fn resource(&self, link: usize) -> Option<Value> {
        self.control.link(self.ids[link]).ok()
    }

    /// The link with this id.
    pub(super) fn find(&self, name: &str) -> Option<usize> {
        let id = Uuid::from_str(name).ok()?;
        self.ids.iter().position(|known| *known == id)
    }

    /// Belvo's status of a link; `None` for a deleted link.
    pub(super) fn status(&self, link: usize) -> Option<&'static str> {
        let status = self.control.status_of(self.ids[link]).ok()?;
        Some(match status {
            LinkStatus::Valid => "valid",
            LinkStatus::Invalid => "invalid",
            LinkStatus::TokenRequired => "token_required",
            LinkStatus::Unconfirmed => "unconfirmed",
        })
    }

    /// A login fails, and Belvo sends no webhook about it.
    pub(super) fn break_link(&self, link: usize, status: &str) {
        let (status, login) = match status {
            "token_required" => (LinkStatus::TokenRequired, Login::TokenRequired),
            _ => (LinkStatus::Invalid, Login::Fails(LoginFailure::InvalidCredentials)),
        };
        // A deleted link stays deleted.
        let id = self.ids[link];
        let _gone = self.control.set_status(id, status).and_then(|()| self.control.set_login(id, login));
    }

    /// The user never finishes the creation of the link.
    pub(super) fn leave_unfinished(&self, link: usize) {
        let _gone = self.control.set_status(self.ids[link], LinkStatus::Unconfirmed);
    }

    /// The user repairs the link.
    pub(super) fn repair(&self, link: usize) {
        let _gone = self.control.repair(self.ids[link]);
    }

    pub(super) fn delete(&self, link: usize) {
        let target = format!("/api/links/{}/", self.ids[link]);
        let authorization = "Basic c2FuZGJveDpzYW5kYm94";
        drop(self.sandbox.ask("DELETE", &target, Some(authorization), Vec::new()));
    }

    /// The time of Belvo's next scheduled event.
    pub(super) fn next_event_ms(&self) -> Option<i64> {
        self.control.next_event_at()
    }

    /// Advances Belvo's clock; returns the webhooks that are due.
    pub(super) fn advance(&self, now_ms: i64) -> Vec<OutgoingWebhook> {
        self.control.advance_to(now_ms);
        let taken = self.control.take_webhooks().into_iter();
        let webhook = |taken: TakenWebhook| {
            let link = self.ids.iter().position(|id| *id == taken.link_id)?;
            Some(OutgoingWebhook { link, body: taken.body.clone(), taken })
        };
        taken.filter_map(webhook).collect()
    }

    /// Records whether a webhook was answered 2xx; otherwise Belvo retries it a few times.
    pub(super) fn record_outcome(&self, webhook: OutgoingWebhook, is_taken: bool) {
        let outcome = if is_taken { DeliveryOutcome::Answered(200) } else { DeliveryOutcome::TimedOut };
        self.control.record_outcome(webhook.taken, outcome);
    }

    /// The response of Belvo or, if `is_wrong_account`, of the other account.
    pub(super) fn ask(&self, question: &Question, is_wrong_account: bool) -> Result<Reply, String> {
        let asked = if is_wrong_account { &self.other_account } else { &self.sandbox };
        let authorization = question.authorization.as_ref().map(|value| value.expose_secret().to_owned());
        let body = question.body.clone();
        let answered = asked.ask(&question.method, &question.target, authorization.as_deref(), body);
        let answered = answered.ok_or("timed out")?;
        Ok(Reply { status: answered.status, retry_after: answered.retry_after, body: answered.body })
    }
}
