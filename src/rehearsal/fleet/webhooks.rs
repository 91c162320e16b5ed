//! The network between Belvo and the customer: webhooks that are lost, late, doubled or out of order, or find no receiver.
//!
//! relink and the handler without relink get the same webhooks.

use belvo_sandbox::{DeliveryOutcome, TakenWebhook};

use super::hazards::{Draw, FATES, IN_TRANSIT};
use super::state::{Happening, InTransit, Simulation};
use crate::belvo::link_of_webhook;
use crate::contract::{ApiError, InputKind};

impl Simulation {
    /// Belvo sends a webhook.
    pub(super) fn post(&mut self, webhook: TakenWebhook) -> anyhow::Result<()> {
        let in_transit = InTransit {
            link: webhook.link_id,
            family: webhook.webhook_type.clone(),
            code: webhook.webhook_code.clone(),
            body: serde_json::to_vec(&webhook.body)?,
        };
        if let Some(&number) = self.index.get(&in_transit.link) {
            self.look(number);
        }
        self.webhooks_sent += 1;
        let outcome = DeliveryOutcome::Answered(if self.receiver_is_down { 503 } else { 200 });
        self.control.settle_webhook(webhook, outcome);
        if self.receiver_is_down {
            return Ok(());
        }
        let fate = self.rng.pick(FATES.iter().map(|fate| fate.0));
        let arrivals = if self.is_quiet() { &[IN_TRANSIT] } else { FATES[fate].1 };
        for span in arrivals {
            let span = self.rng.between(*span);
            self.plan_in(span, Happening::Arrival(Box::new(in_transit.clone())));
        }
        Ok(())
    }

    /// A webhook arrives.
    pub(super) fn arrive(&mut self, webhook: InTransit) -> anyhow::Result<()> {
        let InTransit { link, family, code, body } = webhook;
        if let Some(&number) = self.index.get(&link) {
            match (family.as_str(), code.as_str()) {
                ("LINK", "invalid_credentials" | "token_required") | ("CONSENT", "openfinance_consent_expired") => {
                    self.checker.naively_broken(number);
                }
                ("LINK" | "CONSENT", _) => {}
                (_data, _) => self.checker.naively_works(number),
            }
        }
        let now = self.now();
        let link = link_of_webhook(&body)?;
        self.story.tell(&link, now, || format!("webhook  {family} {code}"));
        self.relink.receive(InputKind::Webhook, link, body);
        Ok(())
    }

    /// The customer's application reports an error of Belvo's API.
    pub(super) fn report(&mut self, number: usize, error: &ApiError) -> anyhow::Result<()> {
        let code = error.body.get(0).and_then(|item| item.get("code")).and_then(|code| code.as_str());
        if error.http_status == 428 || code == Some("invalid_link") {
            self.checker.naively_broken(number);
        }
        let (link, now) = (self.members[number].link.clone(), self.now());
        self.story.tell(&link, now, || format!("error    {} {code:?}", error.http_status));
        self.relink.receive(InputKind::ApiError, link, serde_json::to_vec(error)?);
        Ok(())
    }
}
