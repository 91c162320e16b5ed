//! The Belvo in a box, as the simulation drives it: the truth about the links, its API, and its webhooks. The only file that knows `sandbox`.

use std::str::FromStr;
use std::sync::LazyLock;

use secrecy::ExposeSecret;
use serde_json::Value;
use uuid::Uuid;

use crate::belvo::{Client, Question, Reply, SecretId, SecretPassword, Timeouts};
use belvo_sandbox::{
    AccessMode, Control, DeliveryOutcome, InProcess, LinkStatus, Login, LoginFailure, SandboxConfig, SandboxTime,
    TakenWebhook,
};

/// What Belvo says of itself and of its links.
pub(super) struct Belvo {
    box_: InProcess,
    control: Control,
    /// Belvo under keys of another customer: it works, and knows no link.
    stranger: InProcess,
    ids: Vec<Uuid>,
}

/// A webhook that leaves Belvo.
pub(super) struct Letter {
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
        let box_ = InProcess::new(config.clone());
        let control = box_.control();
        let add = |_| control.add_link("erebor_mx_retail", AccessMode::Recurrent, None);
        let ids = (0..links).map(|link| add(link).expect("the sandbox has this bank")).collect();
        Self { box_, control, stranger: InProcess::new(config), ids }
    }

    /// A client with the keys of this Belvo; whoever uses it gives it a wire.
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

    /// Which link has this id.
    pub(super) fn find(&self, name: &str) -> Option<usize> {
        let id = Uuid::from_str(name).ok()?;
        self.ids.iter().position(|known| *known == id)
    }

    /// Belvo's status of a link; nothing for one that is gone.
    pub(super) fn status(&self, link: usize) -> Option<&'static str> {
        let status = self.control.status_of(self.ids[link]).ok()?;
        Some(match status {
            LinkStatus::Valid => "valid",
            LinkStatus::Invalid => "invalid",
            LinkStatus::TokenRequired => "token_required",
            LinkStatus::Unconfirmed => "unconfirmed",
        })
    }

    /// A login has failed, and no webhook tells of it.
    pub(super) fn breaks(&self, link: usize, status: &str) {
        let (status, login) = match status {
            "token_required" => (LinkStatus::TokenRequired, Login::TokenRequired),
            _ => (LinkStatus::Invalid, Login::Fails(LoginFailure::InvalidCredentials)),
        };
        // A link that is gone stays gone.
        let id = self.ids[link];
        let _gone = self.control.set_status(id, status).and_then(|()| self.control.set_login(id, login));
    }

    /// The user has repaired it.
    pub(super) fn is_repaired(&self, link: usize) {
        let _gone = self.control.repair(self.ids[link]);
    }

    pub(super) fn delete(&self, link: usize) {
        let target = format!("/api/links/{}/", self.ids[link]);
        let authorization = "Basic c2FuZGJveDpzYW5kYm94";
        drop(self.box_.ask("DELETE", &target, Some(authorization), Vec::new()));
    }

    /// When something happens at Belvo by itself.
    pub(super) fn next_event_ms(&self) -> Option<i64> {
        self.control.next_event_at()
    }

    /// Belvo lives until now; the webhooks that are due leave.
    pub(super) fn live(&self, now_ms: i64) -> Vec<Letter> {
        self.control.advance_to(now_ms);
        let taken = self.control.take_webhooks().into_iter();
        let letter = |taken: TakenWebhook| {
            let link = self.ids.iter().position(|id| *id == taken.link_id)?;
            Some(Letter { link, body: taken.body.clone(), taken })
        };
        taken.filter_map(letter).collect()
    }

    /// Whether a webhook was answered 2xx; if not, it comes again, a few times.
    pub(super) fn settle(&self, letter: Letter, is_taken: bool) {
        let outcome = if is_taken { DeliveryOutcome::Answered(200) } else { DeliveryOutcome::TimedOut };
        self.control.settle_webhook(letter.taken, outcome);
    }

    /// What it answers; or, if the question goes to another customer's Belvo, what that one answers.
    pub(super) fn ask(&self, question: &Question, is_astray: bool) -> Result<Reply, String> {
        let asked = if is_astray { &self.stranger } else { &self.box_ };
        let authorization = question.authorization.as_ref().map(|value| value.expose_secret().to_owned());
        let body = question.body.clone();
        let answered = asked.ask(&question.method, &question.target, authorization.as_deref(), body);
        let answered = answered.ok_or("timed out")?;
        Ok(Reply { status: answered.status, retry_after: answered.retry_after, body: answered.body })
    }
}
