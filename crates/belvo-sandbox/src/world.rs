//! The whole state of the sandbox.
//!
//! This file does no I/O and reads no clock: callers pass `now`. All changes of a link are in [`super::bank`]; webhooks
//! leave through [`super::outbox`].

use std::collections::{BTreeMap, HashMap, VecDeque};

use secrecy::SecretString;
use serde_json::Value;
use uuid::Uuid;

use crate::consent::Consent;
use crate::fault::Faults;
use crate::link::Link;
use crate::outbox::Outbox;
use crate::rate_limit::RateLimit;
use crate::schedule::Schedule;
use crate::webhook::PayloadShape;

/// An open MFA session (428).
#[derive(Clone, Debug)]
pub(crate) struct Session {
    pub(crate) link: Uuid,
    pub(crate) expires_at: i64,
    /// `expects_user_input` of the 428.
    pub(crate) expects_token: bool,
}

/// A widget access token.
#[derive(Clone, Debug)]
pub(crate) struct Token {
    pub(crate) link: Option<Uuid>,
    pub(crate) scopes: Vec<String>,
    pub(crate) expires_at: i64,
    pub(crate) alive: bool,
    /// The last error in the widget, for its exit callback.
    pub(crate) last_error: Option<(String, String)>,
    /// `widget.openfinance_feature` of the request: the action that it allows in the portal.
    pub(crate) feature: Option<String>,
    /// `widget.callback_urls` of the request, for the stand-in page.
    pub(crate) callback_urls: Value,
}

/// The webhook settings of Belvo's dashboard.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) url: String,
    pub(crate) authorization: Option<SecretString>,
}

/// Whether webhooks can be sent there.
pub(crate) fn is_webhook_url(url: &str) -> bool {
    reqwest::Url::parse(url).is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
}

/// Whether this is a valid `Authorization` value.
pub(crate) fn is_header_value(value: &str) -> bool {
    axum::http::HeaderValue::from_str(value).is_ok()
}

/// The settings of Belvo's behaviour.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    /// The time from a refresh to its webhooks.
    pub(crate) data_delay_ms: i64,
    /// The number of failed logins that make a link `invalid`.
    pub(crate) logins_until_invalid: u32,
    /// The increase of the delay from one retry of a webhook to the next.
    pub(crate) retry_step_ms: i64,
    /// The maximum number of delivery records.
    pub(crate) deliveries_kept: usize,
    /// Whether Belvo's schedule runs.
    pub(crate) schedule: bool,
    /// Whether broken links are refreshed too.
    pub(crate) repeats_while_broken: bool,
    /// Whether a refresh announces the end of a consent; at Belvo this is opt-in.
    pub(crate) consent_warnings: bool,
    /// Whether all links are deleted on the first day of the month.
    pub(crate) monthly_wipe: bool,
}

impl Rules {
    /// How long an MFA session is open: the `expiry` in Belvo's example of a 428.
    pub(crate) const SESSION_LIFE_MS: i64 = 9_600 * 1_000;
    /// The time before its end at which a refresh announces the end of a consent (webhook docs, Consents).
    pub(crate) const CONSENT_WARNING_MS: i64 = 7 * 24 * 3_600 * 1_000;
    /// The time after which a single link that becomes recurrent gets its history (API reference, Links).
    pub(crate) const FIRST_HISTORY_MS: i64 = 24 * 3_600 * 1_000;
    /// The lifetime of a widget access token.
    pub(crate) const TOKEN_LIFE_MS: i64 = 600 * 1_000;
    /// A link accepts one `refresh/` in this span.
    pub(crate) const REFRESH_EVERY_MS: i64 = 600 * 1_000;
    /// The maximum number of synchronous deletions in a minute.
    pub(crate) const DELETIONS_MAX: usize = 5;
    /// The span in which these deletions are counted.
    pub(crate) const DELETIONS_SPAN_MS: i64 = 60 * 1_000;
}

/// The whole state.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) rules: Rules,
    pub(crate) rng: fastrand::Rng,
    pub(crate) links: BTreeMap<Uuid, Link>,
    pub(crate) sessions: HashMap<String, Session>,
    pub(crate) tokens: HashMap<String, Token>,
    /// The creation time of each token, the oldest first.
    pub(crate) minted: VecDeque<(i64, String)>,
    /// How many tokens were minted since the start.
    pub(crate) minted_count: u64,
    /// The consents, by link.
    pub(crate) consents: BTreeMap<Uuid, Consent>,
    pub(crate) schedule: Schedule,
    /// The times of the latest deletions, for the limit of five per minute.
    pub(crate) deletions: VecDeque<i64>,
    pub(crate) faults: Faults,
    pub(crate) rate_limit: RateLimit,
    pub(crate) target: Option<Target>,
    pub(crate) shape: PayloadShape,
    pub(crate) outbox: Outbox,
    next_seq: u64,
}

impl World {
    pub(crate) fn new(rules: Rules, seed: u64, target: Option<Target>, shape: PayloadShape) -> Self {
        Self {
            rules,
            rng: fastrand::Rng::with_seed(seed),
            links: BTreeMap::new(),
            sessions: HashMap::new(),
            tokens: HashMap::new(),
            minted: VecDeque::new(),
            minted_count: 0,
            consents: BTreeMap::new(),
            schedule: Schedule::default(),
            deletions: VecDeque::new(),
            faults: Faults::default(),
            rate_limit: RateLimit::new(None),
            target,
            shape,
            outbox: Outbox::default(),
            next_seq: 0,
        }
    }

    /// A widget access token that is still valid and has these scopes.
    pub(crate) fn live_token(&self, now: i64, access: &str, scopes: &[&str]) -> Option<&Token> {
        let token = self.tokens.get(access).filter(|token| token.alive && now < token.expires_at)?;
        let missing: Vec<_> = scopes.iter().filter(|&&scope| token.scopes.iter().all(|given| given != scope)).collect();
        if missing.is_empty() {
            return Some(token);
        }
        // Belvo's answer names no scope, so the program that minted the token could only guess.
        tracing::warn!(
            scopes.missing = ?missing,
            scopes.given = token.scopes.join(","),
            "a widget token is refused, because a scope is missing; give it in `scopes` of POST /api/token/"
        );
        None
    }

    /// Removes a token after its user's success.
    pub(crate) fn spend_token(&mut self, access: &str) {
        if let Some(token) = self.tokens.get_mut(access) {
            token.alive = false;
        }
    }

    /// A new id, from the seed.
    pub(crate) fn uuid(&mut self) -> Uuid {
        let mut bytes = [0; 16];
        self.rng.fill(&mut bytes);
        uuid::Builder::from_random_bytes(bytes).into_uuid()
    }

    /// The next number of the one sequence that orders links and queued webhooks.
    pub(crate) fn seq(&mut self) -> u64 {
        self.next_seq += 1;
        self.next_seq
    }
}
