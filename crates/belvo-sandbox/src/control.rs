//! The control API in process: actions of banks, users and Belvo's schedule that no API of Belvo offers.
//!
//! A handle is cheap to clone, and its calls take effect immediately. [`super::control_index`] is the same over HTTP; the manual clock
//! and manual deliveries are in [`super::drive`].

use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;
use serde_json::Value;
use uuid::Uuid;

use crate::bank::{NewLink, RefreshOutcome};
use crate::bank_answer::BankAnswer;
use crate::consent::ConsentLack;
use crate::error::ControlError;
use crate::fault::{ApiAnswer, ApiFault, ArmedApiFault, WebhookFault};
use crate::institution::{Access, Institution};
use crate::link::{AccessMode, Link, LinkStatus};
use crate::login::Login;
use crate::outbox::{Delivery, QueuedWebhook};
use crate::quota::QuotaUse;
use crate::shared::Shared;
use crate::webhook::{Correction, PayloadShape, Webhook};
use crate::world::{Target, World};

/// A webhook with any family and code, to be sent by a test.
#[derive(Clone, Debug, Default)]
pub struct NewWebhook {
    /// The family, such as `LINK`.
    pub webhook_type: String,
    /// The code.
    pub webhook_code: String,
    /// `historical_update`, `recurrent_update`, or left out.
    pub process_type: Option<String>,
    /// The id of the refresh; a new id if `None`.
    pub request_id: Option<Uuid>,
    /// The data; an empty object if null.
    pub data: Value,
    /// The delay before it is sent.
    pub delay: Duration,
}

/// A handle on a sandbox.
#[derive(Clone, Debug)]
pub struct Control {
    pub(super) shared: Arc<Shared>,
}

impl Control {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Adds a link that a user has just connected: it is valid, and its `historical_update` webhooks follow.
    pub fn create_link(
        &self,
        institution: &str,
        access_mode: AccessMode,
        external_id: Option<&str>,
    ) -> Result<Uuid, ControlError> {
        let new = new_link(institution, access_mode, external_id)?;
        Ok(self.shared.change(|world, now| {
            let id = world.add_link(now, new);
            world.collect(now, id);
            id
        }))
    }

    /// Adds a link that was connected earlier: it is valid, and no webhook follows.
    pub fn add_link(
        &self,
        institution: &str,
        access_mode: AccessMode,
        external_id: Option<&str>,
    ) -> Result<Uuid, ControlError> {
        let new = new_link(institution, access_mode, external_id)?;
        Ok(self.shared.change(|world, now| world.add_link(now, new)))
    }

    /// The user of a link connects the bank anew, with the same login: a new link, created after the old one. It is
    /// valid, and its `historical_update` webhooks follow.
    pub fn connect_anew(&self, link: Uuid) -> Result<Uuid, ControlError> {
        self.shared.change(|world, now| {
            let id = world.connect_anew(now, link)?;
            world.collect(now, id);
            Ok(id)
        })
    }

    /// Like [`Self::connect_anew`], without a webhook, as if it had been connected earlier.
    pub fn add_link_of_same_user(&self, link: Uuid) -> Result<Uuid, ControlError> {
        self.shared.change(|world, now| world.connect_anew(now, link))
    }

    /// Refreshes a link as Belvo's scheduler does; returns the request id of its webhooks.
    pub fn scheduled_refresh(&self, link: Uuid, outcome: RefreshOutcome) -> Result<Uuid, ControlError> {
        self.shared.change(|world, now| world.scheduled_refresh(now, link, outcome))
    }

    /// Sets Belvo's status without a webhook.
    pub fn set_status(&self, link: Uuid, status: LinkStatus) -> Result<(), ControlError> {
        self.with_link(link, |link| {
            link.status = status;
            if status == LinkStatus::Valid {
                link.login = BankAnswer::Works;
                link.failed_logins = 0;
            }
        })
    }

    /// Belvo's status of a link now.
    pub fn status_of(&self, link: Uuid) -> Result<LinkStatus, ControlError> {
        self.read_link(link, |link| link.status)
    }

    /// Sets the bank's answer to the next logins. The status changes when a login is attempted.
    pub fn set_login(&self, link: Uuid, login: Login) -> Result<(), ControlError> {
        let answer = BankAnswer::of(login)?;
        self.with_link(link, |link| link.login = answer)
    }

    /// Sets whether refreshes find new data. Without new data no webhook follows a repair.
    pub fn set_fresh_data(&self, link: Uuid, fresh: bool) -> Result<(), ControlError> {
        self.with_link(link, |link| link.fresh_data = fresh)
    }

