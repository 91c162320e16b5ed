//! The historical refresh that follows a repair: what has come, what is asked for again, and when it is given up.

use super::draft::{Draft, Next};
use super::{Asks, Data, Effect, Gap, Job, Month, Notice, Refresh, Refusal, State};

impl Draft<'_> {
    pub(super) fn count_arrival(&mut self, data: &Data) {
        let Some(refresh) = &mut self.link.refresh else { return };
        refresh.arrived = with_arrival(std::mem::take(&mut refresh.arrived), data);
        // Where the fetched resources are not known, the first to come is all there is to go by.
        if self.missing_resources().is_empty() {
            self.close_refresh();
        }
    }

    pub(super) fn missing_resources(&self) -> Vec<String> {
        let arrived = self.link.refresh.as_ref().map_or(&[][..], |refresh| &refresh.arrived);
        let fetched = self.link.profile.fetch_resources.iter();
        fetched.filter(|resource| !arrived.contains(resource)).cloned().collect()
    }

    pub(super) fn close_refresh(&mut self) {
        let missing = self.missing_resources();
        if let Some(Refresh { gap_from, gap_to, arrived, .. }) = self.link.refresh.take() {
            let gap = Gap { from: gap_from, to: gap_to };
            self.tell(Notice::Refreshed { gap, arrived, missing }, None);
        }
    }

    pub(super) fn note_refresh_accepted(&mut self, state: State) -> Next {
        let until = self.now.after(self.policy.settings().refresh_wait);
        match &mut self.link.refresh {
            Some(refresh) if refresh.until < until => {
                refresh.asked = true;
                refresh.until = until;
                Ok(state)
            }
            Some(_) | None => Err(Refusal::AlreadyKnown),
        }
    }

    /// The refresh did not come in time: ask for what is missing while that is worth it, then report what came, or that
    /// nothing did.
    pub(super) fn pass_refresh_deadline(&mut self) {
        let Some(refresh) = &self.link.refresh else { return };
        let (asked, since) = (refresh.asked, refresh.gap_from);
        let nothing_came = refresh.arrived.is_empty();
        // Where something came, the rest most likely has nothing new, which is not worth a consent's quota.
        let is_worth_it = nothing_came || self.link.profile.consent.is_none();
        let settings = self.policy.settings();
        let has_no_share = self.link.profile.consent.is_some() && settings.consent_refreshes_max == 0;
        let never_asks = has_no_share || self.link.refresh_needs_token;
        let has_rounds = refresh.rounds_count < settings.refresh_attempts_max && !never_asks;
        if has_rounds && is_worth_it && self.policy.can_verify() {
            let missing = if nothing_came { Vec::new() } else { self.missing_resources() };
            self.ask_for_refresh(missing);
        } else if nothing_came {
            self.link.refresh = None;
            // Nothing after a repair is legal if Belvo found nothing new, so only a refresh we asked for is missed.
            if asked {
                self.tell(Notice::Silent { since }, None);
            }
        } else {
            self.close_refresh();
        }
    }

    /// Asks Belvo for a refresh of these resources, or of all; if the month's quota is used up, when it is over.
    pub(super) fn ask_for_refresh(&mut self, resources: Vec<String>) {
        let month = Month::of(self.now);
        let settings = self.policy.settings();
        let has_quota = self.link.profile.consent.is_some();
        let asks = &mut self.link.asks;
        if has_quota && asks.month != month {
            *asks = Asks { month, count: 0, ..*asks };
        }
        let own_limit = (has_quota && asks.count >= settings.consent_refreshes_max).then(|| month.end());
        let belvos_limit = asks.refused_until.filter(|&until| self.now < until);
        let Some(refresh) = &mut self.link.refresh else { return };
        if let Some(until) = own_limit.max(belvos_limit) {
            refresh.until = until;
            return;
        }
        asks.count += u32::from(has_quota);
        refresh.asked = true;
        refresh.rounds_count += 1;
        refresh.until = self.now.after(settings.refresh_wait);
        self.effects.push(Effect::Job(Job::Refresh { resources }));
    }

    /// Belvo refuses for the month's quota: a refresh that it did not take is asked for again when the month is over.
    pub(super) fn note_quota(&mut self, state: State, of_refresh: bool) -> Next {
        let until = Month::of(self.now).end();
        let known = self.link.asks.refused_until.replace(until) == Some(until);
        match &mut self.link.refresh {
            Some(refresh) if of_refresh && refresh.asked && refresh.until < until => {
                refresh.rounds_count = refresh.rounds_count.saturating_sub(1);
                refresh.until = until;
            }
            Some(_) | None if known => return Err(Refusal::AlreadyKnown),
            Some(_) | None => {}
        }
        Ok(state)
    }
}

/// The arrivals, sorted, with one more.
pub(super) fn with_arrival(mut arrived: Vec<String>, data: &Data) -> Vec<String> {
    if let Err(place) = arrived.binary_search(&data.resource) {
        arrived.insert(place, data.resource.clone());
    }
    arrived
}
