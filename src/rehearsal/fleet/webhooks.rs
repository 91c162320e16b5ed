//! The network between Belvo and the customer: webhooks can be lost, late, duplicated or out of order, and the receiver can be down.
//!
//! relink and the handler without relink receive the same webhooks.

use belvo_sandbox::{DeliveryOutcome, TakenWebhook};

use super::rates::{Draw, FATES, IN_TRANSIT};
use super::state::{FleetEvent, InTransit, Simulation};
use crate::belvo::link_of_webhook;
use crate::contract::{ApiError, InputKind};

impl Simulation {
    /// Sends a webhook, which may be lost, late or duplicated.
    pub(super) fn post(&mut self, webhook: TakenWebhook) -> anyhow::Result<()> {
        let in_transit = InTransit {
            link: webhook.link_id,
            family: webhook.webhook_type.clone(),
            code: webhook.webhook_code.clone(),
            body: serde_json::to_vec(&webhook.body)?,
        };
        if let Some(&number) = self.index.get(&in_transit.link) {
            self.update_truth(number);
        }
        self.webhooks_sent += 1;
        let outcome = DeliveryOutcome::Answered(if self.receiver_is_down { 503 } else { 200 });
        self.control.record_outcome(webhook, outcome);
        if self.receiver_is_down {
            return Ok(());
        }
        let fate = self.rng.pick(FATES.iter().map(|fate| fate.0));
        let arrivals = if self.is_final_phase() { &[IN_TRANSIT] } else { FATES[fate].1 };
        for span in arrivals {
            let span = self.rng.between(*span);
            self.plan_in(span, FleetEvent::Arrival(Box::new(in_transit.clone())));
        }
        Ok(())
    }

    /// Handles the arrival of a webhook.
    pub(super) fn arrive(&mut self, webhook: InTransit) -> anyhow::Result<()> {
        let InTransit { link, family, code, body } = webhook;
        if let Some(&number) = self.index.get(&link) {
            match (family.as_str(), code.as_str()) {
                ("LINK", "invalid_credentials" | "token_required") | ("CONSENT", "openfinance_consent_expired") => {
                    self.baseline_broken(number);
                }
                ("LINK" | "CONSENT", _) => {}
                (_data, _) => self.checker.baseline_works(number),
            }
        }
        let now = self.now();
        let link = link_of_webhook(&body)?;
        self.link_log.log(&link, now, || format!("webhook  {family} {code}"));
        self.relink.receive(InputKind::Webhook, link, body);
        Ok(())
    }

    /// A handler without relink receives evidence, and prompts.
    fn baseline_broken(&mut self, number: usize) {
        let (circumstances, now) = (self.circumstances(number), self.now());
        self.checker.baseline_broken(number, circumstances, now);
    }

    /// The customer's application reports an error of Belvo's API to relink.
    pub(super) fn report(&mut self, number: usize, error: &ApiError) -> anyhow::Result<()> {
        let code = error.body.get(0).and_then(|item| item.get("code")).and_then(|code| code.as_str());
        if error.http_status == 428 || code == Some("invalid_link") {
            self.baseline_broken(number);
        }
        let (link, now) = (self.members[number].link.clone(), self.now());
        self.link_log.log(&link, now, || format!("error    {} {code:?}", error.http_status));
        self.relink.receive(InputKind::ApiError, link, serde_json::to_vec(error)?);
        Ok(())
    }
}