    /// The monthly limits of a link with a consent and their use; a link without a consent has no limits.
    pub fn quotas(&self, link: Uuid) -> Result<Vec<QuotaUse>, ControlError> {
        let now = self.now_ms();
        self.read_link(link, |link| {
            let is_limited = link.institution.access == Access::Consent;
            if is_limited { link.quota.uses(now) } else { Vec::new() }
        })
    }

    /// Repairs a link as its user does, but without the widget: with new credentials or, if it has a
    /// consent, with [`Self::renew_consent`].
    pub fn repair(&self, link: Uuid) -> Result<(), ControlError> {
        self.shared.change(|world, now| {
            let access = world.links.get(&link).ok_or(ControlError::NoSuchLink(link))?.institution.access;
            if access == Access::Consent {
                return world.renew_consent(now, link);
            }
            world.repair(now, link);
            Ok(())
        })
    }

    /// A link as `GET /api/links/{id}/` shows it.
    pub fn link(&self, link: Uuid) -> Result<Value, ControlError> {
        self.read_link(link, Link::to_json)
    }

    /// All links, the oldest first.
    pub fn links(&self) -> Vec<Value> {
        let world = self.shared.world();
        let mut links: Vec<&Link> = world.links.values().collect();
        links.sort_unstable_by_key(|link| link.seq);
        links.into_iter().map(Link::to_json).collect()
    }

    /// All links as [`Self::restore_link`] reads them: as of [`Self::links`], each with its consent.
    pub fn kept_links(&self) -> Vec<Value> {
        let world = self.shared.world();
        let mut links: Vec<&Link> = world.links.values().collect();
        links.sort_unstable_by_key(|link| link.seq);
        let kept = |link: &Link| {
            let mut kept = link.to_json();
            if let Some(consent) = world.consents.get(&link.id) {
                kept["consent"] = consent.kept();
            }
            kept
        };
        links.into_iter().map(kept).collect()
    }

    /// Sets the end of the consent to `within` from now: CONSENT/`openfinance_consent_about_to_expire`.
    pub fn consent_about_to_expire(&self, link: Uuid, within: Duration) -> Result<(), ControlError> {
        self.shared.change(|world, now| world.consent_about_to_expire(now, link, within))
    }

    /// Ends the consent: CONSENT/`openfinance_consent_expired`.
    pub fn expire_consent(&self, link: Uuid) -> Result<(), ControlError> {
        self.shared.change(|world, now| world.expire_consent(now, link))
    }

    /// Makes some resources of the consent unavailable: CONSENT/`openfinance_consent_with_*_resources`.
    pub fn lose_consent_resources(&self, link: Uuid, lack: ConsentLack) -> Result<(), ControlError> {
        self.shared.change(|world, now| world.lose_resources(now, link, lack))
    }

    /// Corrects transactions at the bank: TRANSACTIONS/`transactions_updated` or `transactions_deleted`.
    pub fn correct_transactions(&self, link: Uuid, correction: Correction) -> Result<(), ControlError> {
        self.shared.change(|world, now| {
            let request_id = world.uuid();
            let link = world.links.get(&link).ok_or(ControlError::NoSuchLink(link))?;
            let webhook = Webhook::corrected(link, correction, request_id);
            world.post(now, now, webhook);
            Ok(())
        })
    }

    /// How many widget tokens were minted since the start, for all links.
    pub fn tokens_minted_count(&self) -> u64 {
        self.shared.world().minted_count
    }

    /// Renews the consent, as the user does in Belvo's portal.
    pub fn renew_consent(&self, link: Uuid) -> Result<(), ControlError> {
        self.shared.change(|world, now| world.renew_consent(now, link))
    }

    /// The monthly wipe: deletes every link without a webhook. Returns their number.
    pub fn wipe(&self) -> usize {
        self.shared.change(|world, now| {
            let count = world.wipe();
            world.plan_wipe(now);
            count
        })
    }

    /// The next `count` webhooks have this fault.
    pub fn fail_webhooks(&self, fault: WebhookFault, count: usize) {
        self.shared.world().faults.arm_webhook(fault, count);
    }

    /// The next `count` calls whose `METHOD /path` contains `on` (empty: any) have this fault.
    pub fn fail_api(&self, fault: ApiFault, count: usize, on: &str) -> Result<(), ControlError> {
        let answer = ApiAnswer::of(fault)?;
        self.shared.world().faults.arm_api(ArmedApiFault { answer, left: count, on: on.to_owned() });
        Ok(())
    }

