//! The repair of a link, and the data after it.

use uuid::Uuid;

use crate::bank_answer::BankAnswer;
use crate::link::{AccessMode, LinkStatus};
use crate::webhook::Webhook;
use crate::world::World;

impl World {
    /// Makes the link valid: resets its errors and voids open sessions.
    pub(crate) fn make_valid(&mut self, now: i64, id: Uuid) {
        self.close_session(id);
        let Some(link) = self.links.get_mut(&id) else { return };
        link.status = LinkStatus::Valid;
        link.login = BankAnswer::Works;
        link.failed_logins = 0;
        link.last_accessed_at = Some(now);
        link.stored_at = now;
    }

    /// Handles the user's success in the widget: the link is valid, and the webhooks of a creation or a repair follow.
    pub(crate) fn repair(&mut self, now: i64, id: Uuid) {
        let first = self.links.get(&id).is_some_and(|link| link.status == LinkStatus::Unconfirmed);
        self.make_valid(now, id);
        if first {
            self.collect(now, id);
        } else {
            self.refresh_if_recurrent(now, id);
        }
    }

    /// After a repair Belvo refreshes a recurrent link, and sends webhooks only if it finds new data.
    pub(crate) fn refresh_if_recurrent(&mut self, now: i64, id: Uuid) {
        let recurrent =
            self.links.get(&id).is_some_and(|link| link.access_mode == AccessMode::Recurrent && link.fresh_data);
        if recurrent {
            self.collect(now, id);
        }
    }

    /// Posts the `historical_update` webhooks of all the link's resources; returns the refresh's request id.
    pub(crate) fn collect(&mut self, now: i64, id: Uuid) -> Uuid {
        let request_id = self.uuid();
        let resources = self.links.get(&id).map(|link| link.fetch_resources.clone()).unwrap_or_default();
        self.post_historical(now, id, resources, request_id);
        request_id
    }

    /// Posts one `historical_update` webhook per resource; from then on the data can be listed.
    pub(crate) fn post_historical(&mut self, now: i64, id: Uuid, resources: Vec<String>, request_id: Uuid) {
        let Some(link) = self.links.get_mut(&id) else { return };
        let webhooks = Webhook::historical(link, &resources, request_id, now);
        link.collected.extend(resources);
        let due_at = now + self.rules.data_delay_ms;
        for webhook in webhooks {
            self.post(due_at, now, webhook);
        }
    }
}
