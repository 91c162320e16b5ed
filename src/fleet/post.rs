//! The post between Belvo and the customer: webhooks that are lost, late, doubled, out of order, or find nobody in.
//!
//! What arrives, arrives at relink and at a handler without relink alike.

use std::time::Duration;

use super::hazards::{Draw, HOUR, IN_TRANSIT, percent};
use super::simulation::{Happening, Simulation};
use crate::belvo::link_of_webhook;
use crate::contract::{ApiError, InputKind};
use crate::sandbox::{DeliveryOutcome, TakenWebhook};

impl Simulation {
    /// Belvo sends a webhook.
    pub(super) fn post(&mut self, webhook: TakenWebhook) -> anyhow::Result<()> {
        if let Some(number) = self.number_of(&webhook) {
            self.look(number);
        }
        self.webhooks_sent += 1;
        let outcome = DeliveryOutcome::Answered(if self.receiver_is_down { 503 } else { 200 });
        self.control.settle_webhook(webhook.clone(), outcome);
        if self.receiver_is_down {
            return Ok(());
        }
        let second = Duration::from_secs(1);
        let mut drawn = self.rng.u32(0..100);
        let mut is = |part: u32| match drawn.checked_sub(part) {
            Some(rest) => {
                drawn = rest;
                false
            }
            None => {
                drawn = u32::MAX;
                true
            }
        };
        let (now, trouble) = (IN_TRANSIT, !self.is_quiet());
        let (dropped, delayed) = (is(percent::DROPPED), is(percent::DELAYED));
        let (reordered, duplicated) = (is(percent::REORDERED), is(percent::DUPLICATED));
        let arrivals: &[(Duration, Duration)] = match () {
            () if !trouble => &[now],
            () if dropped => &[],
            () if delayed => &[(second, HOUR * 3)],
            () if reordered => &[(second, second * 30)],
            () if duplicated => &[now, (second, HOUR)],
            () => &[now],
        };
        for span in arrivals {
            let span = self.rng.between(*span);
            self.plan_in(span, Happening::Arrival(Box::new(webhook.clone())));
        }
        Ok(())
    }

    /// A webhook arrives.
    pub(super) fn arrive(&mut self, webhook: &TakenWebhook) -> anyhow::Result<()> {
        let body = serde_json::to_vec(&webhook.body)?;
        let link = link_of_webhook(&body)?;
        if let Some(number) = self.number_of(webhook) {
            match (webhook.webhook_type.as_str(), webhook.webhook_code.as_str()) {
                ("LINK", "invalid_credentials" | "token_required") | ("CONSENT", "openfinance_consent_expired") => {
                    self.judge.naively_broken(number);
                }
                ("LINK" | "CONSENT", _) => {}
                (_data, _) => self.judge.naively_works(number),
            }
        }
        let now = self.now();
        let (family, code) = (&webhook.webhook_type, &webhook.webhook_code);
        self.story.tell(&link, now, || format!("webhook  {family} {code}"));
        self.relink.hear(InputKind::Webhook, link, body);
        Ok(())
    }

    /// The customer's application reports an error of Belvo's API.
    pub(super) fn report(&mut self, number: usize, error: &ApiError) -> anyhow::Result<()> {
        let code = error.body.get(0).and_then(|item| item.get("code")).and_then(|code| code.as_str());
        if error.http_status == 428 || code == Some("invalid_link") {
            self.judge.naively_broken(number);
        }
        let (link, now) = (self.members[number].link.clone(), self.now());
        self.story.tell(&link, now, || format!("error    {} {code:?}", error.http_status));
        self.relink.hear(InputKind::ApiError, link, serde_json::to_vec(error)?);
        Ok(())
    }
}