    /// Removes all pending faults. Webhooks that wait to be reordered are lost.
    pub fn clear_faults(&self) {
        self.shared.change(|world, _| {
            world.faults.clear();
            world.outbox.let_go();
        });
    }

    /// Sets the URL that receives webhooks; with `None` they are recorded and not sent.
    pub fn set_webhook(&self, url: Option<String>, authorization: Option<SecretString>) {
        let target = url.map(|url| Target { url, authorization });
        self.shared.change(|world, _| world.target = target);
    }

    /// Sets the generation of the following webhook bodies.
    pub fn set_payload_shape(&self, shape: PayloadShape) {
        self.shared.change(|world, _| world.shape = shape);
    }

    /// Sends this webhook. The link need not exist, and its status does not change.
    pub fn send_webhook(&self, link: Uuid, new: NewWebhook) {
        self.shared.change(|world, now| {
            let request_id = new.request_id.unwrap_or_else(|| world.uuid());
            let webhook = Webhook {
                webhook_type: new.webhook_type,
                process_type: new.process_type,
                webhook_code: new.webhook_code,
                link_id: link,
                request_id: Some(request_id),
                external_id: world.links.get(&link).and_then(|link| link.external_id.clone()),
                data: if new.data.is_null() { Value::Object(serde_json::Map::new()) } else { new.data },
            };
            world.post(now + super::clock::millis(new.delay), now, webhook);
        });
    }

    /// Sends the body of an earlier delivery again, byte for byte, after `delay`.
    pub fn replay(&self, delivery: u64, delay: Duration) -> Result<(), ControlError> {
        self.shared.change(|world, now| {
            let found = world.outbox.deliveries_after(delivery.saturating_sub(1)).next();
            let found =
                found.filter(|found| found.seq == delivery).cloned().ok_or(ControlError::NoSuchDelivery(delivery))?;
            let queued = QueuedWebhook {
                webhook_id: found.webhook_id,
                link_id: found.link_id,
                webhook_type: found.webhook_type,
                webhook_code: found.webhook_code,
                body: found.body,
                attempt: 1,
            };
            world.enqueue(now + super::clock::millis(delay), queued);
            Ok(())
        })
    }

    /// All delivery attempts after number `after`, in order.
    pub fn deliveries(&self, after: u64) -> Vec<Delivery> {
        self.shared.world().outbox.deliveries_after(after).cloned().collect()
    }

    /// At most `limit` delivery attempts after number `after`, in order.
    pub fn deliveries_page(&self, after: u64, limit: usize) -> Vec<Delivery> {
        self.shared.world().outbox.deliveries_after(after).take(limit).cloned().collect()
    }

    /// Waits for the first delivery attempt after number `after` that matches.
    pub async fn wait_for_delivery(
        &self,
        after: u64,
        wanted: impl Fn(&Delivery) -> bool,
    ) -> Result<Delivery, ControlError> {
        self.wait(|world| world.outbox.deliveries_after(after).find(|found| wanted(found)).cloned()).await
    }

    /// Waits until no webhook is queued or in transit, retries included.
    pub async fn outbox_idle(&self) -> Result<(), ControlError> {
        self.wait(|world| world.outbox.is_idle().then_some(())).await
    }

    /// Drops all queued webhooks.
    pub fn clear_webhooks(&self) {
        self.shared.change(|world, _| world.outbox.clear());
    }

    async fn wait<T>(&self, found: impl Fn(&World) -> Option<T>) -> Result<T, ControlError> {
        let mut changed = self.shared.changed.subscribe();
        loop {
            let answer = found(&self.shared.world());
            if let Some(answer) = answer {
                return Ok(answer);
            }
            tokio::select! {
                _ = changed.changed() => {}
                () = self.shared.stop.cancelled() => return Err(ControlError::Stopped),
            }
        }
    }

    fn read_link<T>(&self, id: Uuid, read: impl FnOnce(&Link) -> T) -> Result<T, ControlError> {
        self.shared.world().links.get(&id).map(read).ok_or(ControlError::NoSuchLink(id))
    }

    fn with_link<T>(&self, id: Uuid, change: impl FnOnce(&mut Link) -> T) -> Result<T, ControlError> {
        self.shared.change(|world, _| world.links.get_mut(&id).map(change).ok_or(ControlError::NoSuchLink(id)))
    }
}

fn new_link(name: &str, access_mode: AccessMode, external_id: Option<&str>) -> Result<NewLink, ControlError> {
    let institution = Institution::find(name).ok_or_else(|| ControlError::NoSuchInstitution(name.to_owned()))?;
    Ok(NewLink::plain(institution, access_mode, external_id.map(str::to_owned)))
}
